package scheduler

import (
	"math/bits"
	"time"
)

// Next returns the first due time after the given one, in UTC; false: there is none
// any more.
func (s Spec) Next(after time.Time) (time.Time, bool) {
	if after.Before(s.start) {
		after = s.start.Add(-1)
	}
	for range maxExcluded {
		next, ok := s.due(after)
		if !ok || !s.end.IsZero() && !next.Before(s.end) {
			return time.Time{}, false
		}
		if len(s.exclude) == 0 {
			return next, true
		}
		free, ok := s.free(next)
		if !ok || free.Equal(next) {
			return next, ok
		}
		after = free.Add(-1)
	}
	return time.Time{}, false
}

// due is Next without start, end and exclusions.
func (s Spec) due(after time.Time) (time.Time, bool) {
	switch {
	case !s.at.IsZero():
		return s.at, s.at.After(after)
	case s.every > 0:
		return s.nextEvery(after)
	case s.wall != nil:
		return s.nextReading(after)
	}
	return time.Time{}, false
}

func (s Spec) nextEvery(after time.Time) (time.Time, bool) {
	period, offset := int64(s.every/time.Second), int64(s.offset/time.Second)
	since := after.Unix() - offset
	count := since / period
	if since < 0 && since%period != 0 {
		count-- // towards the past, not towards the epoch
	}
	next := time.Unix((count+1)*period+offset, 0).UTC()
	return next, next.Year() <= latest
}

// nextReading goes through the spans of constant offset from UTC, since inside of
// one the wall clock is plain arithmetic.
func (s Spec) nextReading(after time.Time) (time.Time, bool) {
	for at := time.Unix(after.Unix()+1, 0); ; {
		span := spanAt(at, s.zone)
		next, ok := span.first(s.wall, s.rule, at)
		switch {
		case !ok || next.Year() > latest:
			return time.Time{}, false
		case span.covers(next):
			return next, true
		}
		at = span.leave(at, next)
	}
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

func (s span) covers(at time.Time) bool { return s.end.IsZero() || at.Before(s.end) }

// day counts the days of the wall clock since 1970-01-01.
func (s span) day(at time.Time) int {
	seconds := at.Unix() + int64(s.offset/time.Second)
	day := seconds / secondsPerDay
	if seconds%secondsPerDay < 0 {
		day--
	}
	return int(day)
}

// leave returns where a search goes on that was at the given time and found, by the
// offset of this span, nothing before next. Spans that end long before are passed
// over: no change of a clock comes near to two days.
func (s span) leave(at, next time.Time) time.Time {
	const two = 48 * time.Hour
	if near := next.Add(-two); s.end.Sub(at) >= two && near.After(s.end) {
		return near
	}
	return s.end
}

// clockRule says what becomes of readings that a change of the clock skips or repeats.
type clockRule struct {
	makeUp bool // skipped ones fire, once and together, at the end of the gap
	repeat bool // repeated ones fire again
}

// first returns the first due time that is not before at, as far as the offset of
// the span holds: beyond the span's end it is an estimate. Readings of
// the wall clock are kept as times in UTC.
func (s span) first(f *fields, r clockRule, at time.Time) (time.Time, bool) {
	reading := at.UTC().Add(s.offset)
	if !s.start.IsZero() {
		start := s.start.UTC()
		from, to := start.Add(s.before), start.Add(s.offset)
		if r.makeUp && !at.After(s.start) && from.Before(to) { // readings from..to are skipped
			if skipped, ok := f.next(from); ok && skipped.Before(to) {
				return start, true
			}
		}
		if !r.repeat && reading.Before(from) { // readings to..from were shown before
			reading = from
		}
	}
	due, ok := f.next(reading)
	return due.Add(-s.offset), ok
}

// searchYears is longer than any reading waits: 29 February on one day of the week,
// over a year that is a multiple of 100.
const searchYears = 41

// fields are the sets of a cron expression or of a calendar, a bit per value.
type fields struct {
	second, minute, hour, dom, month, dow uint64
	fromEnd                               uint64          // days of the month counted from its end; the last is 1
	times                                 []time.Duration // of day, in order; not nil: instead of second, minute and hour
	anyDom, anyDow                        bool            // either: both day fields must match, not one of them
	everyHour                             bool
}

// next returns the first matching reading that is not before from, both in UTC
// and in whole seconds.
func (f *fields) next(from time.Time) (time.Time, bool) {
	year, month, day := from.Date()
	days := f.days(year, month)
	if days>>day&1 == 1 {
		if clock, ok := f.clockFrom(from.Clock()); ok {
			return time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Add(clock), true
		}
	}
	clock, ok := f.clockFrom(0, 0, 0)
	if !ok {
		return time.Time{}, false
	}
	for last := year + searchYears; year <= last; day = 0 {
		if next, ok := lowest(days, day+1); ok {
			return time.Date(year, month, next, 0, 0, 0, 0, time.UTC).Add(clock), true
		}
		if month++; month > time.December {
			year, month = year+1, time.January
		}
		days = f.days(year, month)
	}
	return time.Time{}, false
}

// days returns the matching days of a month, a bit per day.
func (f *fields) days(year int, month time.Month) uint64 {
	if f.month>>uint(month)&1 == 0 {
		return 0
	}
	const everyWeek = 1 | 1<<7 | 1<<14 | 1<<21 | 1<<28
	length := daysIn(year, month)
	dom := f.dom
	for left := f.fromEnd; left != 0; left &= left - 1 {
		if n := bits.TrailingZeros64(left); n <= length {
			dom |= 1 << (length - n + 1)
		}
	}
	var dow uint64
	first := weekdayOfFirst(year, month)
	for left := f.dow; left != 0; left &= left - 1 {
		dow |= everyWeek << ((bits.TrailingZeros64(left)-first+7)%7 + 1)
	}
	matching := dom | dow
	if f.anyDom || f.anyDow {
		matching = dom & dow
	}
	return matching & (1<<(length+1) - 2)
}

func daysIn(year int, month time.Month) int {
	switch month {
	case time.February:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case time.April, time.June, time.September, time.November:
		return 30
	}
	return 31
}

// weekdayOfFirst is the day of the week, Sunday being 0, of a month's first day
// (Sakamoto's method).
func weekdayOfFirst(year int, month time.Month) int {
	if month < time.March {
		year--
	}
	return (year + year/4 - year/100 + year/400 + int("bed=pen+mad."[month-1]) + 1) % 7
}

// clockFrom returns the first matching time of day that is not before h:m:s.
func (f *fields) clockFrom(h, m, s int) (time.Duration, bool) {
	if f.times != nil {
		for _, at := range f.times {
			if at >= clock(h, m, s) {
				return at, true
			}
		}
		return 0, false
	}
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
