package scheduler

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	ics "github.com/arran4/golang-ical"
	"github.com/teambition/rrule-go"

	"github.com/catena-run/catena/task"
)

// Bounds of an iCalendar text.
const (
	maxICal       = 4 << 20 // bytes
	maxICalEvents = 10_000
	maxICalDays   = 100_000 // days of all events
	lastICalYear  = 2099    // events that recur for ever are written out until then
)

// ParseICal reads an iCalendar text (RFC 5545) into the entries of a calendar: the
// days that its events touch, each event in its own time zone. Yearly, monthly,
// weekly and daily recurrences are written out, those without an end until 2099;
// cancelled events are left out. An error names the event.
func ParseICal(text string) ([]string, error) {
	if len(text) > maxICal {
		return nil, invalid("ical", "the file has %d bytes", len(text)).Fix("use at most %d", maxICal)
	}
	parsed, err := ics.ParseCalendar(strings.NewReader(text))
	if err == nil && !strings.Contains(text, "BEGIN:VCALENDAR") {
		err = errors.New("nothing begins")
	}
	if err != nil {
		return nil, invalid("ical", "this is not iCalendar: %v", err).Fix("use a file that begins with BEGIN:VCALENDAR")
	}
	events := parsed.Events()
	if len(events) == 0 {
		return nil, invalid("ical", "the calendar has no event").Fix("use a file with a VEVENT for each day or span of days")
	}
	if len(events) > maxICalEvents {
		return nil, invalid("ical", "%d events are too many", len(events)).Fix("use at most %d", maxICalEvents)
	}
	found := icalDays{moved: movedInstances(events)}
	for i, event := range events {
		if err := found.add(event); err != nil {
			return nil, invalid("ical", "event %d%s: %s", i+1, summary(event), err.Message).Fix("%s", err.Remedy)
		}
	}
	return found.entries(), nil
}

func summary(event *ics.VEvent) string {
	p := event.GetProperty(ics.ComponentPropertySummary)
	if p == nil || p.Value == "" {
		return ""
	}
	text := []rune(strings.ToValidUTF8(p.Value, "?"))
	return " (" + string(text[:min(len(text), 60)]) + ")"
}

func value(event *ics.VEvent, property ics.ComponentProperty) string {
	if p := event.GetProperty(property); p != nil {
		return p.Value
	}
	return ""
}

// movedInstances returns, by the id of a recurring event, the instances that other
// events stand for.
func movedInstances(events []*ics.VEvent) map[string][]time.Time {
	moved := map[string][]time.Time{}
	for _, event := range events {
		if p := event.GetProperty(ics.ComponentPropertyRecurrenceId); p != nil {
			if at, _, ok := icalTime(p.Value); ok {
				uid := value(event, ics.ComponentPropertyUniqueId)
				moved[uid] = append(moved[uid], at)
			}
		}
	}
	return moved
}

type icalDays struct {
	moved map[string][]time.Time
	days  []int
}

// icalEvent is an event on the clock of its own zone, kept as UTC.
type icalEvent struct {
	start  time.Time
	length time.Duration
	except []time.Time
}

