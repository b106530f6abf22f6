// Package scheduler says when schedules are due and what becomes of each due
// time. Its core is pure: Parse reads a schedule, Spec.Next names the next due
// time and Decide turns a due schedule into rows of the ledger.
//
// It refuses to read a clock or to guess: "now" is the time of the database,
// given by the caller, and a schedule that cannot be understood, or that
// would never fire, is an error when it is parsed.
//
// # Due times
//
// A cron expression has five fields (minute, hour, day of month, month, day of
// week) or six (seconds first), read in the schedule's time zone, UTC unless
// named. When both day fields are restricted, either of them may match. @yearly,
// @monthly, @weekly, @daily and @hourly are short for such expressions. A calendar
// names times of day and restricts the days: every restriction must hold.
//
// An interval ("every", or "@every D" in cron) fires at the multiples of its length
// since the Unix epoch plus an offset, so that all machines
// agree on its due times and an edit of the task does not move them: "every 90s" is
// due whenever the Unix time can be divided by 90. The time zone plays no part.
//
// A due time on a day that an excluded calendar has, as the schedule's zone shows
// the day, is none; nor is one before the start or from the end on.
//
// # Daylight saving time
//
// What a change of the clock does to readings of the wall clock is for the
// schedule's rule to say (task.DST). The rule "auto" takes an expression that names
// fixed hours (its hour field leaves out at least one hour), and every calendar, as
// readings of the wall clock, each once:
//   - readings that the clock skips in spring fire once, together, at the
//     first instant after the gap;
//   - readings that the clock repeats in autumn fire at their first occurrence only.
//
// An expression that matches every hour (every minute, every quarter of an hour, every hour)
// it takes as the time that passes: it fires at each instant at which the clock shows
// a matching reading, in a repeated hour too, and makes nothing up for a skipped one. Where the
// clock moves by a whole hour, no interval is stretched, doubled or lost.
package scheduler

import (
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // for containers without a zone database

	"github.com/robfig/cron/v3"

	"github.com/catena-run/catena/task"
)

// Spec is a parsed schedule: immutable, safe to share.
// The zero Spec never fires.
type Spec struct {
	at         time.Time     // of a one-shot
	every      time.Duration // of an interval
	offset     time.Duration
	wall       *fields // of a cron expression or a calendar
	rule       clockRule
	zone       *time.Location
	start, end time.Time // zero: none
	exclude    []*Days
	names      []string // of the calendars of exclude
	jitter     time.Duration
	seed       uint64 // of jitter: the schedule's identity
}

const (
	maxCronText = 256
	fiveFields  = cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow
	sixFields   = cron.Second | fiveFields
	shapeRemedy = `write 5 fields ("0 5 1 * *"), 6 with seconds first, @yearly, @monthly, @weekly, @daily, @hourly or "@every 90s"`
)

// Parse reads what s says of times. The days of the calendars that it excludes
// are not looked at: see ParseWith.
func Parse(s task.Schedule) (Spec, error) {
	text := strings.TrimSpace(s.Cron)
	if err := oneKind(s, text); err != nil {
		return Spec{}, err
	}
	spec := Spec{names: s.Exclude}
	text, err := spec.withZone(s, text)
	if err != nil {
		return Spec{}, err
	}
	switch {
	case s.At != nil:
		spec, err = spec.withAt(*s.At)
	case s.Every != 0:
		spec, err = spec.withEvery("every", time.Duration(s.Every))
	case s.Calendar != nil:
		spec, err = spec.withCalendar(*s.Calendar)
	case strings.HasPrefix(text, "@every"):
		spec, err = spec.withEveryText(text)
	default:
		spec, err = spec.withCron(text)
	}
	if err != nil {
		return Spec{}, err
	}
	return spec.withOptions(s)
}

// oneKind refuses schedules with none or several of the ways to say a time.
func oneKind(s task.Schedule, text string) error {
	var given []string
	for _, kind := range []struct {
		name  string
		there bool
	}{{"cron", text != ""}, {"every", s.Every != 0}, {"calendar", s.Calendar != nil}, {"at", s.At != nil}} {
		if kind.there {
			given = append(given, kind.name)
		}
	}
	switch {
	case len(given) == 0:
		return invalid("cron", "the schedule says no time").Fix("give it cron, every, calendar or at")
	case len(given) > 1:
		return invalid(given[1], "the schedule has both %s and %s", given[0], given[1]).Fix("write a schedule for each")
	case len(text) > maxCronText:
		return invalid("cron", "the cron expression has %d characters", len(text)).Fix("use at most %d", maxCronText)
	}
	return nil
}

// withZone takes the zone from the schedule or from its cron expression, whose rest
// it returns.
func (s *Spec) withZone(schedule task.Schedule, text string) (rest string, err error) {
	name := schedule.Timezone
	rest, prefix, err := cutZone(text)
	if err != nil {
		return "", err
	}
	if prefix != "" {
		if name != "" && name != prefix {
			return "", invalid("timezone", "the cron expression says time zone %s, the schedule says %s", prefix, name).
				Fix("keep one of them")
		}
		name = prefix
	}
	s.zone, err = loadZone(name)
	return rest, err
}

