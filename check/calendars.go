package check

import (
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

// calendars are the sets of days that schedules may exclude: those of the files
// go before the cluster's.
type calendars struct {
	days  map[string][]string
	known map[string]*scheduler.Days
	icals map[string]string // texts of iCalendar files, by name
	open  bool              // not connected: others may be there
}

func newCalendars(files []client.File, stored []task.NamedCalendar, open bool) *calendars {
	c := &calendars{days: map[string][]string{}, known: map[string]*scheduler.Days{}, icals: map[string]string{}, open: open}
	for _, one := range stored {
		c.days[one.Name] = one.Days
	}
	for _, file := range files {
		if isICal(file.Name) {
			c.icals[path.Clean(strings.ReplaceAll(file.Name, `\`, "/"))] = file.Content
		}
	}
	return c
}

func isICal(name string) bool { return strings.EqualFold(path.Ext(name), ".ics") }

// add takes a calendar of a file, whose days must make sense.
func (c *calendars) add(file chain.CalendarFile) error {
	days := slices.Clone(file.Days)
	if _, err := scheduler.ParseDays(days); err != nil {
		return file.Locate(err)
	}
	if name := file.ICalName(); name != "" {
		more, err := scheduler.ParseICal(c.icals[name])
		if err != nil {
			return file.Locate(err)
		}
		days = append(days, more...)
	}
	c.days[file.Name] = days
	delete(c.known, file.Name)
	return nil
}

// lookup implements scheduler.Lookup. Without a cluster a calendar that no file
// has may well be there: it excludes nothing, and a warning says so.
func (c *calendars) lookup(name string) (*scheduler.Days, error) {
	if days := c.known[name]; days != nil {
		return days, nil
	}
	entries, there := c.days[name]
	if !there && !c.open {
		return scheduler.LookupIn(nil)(name)
	}
	days, err := scheduler.ParseDays(entries)
	if err == nil {
		c.known[name] = days
	}
	return days, err
}

// parse reads a schedule with the calendars that it excludes.
func (c *calendars) parse(s task.Schedule) (scheduler.Spec, error) {
	return scheduler.ParseWith(s, c.lookup)
}

// missing lists those of the names that are not known.
func (c *calendars) missing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, there := c.days[name]; return there })
}

// timesKey holds all of a schedule that its due times depend on.
func timesKey(s task.Schedule) string {
	s.Task, s.Overlap, s.Buffer, s.CatchUp, s.PauseOnFailure = "", "", 0, nil, 0
	s.Paused, s.Note, s.Invalid, s.NextDue = false, "", "", nil
	if s.Jitter == 0 {
		s.ID = 0 // the jitter of each schedule is its own
	}
	text, _ := json.Marshal(s) // texts, numbers and times marshal
	return string(text)
}
