package scheduler

import (
	"math/bits"
	"time"

	"github.com/robfig/cron/v3"
)

// Next returns the first due time after the given one, in UTC; false: there is none
// any more.
func (s Spec) Next(after time.Time) (time.Time, bool) {
	switch {
	case !s.at.IsZero():
		return s.at, s.at.After(after)
	case s.every > 0:
		return s.nextEvery(after)
	case s.cron != nil:
		return s.nextCron(after)
	}
	return time.Time{}, false
}

func (s Spec) nextEvery(after time.Time) (time.Time, bool) {
	period := int64(s.every / time.Second)
	count := after.Unix() / period
	if after.Unix() < 0 && after.Unix()%period != 0 {
		count-- // towards the past, not towards the epoch
	}
	next := time.Unix((count+1)*period, 0).UTC()
	return next, next.Year() <= latest
}

// nextCron goes through the spans of constant offset from UTC, since inside of
// one the wall clock is plain arithmetic.
func (s Spec) nextCron(after time.Time) (time.Time, bool) {
	at := time.Unix(after.Unix()+1, 0)
	for last := at.Year() + searchYears; at.Year() <= last; {
		span := spanAt(at, s.zone)
		if next, ok := span.first(s.cron, at); ok {
			return next, next.Year() <= latest
		}
		if span.end.IsZero() {
			break
		}
		at = span.end
	}
	return time.Time{}, false
}

// span is a stretch of time with one offset. Zero start or end: open.
type span struct {
	start, end time.Time
	offset     time.Duration // of the wall clock from UTC
	before     time.Duration // the offset before start
}

func spanAt(at time.Time, zone *time.Location) span {
	local := at.In(zone)
	_, seconds := local.Zone()
	s := span{offset: time.Duration(seconds) * time.Second}
	s.before = s.offset
	s.start, s.end = local.ZoneBounds()
	// Beyond the tables of a zone the bounds that Go derives from its rule are wrong on the last day
	// of leap years: the span ends before it. Any end after at will do, since the
	// search goes on from there.
	if !s.end.IsZero() && !s.end.After(at) {
		s.end = at.Add(time.Hour)
	}
	if s.start.After(at) {
		s.start = time.Time{}
	}
	if !s.start.IsZero() {
		_, seconds = s.start.Add(-time.Second).Zone()
		s.before = time.Duration(seconds) * time.Second
	}
	return s
}

// first returns the first due time of the span that is not before at. Readings of
// the wall clock are kept as times in UTC.
func (s span) first(f *fields, at time.Time) (time.Time, bool) {
	reading := at.UTC().Add(s.offset)
	if !f.everyHour && !s.start.IsZero() {
		start := s.start.UTC()
		from, to := start.Add(s.before), start.Add(s.offset)
		if !at.After(s.start) && from.Before(to) { // readings from..to are skipped
			if skipped, ok := f.next(from); ok && skipped.Before(to) {
				return start, true
			}
		}
		if reading.Before(from) { // readings to..from were shown before
			reading = from
		}
	}
	due, ok := f.next(reading)
	if !ok {
		return time.Time{}, false
	}
	due = due.Add(-s.offset)
	if !s.end.IsZero() && !due.Before(s.end) {
		return time.Time{}, false
	}
	return due, true
}

// searchYears is longer than any expression waits: 29 February, over the years
// 2096 to 2104.
const searchYears = 9

// fields are the sets of a cron expression, a bit per value.
type fields struct {
	second, minute, hour, dom, month, dow uint64
	anyDom, anyDow                        bool
	everyHour                             bool
}

const starBit = 1 << 63 // how the parser marks a field written as *

func newFields(p *cron.SpecSchedule) *fields {
	const allHours = 1<<24 - 1
	return &fields{
		second: p.Second &^ starBit, minute: p.Minute &^ starBit, hour: p.Hour &^ starBit,
		dom: p.Dom &^ starBit, month: p.Month &^ starBit, dow: p.Dow &^ starBit,
		anyDom: p.Dom&starBit != 0, anyDow: p.Dow&starBit != 0,
		everyHour: p.Hour&allHours == allHours,
	}
}

// next returns the first matching reading that is not before from, both in UTC
// and in whole seconds.
func (f *fields) next(from time.Time) (time.Time, bool) {
	year, month, day := from.Date()
	if f.dayMatches(from) {
		if clock, ok := f.clockFrom(from.Clock()); ok {
			return time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Add(clock), true
		}
	}
	clock, ok := f.clockFrom(0, 0, 0)
	if !ok {
		return time.Time{}, false
	}
	date := time.Date(year, month, day+1, 0, 0, 0, 0, time.UTC)
	for last := year + searchYears; date.Year() <= last; {
		switch {
		case f.month>>uint(date.Month())&1 == 0:
			date = time.Date(date.Year(), date.Month()+1, 1, 0, 0, 0, 0, time.UTC)
		case !f.dayMatches(date):
			date = date.AddDate(0, 0, 1)
		default:
			return date.Add(clock), true
		}
	}
	return time.Time{}, false
}

func (f *fields) dayMatches(t time.Time) bool {
	if f.month>>uint(t.Month())&1 == 0 {
		return false
	}
	dom, dow := f.dom>>uint(t.Day())&1 == 1, f.dow>>uint(t.Weekday())&1 == 1
	if f.anyDom || f.anyDow {
		return dom && dow
	}
	return dom || dow
}

// clockFrom returns the first matching time of day that is not before h:m:s.
func (f *fields) clockFrom(h, m, s int) (time.Duration, bool) {
	if f.hour>>h&1 == 1 {
		if f.minute>>m&1 == 1 {
			if second, ok := lowest(f.second, s); ok {
				return clock(h, m, second), true
			}
		}
		if minute, ok := lowest(f.minute, m+1); ok {
			second, ok := lowest(f.second, 0)
			return clock(h, minute, second), ok
		}
	}
	hour, ok := lowest(f.hour, h+1)
	minute, okM := lowest(f.minute, 0)
	second, okS := lowest(f.second, 0)
	return clock(hour, minute, second), ok && okM && okS
}

func clock(h, m, s int) time.Duration {
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second
}

// lowest returns the smallest member of set that is at least from.
func lowest(set uint64, from int) (int, bool) {
	set = set >> from << from
	return bits.TrailingZeros64(set), set != 0
}