// Zone returns the time zone in which the schedule is read.
func (s Spec) Zone() *time.Location {
	if s.zone == nil {
		return time.UTC
	}
	return s.zone
}

func invalid(where, format string, args ...any) *task.Error {
	return task.Errorf(task.CodeInvalid, format, args...).At(where)
}

// cutZone takes a leading TZ=... or CRON_TZ=... off.
func cutZone(text string) (rest, zone string, err error) {
	for _, prefix := range []string{"CRON_TZ=", "TZ="} {
		after, found := strings.CutPrefix(text, prefix)
		if !found {
			continue
		}
		end := strings.IndexAny(after, " \t\n\r")
		if end <= 0 {
			return "", "", invalid("cron", "%q names no time zone or no time", text).Fix(`write "%sEurope/Paris 0 5 * * *", or use the field timezone`, prefix)
		}
		return strings.TrimSpace(after[end:]), after[:end], nil
	}
	return text, "", nil
}

// loadZone refuses "Local", which means something else on every machine.
func loadZone(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, invalid("timezone", "%q is not a time zone", name).Fix("use a name of the IANA database, such as Europe/Paris, or UTC")
	}
	return zone, nil
}

// earliest and latest bound what the databases and the calendar are sure of.
const earliest, latest = 1970, 9999

// epoch is before every due time.
var epoch = time.Date(earliest, 1, 1, 0, 0, 0, 0, time.UTC).Add(-1)

func (s Spec) withAt(at time.Time) (Spec, error) {
	if y := at.UTC().Year(); y < earliest || y > latest {
		return Spec{}, outOfRange("at", at.Format(time.RFC3339))
	}
	// Postgres keeps microseconds: what is finer would never equal the stored time.
	s.at = at.UTC().Truncate(time.Microsecond)
	return s, nil
}

func (s Spec) withEveryText(text string) (Spec, error) {
	value := strings.TrimSpace(strings.TrimPrefix(text, "@every"))
	d, err := time.ParseDuration(value)
	if err != nil {
		return Spec{}, invalid("cron", "%q in %q is not a duration", value, text).Fix(`write a number and a unit, such as "@every 90s" or "@every 1h30m"`)
	}
	return s.withEvery("cron", d)
}

func (s Spec) withEvery(field string, d time.Duration) (Spec, error) {
	switch {
	case d < time.Second:
		return Spec{}, invalid(field, "every %v is more often than once a second", d).Fix("use 1s or longer")
	case d%time.Second != 0:
		return Spec{}, invalid(field, "every %v has a fraction of a second", d).Fix("use whole seconds")
	}
	s.every = d
	return s, nil
}

func (s Spec) withCron(text string) (Spec, error) {
	options, names := fiveFields, fieldNames[1:]
	parts := strings.Fields(text)
	switch {
	case strings.HasPrefix(text, "@"):
		options = cron.Descriptor
		if len(parts) != 1 {
			return Spec{}, invalid("cron", "%q is not a schedule", text).Fix(shapeRemedy)
		}
	case len(parts) == len(fieldNames):
		options, names = sixFields, fieldNames
	case len(parts) != len(names):
		return Spec{}, invalid("cron", "%q has %d fields", text, len(parts)).Fix(shapeRemedy)
	}
	parsed, err := cron.NewParser(options).Parse(text)
	if err != nil || slices.ContainsFunc(parts, emptyList) {
		return Spec{}, explain(text, parts, options, names)
	}
	plan, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return Spec{}, invalid("cron", "%q is not a schedule", text).Fix(shapeRemedy)
	}
	f := newFields(plan)
	// From a leap year on: the day of the week either may be any or widens a match, so years do not differ else.
	if _, fires := f.next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)); !fires {
		return Spec{}, invalid("cron", "%q never fires: no month that it names has such a day", text).Fix("change the day of month or the month")
	}
	s.wall = f
	return s, nil
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

var fieldNames = []string{"second", "minute", "hour", "day of month", "month", "day of week"}

// fieldRanges tell what each of fieldNames takes.
var fieldRanges = []string{"0-59", "0-59", "0-23", "1-31", "1-12 or jan-dec", "0-6 (0 is Sunday) or sun-sat"}

// emptyList reports a field of commas only, which the parser takes for "never".
func emptyList(part string) bool { return strings.Trim(part, ",") == "" }

// explain finds the field that does not parse, by giving the parser one at a time.
func explain(text string, parts []string, options cron.ParseOption, names []string) error {
	if len(parts) != len(names) {
		return invalid("cron", "%q is not a schedule", text).Fix(shapeRemedy)
	}
	offset := len(fieldNames) - len(names)
	for i, part := range parts {
		alone := make([]string, len(parts))
		for j := range alone {
			alone[j] = "*"
		}
		alone[i] = part
		if _, err := cron.NewParser(options).Parse(strings.Join(alone, " ")); err != nil || emptyList(part) {
			return invalid("cron", "%s %q in %q cannot be read", names[i], part, text).
				Fix("use %s, with * , - and / as in cron", fieldRanges[i+offset])
		}
	}
	return invalid("cron", "%q is not a schedule", text).Fix(shapeRemedy)
}
