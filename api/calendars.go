package api

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

type calendarInput struct {
	Name string `path:"name" doc:"Name of the calendar, escaped: / is %2F" maxLength:"600"`
}

type putCalendarInput struct {
	Name string `path:"name" doc:"Name of the calendar, escaped: / is %2F" maxLength:"600"`
	Body client.CalendarRequest
}

type deleteCalendarInput struct {
	Name  string `path:"name" doc:"Name of the calendar, escaped: / is %2F" maxLength:"600"`
	Force bool   `query:"force" doc:"Also when schedules exclude it: they are then invalid"`
}

type dueInput struct {
	Name  string    `path:"name" doc:"Name of the task, escaped: / is %2F" maxLength:"600"`
	Count int       `query:"count" doc:"Due times of each schedule; absent: 5" minimum:"1" maximum:"1000"`
	After time.Time `query:"after" doc:"Due times after it; absent: now"`
}

func (s *service) calendarRoutes() {
	const tag = "calendars"
	handle(s, operation{action: auth.ListCalendars, method: http.MethodGet, path: "/calendars", summary: "List the calendars", tag: tag}, s.listCalendars)
	handle(s, operation{action: auth.GetCalendar, method: http.MethodGet, path: "/calendars/{name}", summary: "Show a calendar", tag: tag}, s.getCalendar)
	handle(s, operation{action: auth.ApplyCalendars, method: http.MethodPost, path: "/calendars/apply", summary: "Create or change calendars, all or none",
		tag: tag, limit: s.config.MaxBatch, changes: true}, s.applyCalendars)
	handle(s, operation{action: auth.PutCalendar, method: http.MethodPut, path: "/calendars/{name}", summary: "Create or change a calendar",
		tag: tag, limit: s.config.MaxBatch, changes: true}, s.putCalendar)
	handle(s, operation{action: auth.DeleteCalendar, method: http.MethodDelete, path: "/calendars/{name}", summary: "Delete a calendar",
		tag: tag, changes: true}, s.deleteCalendar)
	handle(s, operation{action: auth.ListDue, method: http.MethodGet, path: "/tasks/{name}/due", summary: "List the next due times of a task's schedules", tag: "tasks"}, s.listDue)
}

func (s *service) listCalendars(ctx context.Context, _ *nothing) (*body[[]task.NamedCalendar], error) {
	return list(s.deps.Calendars.Calendars(ctx))
}

func (s *service) getCalendar(ctx context.Context, in *calendarInput) (*body[task.NamedCalendar], error) {
	return answer(s.deps.Calendars.Calendar(ctx, in.Name))
}

func (s *service) applyCalendars(ctx context.Context, in *applyInput) (*body[client.ApplyResult], error) {
	read, err := s.readFiles(ctx, in.Body.Files)
	if err != nil {
		return nil, err
	}
	if len(read.definitions) > 0 {
		return nil, task.Errorf(task.CodeInvalid, "the files hold a task too: %s", read.definitions[0].Name).At("files").
			Fix("apply them with catena task apply, or leave the task out")
	}
	if len(read.sources) > 0 {
		return nil, task.Errorf(task.CodeInvalid, "the files hold a source too: %s", read.sources[0].Definition.Name).At("files").
			Fix("apply them with catena task apply, or leave the source out")
	}
	return s.apply(ctx, read, in.Body.DryRun)
}

func (s *service) putCalendar(ctx context.Context, in *putCalendarInput) (*body[task.NamedCalendar], error) {
	if !task.ValidName(in.Name) {
		return nil, task.Errorf(task.CodeInvalid, "%q cannot name a calendar", in.Name).At("name").
			Fix(`use lower-case letters, digits, ".", "_" and "-", with "/" between words, at most 200 characters`)
	}
	days, err := daysOf(in.Body.Days, in.Body.ICal)
	if err != nil {
		return nil, err
	}
	if _, err := s.apply(ctx, applied{calendars: []task.NamedCalendar{{Name: in.Name, Days: days}}}, false); err != nil {
		return nil, err
	}
	return answer(s.deps.Calendars.Calendar(ctx, in.Name))
}

func (s *service) deleteCalendar(ctx context.Context, in *deleteCalendarInput) (*nothing, error) {
	note(ctx, in.Name, map[string]any{"force": in.Force})
	return nil, s.deps.Calendars.DeleteCalendar(ctx, in.Name, in.Force)
}

