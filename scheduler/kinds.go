package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

const (
	maxTimes   = 1440 // of day, in one calendar
	maxExclude = 20   // calendars of one schedule
	maxJitter  = 24 * time.Hour
)

// withCalendar reads times of day and restrictions of days.
func (s Spec) withCalendar(c task.Calendar) (Spec, error) {
	f := &fields{anyDom: true} // so that every restriction must hold
	var err error
	if f.times, err = parseTimes(c.Times); err != nil {
		return Spec{}, err
	}
	if f.dow, err = parseNames("calendar.weekdays", c.Weekdays, weekdayNames, 0); err != nil {
		return Spec{}, err
	}
	if f.month, err = parseNames("calendar.months", c.Months, monthNames, 1); err != nil {
		return Spec{}, err
	}
	if err := f.withDays(c.Days); err != nil {
		return Spec{}, err
	}
	s.wall = f
	return s, nil
}

func parseTimes(texts []string) ([]time.Duration, error) {
	if len(texts) == 0 {
		return nil, invalid("calendar.times", "the calendar names no time of day").Fix(`write times: ["08:00"]`)
	}
	if len(texts) > maxTimes {
		return nil, invalid("calendar.times", "%d times of day are too many", len(texts)).Fix("use at most %d, or cron", maxTimes)
	}
	times := make([]time.Duration, len(texts))
	for i, text := range texts {
		at, err := time.Parse("15:04:05", text)
		if err != nil {
			at, err = time.Parse("15:04", text)
		}
		if err != nil || strings.ContainsAny(text, ".,") {
			return nil, invalid(fmt.Sprintf("calendar.times[%d]", i), "%q is not a time of day", text).Fix(`write "08:00" or "08:00:30"`)
		}
		times[i] = clock(at.Clock())
	}
	slices.Sort(times)
	return slices.Compact(times), nil
}

var (
	weekdayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	monthNames   = []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}
)

// parseNames reads names and ranges of them, which may go over the end, as in
// fri-mon. No name stands for all.
func parseNames(field string, texts, names []string, first int) (set uint64, err error) {
	for i, text := range texts {
		from, to, ranged := strings.Cut(strings.ToLower(text), "-")
		if !ranged {
			to = from
		}
		low, high := nameIndex(from, names), nameIndex(to, names)
		if low < 0 || high < 0 {
			return 0, invalid(fmt.Sprintf("%s[%d]", field, i), "%q is not one of %s", text, strings.Join(names, ", ")).
				Fix("write %s, or a range such as %s-%s", names[1], names[1], names[5])
		}
		for n := low; ; n = (n + 1) % len(names) {
			set |= 1 << (n + first)
			if n == high {
				break
			}
		}
	}
	if set == 0 {
		set = (1<<len(names) - 1) << first
	}
	return set, nil
}

// nameIndex takes full names too: monday is mon.
func nameIndex(text string, names []string) int {
	return slices.IndexFunc(names, func(name string) bool {
		full := fullNames[name]
		return text == name || full != "" && text == full
	})
}

var fullNames = func() map[string]string {
	full := map[string]string{}
	for i, name := range weekdayNames {
		full[name] = strings.ToLower(time.Weekday(i).String())
	}
	for i, name := range monthNames {
		full[name] = strings.ToLower(time.Month(i + 1).String())
	}
	return full
}()

// withDays takes days of the month, from its begin and from its end. Months are
// known before, so that a day that none of them has is found.
func (f *fields) withDays(days []int) error {
	longest := 0
	for month := time.January; month <= time.December; month++ {
		if f.month>>month&1 == 1 {
			longest = max(longest, daysIn(2024, month))
		}
	}
	for i, day := range days {
		where := fmt.Sprintf("calendar.days[%d]", i)
		switch {
		case day == 0 || day < -31 || day > 31:
			return invalid(where, "%d is not a day of the month", day).Fix("use 1 to 31, or -1 (the last day) to -31")
		case max(day, -day) > longest:
			return invalid(where, "the schedule never fires on day %d: no month that it names has such a day", day).Fix("change the day or the months")
		case day > 0:
			f.dom |= 1 << day
		default:
			f.fromEnd |= 1 << -day
		}
	}
	if len(days) == 0 {
		f.dom = 1<<32 - 2
	}
	return nil
}

