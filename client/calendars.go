package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/catena-run/catena/task"
)

// Calendars returns every calendar, by name.
func (c *Client) Calendars(ctx context.Context) ([]task.NamedCalendar, error) {
	return get[[]task.NamedCalendar](ctx, c, "/calendars", nil)
}

// Calendar returns the named calendar.
func (c *Client) Calendar(ctx context.Context, name string) (task.NamedCalendar, error) {
	return get[task.NamedCalendar](ctx, c, calendarPath(name), nil)
}

// ApplyCalendars creates or changes the calendars of the request's files, all of
// them or, on any error, none.
func (c *Client) ApplyCalendars(ctx context.Context, request ApplyRequest) (ApplyResult, error) {
	return post[ApplyResult](ctx, c, "/calendars/apply", request)
}

// PutCalendar creates or changes one calendar.
func (c *Client) PutCalendar(ctx context.Context, name string, request CalendarRequest) (task.NamedCalendar, error) {
	var answer task.NamedCalendar
	err := c.do(ctx, call{method: http.MethodPut, path: calendarPath(name), body: request, into: &answer, again: true})
	return answer, err
}

// DeleteCalendar removes a calendar. One that schedules exclude is a conflict, unless
// force is set: those schedules then fire no more.
func (c *Client) DeleteCalendar(ctx context.Context, name string, force bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	return c.do(ctx, call{method: http.MethodDelete, path: calendarPath(name), query: query})
}

// Due returns the next count due times of each schedule of a task.
func (c *Client) Due(ctx context.Context, taskName string, count int) ([]ScheduleDue, error) {
	return get[[]ScheduleDue](ctx, c, taskPath(taskName)+"/due", url.Values{"count": {strconv.Itoa(count)}})
}

func calendarPath(name string) string { return "/calendars/" + escape(name) }