// daysOf joins days with those of an iCalendar text, and checks them.
func daysOf(days []string, ical string) ([]string, error) {
	all := append([]string{}, days...)
	if _, err := scheduler.ParseDays(days); err != nil {
		return nil, err
	}
	if ical == "" {
		return all, nil
	}
	more, err := scheduler.ParseICal(ical)
	if err != nil {
		return nil, err
	}
	all = append(all, more...)
	_, err = scheduler.ParseDays(all)
	return all, err
}

func isICal(name string) bool { return strings.EqualFold(path.Ext(name), ".ics") }

// calendarReader gathers the calendars of task files.
type calendarReader struct {
	list   []task.NamedCalendar
	days   map[string]*scheduler.Days
	places map[string]string
	texts  map[string]string // of the iCalendar files, by name
}

func newCalendarReader(files []client.File) *calendarReader {
	r := &calendarReader{days: map[string]*scheduler.Days{}, places: map[string]string{}, texts: map[string]string{}}
	for _, file := range files {
		if isICal(file.Name) {
			r.texts[path.Clean(strings.ReplaceAll(file.Name, `\`, "/"))] = file.Content
		}
	}
	return r
}

func (r *calendarReader) add(c chain.CalendarFile, place string) error {
	if first, twice := r.places[c.Name]; twice {
		return task.Errorf(task.CodeInvalid, "calendar %s is defined twice, the first time at %s", c.Name, first).At(place).
			Fix("rename one of them, or remove it")
	}
	r.places[c.Name] = place
	text := ""
	if name := c.ICalName(); name != "" {
		var sent bool
		if text, sent = r.texts[name]; !sent {
			return c.Locate(task.Errorf(task.CodeInvalid, "the file %s was not sent along", name).At("ical").Fix("check the path; it is seen from the folder of this file"))
		}
		if text == "" {
			return c.Locate(task.Errorf(task.CodeInvalid, "the file %s is empty", name).At("ical").Fix("use a file with a VEVENT for each day or span of days"))
		}
	}
	days, err := daysOf(c.Days, text)
	if err != nil {
		return c.Locate(err)
	}
	parsed, err := scheduler.ParseDays(days)
	if err != nil {
		return c.Locate(err)
	}
	r.days[c.Name] = parsed
	r.list = append(r.list, task.NamedCalendar{Name: c.Name, Days: days})
	return nil
}

// over looks into the files first.
func (r *calendarReader) over(there scheduler.Lookup) scheduler.Lookup {
	return func(name string) (*scheduler.Days, error) {
		if days, ok := r.days[name]; ok {
			return days, nil
		}
		return there(name)
	}
}

func (s *service) listDue(ctx context.Context, in *dueInput) (*body[[]client.ScheduleDue], error) {
	t, err := s.deps.Tasks.Task(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	after := in.After
	if after.IsZero() {
		if after, err = s.deps.Tasks.Now(ctx); err != nil {
			return nil, err
		}
	}
	var names []string
	for _, schedule := range t.Schedule {
		names = append(names, schedule.Exclude...)
	}
	texts, err := s.deps.Tasks.CalendarDays(ctx, names)
	if err != nil {
		return nil, err
	}
	count := in.Count
	if count == 0 {
		count = 5
	}
	all := make([]client.ScheduleDue, 0, len(t.Schedule))
	for _, schedule := range t.Schedule {
		due := nextDue(schedule, scheduler.LookupIn(texts), after, count)
		due.Paused = schedule.Paused || t.Paused
		all = append(all, due)
	}
	return answer(all, nil)
}

func nextDue(schedule task.Schedule, calendars scheduler.Lookup, after time.Time, count int) client.ScheduleDue {
	out := client.ScheduleDue{Schedule: schedule.ID, Invalid: schedule.Invalid, Due: []client.DueTime{}}
	spec, err := scheduler.ParseWith(schedule, calendars)
	if err != nil {
		out.Text = expression(schedule)
		if out.Invalid == "" {
			out.Invalid = err.Error()
		}
		return out
	}
	out.Text = scheduler.Describe(spec)
	for at, ok := spec.Next(after); ok && out.Invalid == "" && len(out.Due) < count; at, ok = spec.Next(at) {
		out.Due = append(out.Due, client.DueTime{DueAt: at, StartsAt: spec.StartAt(at)})
	}
	return out
}

// expression is a schedule that cannot be read, as it stands there.
func expression(s task.Schedule) string {
	switch {
	case s.Cron != "":
		return "cron " + s.Cron
	case s.Every != 0:
		return "every " + s.Every.String()
	case s.At != nil:
		return "at " + s.At.UTC().Format(time.RFC3339)
	case s.Calendar != nil:
		return "calendar"
	}
	return fmt.Sprintf("schedule %d", s.ID)
}