// withOptions reads what goes with every kind of schedule, or with some.
func (s Spec) withOptions(o task.Schedule) (Spec, error) {
	for _, read := range []func(*Spec, task.Schedule) error{(*Spec).readOffset, (*Spec).readDST, (*Spec).readWindow, (*Spec).readExclude, (*Spec).readJitter} {
		if err := read(&s, o); err != nil {
			return Spec{}, err
		}
	}
	return s, nil
}

func (s *Spec) readOffset(o task.Schedule) error {
	offset := time.Duration(o.Offset)
	switch {
	case offset == 0:
	case o.Every == 0:
		return invalid("offset", "an offset goes with every only").Fix("write every and offset, such as {every: 1h, offset: 10m}")
	case offset < 0 || offset >= s.every:
		return invalid("offset", "the offset %v is not shorter than the interval %v", offset, s.every).Fix("use 0s to less than %v", s.every)
	case offset%time.Second != 0:
		return invalid("offset", "the offset %v has a fraction of a second", offset).Fix("use whole seconds")
	}
	s.offset = offset
	return nil
}

func (s *Spec) readDST(o task.Schedule) error {
	if s.wall == nil {
		if o.DST != "" && o.DST != task.DSTAuto {
			return invalid("dst", "a rule for changes of the clock goes with cron and calendar only").Fix("remove dst")
		}
		return nil
	}
	switch o.DST {
	case "", task.DSTAuto:
		s.rule = clockRule{makeUp: !s.wall.everyHour, repeat: s.wall.everyHour}
	case task.DSTSkip:
		s.rule = clockRule{}
	case task.DSTOnce:
		s.rule = clockRule{makeUp: true}
	case task.DSTTwice:
		s.rule = clockRule{makeUp: true, repeat: true}
	default:
		return invalid("dst", "unknown rule %q", o.DST).Fix("use auto, skip, once or twice")
	}
	return nil
}

// readWindow reads start and end.
func (s *Spec) readWindow(o task.Schedule) error {
	for _, bound := range []struct {
		field string
		given *time.Time
		into  *time.Time
	}{{"start", o.Start, &s.start}, {"end", o.End, &s.end}} {
		switch {
		case bound.given == nil:
			continue
		case !s.at.IsZero():
			return invalid(bound.field, "%s does not go with at, which names one instant", bound.field).Fix("remove %s", bound.field)
		case bound.given.UTC().Year() < earliest || bound.given.UTC().Year() > latest:
			return outOfRange(bound.field, bound.given.Format(time.RFC3339))
		}
		*bound.into = bound.given.UTC().Truncate(time.Microsecond)
	}
	if s.end.IsZero() {
		return nil
	}
	if !s.start.IsZero() && !s.end.After(s.start) {
		return invalid("end", "the schedule ends before it starts, or then").Fix("write an end after the start")
	}
	if _, fires := s.Next(epoch); !fires {
		return invalid("end", "the schedule never fires: it has no due time from its start to its end").Fix("change start or end")
	}
	return nil
}

func outOfRange(field, value string) error {
	return invalid(field, "%s is out of range", value).Fix("use a time of the years %d to %d", earliest, latest)
}

func (s *Spec) readExclude(o task.Schedule) error {
	switch {
	case len(o.Exclude) == 0:
		return nil
	case !s.at.IsZero():
		return invalid("exclude", "exclude does not go with at, which names one instant").Fix("remove exclude")
	case len(o.Exclude) > maxExclude:
		return invalid("exclude", "%d calendars are too many", len(o.Exclude)).Fix("use at most %d", maxExclude)
	}
	for i, name := range o.Exclude {
		if !task.ValidName(name) {
			return invalid(excludeField(i), "%q cannot name a calendar", name).Fix("use the name of a calendar, such as holidays/fr")
		}
		if slices.Contains(o.Exclude[:i], name) {
			return invalid(excludeField(i), "calendar %s is named twice", name).Fix("remove one of them")
		}
	}
	return nil
}

func (s *Spec) readJitter(o task.Schedule) error {
	jitter := time.Duration(o.Jitter)
	switch {
	case jitter < 0 || jitter > maxJitter:
		return invalid("jitter", "a jitter of %v is out of range", jitter).Fix("use 0s to %v", maxJitter)
	case jitter%time.Millisecond != 0:
		return invalid("jitter", "a jitter of %v has a fraction of a millisecond", jitter).Fix("use whole milliseconds")
	}
	s.jitter, s.seed = jitter, seedOf(o)
	return nil
}