func (d *icalDays) add(event *ics.VEvent) *task.Error {
	if strings.EqualFold(value(event, ics.ComponentPropertyStatus), "CANCELLED") {
		return nil
	}
	e, err := readEvent(event)
	if err != nil {
		return err
	}
	single := event.GetProperty(ics.ComponentPropertyRecurrenceId) != nil
	if !single {
		e.except = append(e.except, d.moved[value(event, ics.ComponentPropertyUniqueId)]...)
	}
	rules := event.GetProperties(ics.ComponentPropertyRrule)
	if single || len(rules) == 0 {
		if err := d.mark(e, e.start); err != nil {
			return err
		}
	}
	for _, p := range rules {
		if err := d.recur(e, p.Value); err != nil {
			return err
		}
	}
	for _, p := range event.GetProperties(ics.ComponentPropertyRdate) {
		for text := range strings.SplitSeq(p.Value, ",") {
			from, _, _ := strings.Cut(text, "/") // of a period
			at, _, ok := icalTime(from)
			if !ok {
				return invalid("", "RDATE %q is not a date", text)
			}
			if err := d.mark(e, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func readEvent(event *ics.VEvent) (e icalEvent, failure *task.Error) {
	start := event.GetProperty(ics.ComponentPropertyDtStart)
	if start == nil {
		return e, invalid("", "it has no DTSTART").Fix("give it one")
	}
	var allDay, ok bool
	if e.start, allDay, ok = icalTime(start.Value); !ok {
		return e, invalid("", "DTSTART %q is not a date", start.Value).Fix("write 20261225 or 20261225T080000")
	}
	if allDay {
		e.length = 24 * time.Hour
	}
	if p := event.GetProperty(ics.ComponentPropertyDtEnd); p != nil {
		end, _, ok := icalTime(p.Value)
		if !ok {
			return e, invalid("", "DTEND %q is not a date", p.Value).Fix("write 20261226 or 20261225T180000")
		}
		e.length = inZoneOf(start, p, end).Sub(e.start)
	} else if p := event.GetProperty(ics.ComponentPropertyDuration); p != nil {
		if e.length, ok = icalDuration(p.Value); !ok {
			return e, invalid("", "DURATION %q is not a duration", p.Value).Fix("write P1D or PT8H")
		}
	}
	if e.length < 0 {
		return e, invalid("", "it ends before it begins").Fix("write the end after the begin")
	}
	for _, p := range event.GetProperties(ics.ComponentPropertyExdate) {
		for text := range strings.SplitSeq(p.Value, ",") {
			at, _, ok := icalTime(text)
			if !ok {
				return e, invalid("", "EXDATE %q is not a date", text)
			}
			e.except = append(e.except, inZoneOf(start, p, at))
		}
	}
	return e, nil
}

// icalTime reads a date, or a time on the clock of its zone.
func icalTime(text string) (at time.Time, date, ok bool) {
	text = strings.TrimSuffix(strings.TrimSpace(text), "Z")
	at, err := time.Parse("20060102T150405", text)
	if err != nil {
		at, err = time.Parse("20060102", text)
		date = true
	}
	return at, date, err == nil && at.Year() >= earliest
}

// inZoneOf moves a time from the clock of p's zone to that of the event's begin. Zones
// that are not of the IANA database are taken to be the same.
func inZoneOf(start, p *ics.IANAProperty, at time.Time) time.Time {
	from, to := icalZone(p), icalZone(start)
	if from == nil || to == nil || from.String() == to.String() {
		return at
	}
	y, m, d := at.Date()
	h, minute, s := at.Clock()
	_, seconds := time.Date(y, m, d, h, minute, s, 0, from).In(to).Zone()
	return time.Date(y, m, d, h, minute, s, 0, from).UTC().Add(time.Duration(seconds) * time.Second)
}

func icalZone(p *ics.IANAProperty) *time.Location {
	if strings.HasSuffix(p.Value, "Z") {
		return time.UTC
	}
	if names := p.ICalParameters["TZID"]; len(names) == 1 {
		if zone, err := loadZone(names[0]); err == nil {
			return zone
		}
	}
	return nil
}

var icalDurationText = regexp.MustCompile(`^\+?P(?:(\d{1,4})W)?(?:(\d{1,5})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,8})M)?(?:(\d{1,9})S)?)?$`)

func icalDuration(text string) (d time.Duration, ok bool) {
	parts := icalDurationText.FindStringSubmatch(text)
	if parts == nil {
		return 0, false
	}
	for i, unit := range []time.Duration{7 * 24 * time.Hour, 24 * time.Hour, time.Hour, time.Minute, time.Second} {
		n, _ := strconv.Atoi("0" + parts[i+1])
		d += time.Duration(n) * unit
	}
	return d, true
}

// recur marks the instances of a recurrence rule.
func (d *icalDays) recur(e icalEvent, text string) *task.Error {
	option, err := rrule.StrToROption(text)
	if err != nil {
		return invalid("", "RRULE %q cannot be read: %v", text, err).Fix("write FREQ=YEARLY or another rule of RFC 5545")
	}
	if option.Freq > rrule.DAILY || len(option.Byhour)+len(option.Byminute)+len(option.Bysecond) > 0 {
		return invalid("", "RRULE %q recurs within a day", text).Fix("use YEARLY, MONTHLY, WEEKLY or DAILY")
	}
	option.Dtstart = e.start
	last := time.Date(lastICalYear, 12, 31, 23, 59, 59, 0, time.UTC)
	if option.Until.IsZero() || option.Until.After(last) {
		option.Until = last
	}
	rule, err := rrule.NewRRule(*option)
	if err != nil {
		return invalid("", "RRULE %q makes no sense: %v", text, err).Fix("write FREQ=YEARLY or another rule of RFC 5545")
	}
	next := rule.Iterator()
	at, more := next()
	if !more {
		return invalid("", "RRULE %q never recurs", text).Fix("correct the rule, or remove it")
	}
	for ; more; at, more = next() {
		if slices.ContainsFunc(e.except, at.Equal) {
			continue
		}
		if err := d.mark(e, at); err != nil {
			return err
		}
	}
	return nil
}

// mark adds the days that an instance of the event touches.
func (d *icalDays) mark(e icalEvent, at time.Time) *task.Error {
	end := at.Add(e.length)
	if end.After(at) {
		end = end.Add(-1) // the end itself is not in the event
	}
	first, last := int(at.Unix()/secondsPerDay), int(end.Unix()/secondsPerDay)
	if len(d.days)+last-first >= maxICalDays || last > lastDay {
		return invalid("", "the calendar has more than %d days", maxICalDays).Fix("give recurring events an end (UNTIL or COUNT)")
	}
	for day := first; day <= last; day++ {
		d.days = append(d.days, day)
	}
	return nil
}

// entries writes days that follow one another as a range.
func (d *icalDays) entries() []string {
	slices.Sort(d.days)
	days := slices.Compact(d.days)
	entries := []string{}
	for i := 0; i < len(days); {
		first := i
		for i++; i < len(days) && days[i] == days[i-1]+1; i++ {
		}
		text := dayText(days[first])
		if last := dayText(days[i-1]); last != text {
			text += "/" + last
		}
		entries = append(entries, text)
	}
	return entries
}

func dayText(day int) string {
	return time.Unix(int64(day)*secondsPerDay, 0).UTC().Format(time.DateOnly)
}
