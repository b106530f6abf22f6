package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// shownTask is what task show prints as JSON.
type shownTask struct {
	task.Task
	Due []client.ScheduleDue `json:"due"`
}

// dueOf asks for the next due times of a task's schedules.
func dueOf(ctx context.Context, c *client.Client, t task.Task, count int) ([]client.ScheduleDue, error) {
	if len(t.Schedule) == 0 {
		return nil, nil
	}
	due, err := c.Due(ctx, t.Name, max(count, 1))
	if count == 0 {
		for i := range due {
			due[i].Due = []client.DueTime{}
		}
	}
	return due, err
}

func schedules(t task.Task) string {
	texts := make([]string, 0, len(t.Schedule))
	for _, schedule := range t.Schedule {
		texts = append(texts, scheduleText(schedule))
	}
	return strings.Join(texts, "; ")
}

// scheduleText is a schedule as its author wrote it, in short.
func scheduleText(schedule task.Schedule) string {
	text := schedule.Cron
	switch {
	case schedule.At != nil:
		text = "at " + schedule.At.UTC().Format("2006-01-02T15:04:05Z")
	case schedule.Every != 0:
		text = "every " + durationText(schedule.Every)
		if schedule.Offset != 0 {
			text += " + " + durationText(schedule.Offset)
		}
	case schedule.Calendar != nil:
		text = calendarText(*schedule.Calendar)
	}
	if schedule.Timezone != "" && schedule.Timezone != "UTC" {
		text += " " + schedule.Timezone
	}
	if len(schedule.Exclude) > 0 {
		text += " except " + strings.Join(schedule.Exclude, ", ")
	}
	return text
}

func calendarText(c task.Calendar) string {
	parts := []string{strings.Join(c.Weekdays, ",")}
	if len(c.Days) > 0 {
		parts = append(parts, "days "+strings.Trim(strings.Join(strings.Fields(fmt.Sprint(c.Days)), ","), "[]"))
	}
	parts = append(parts, strings.Join(c.Months, ","), "at "+strings.Join(c.Times, ","))
	return short(strings.Join(strings.Fields(strings.Join(parts, " ")), " "), 60)
}

func (s *session) nextDue(t task.Task) string {
	next := ""
	var first *task.Schedule
	for i, schedule := range t.Schedule {
		if schedule.NextDue != nil && (first == nil || schedule.NextDue.Before(*first.NextDue)) {
			first = &t.Schedule[i]
			next = s.ageOf(schedule.NextDue)
		}
	}
	return next
}

// showSchedules writes each schedule and below it its next due times.
func (s *session) showSchedules(t task.Task, due []client.ScheduleDue) error {
	texts := make(map[int64]client.ScheduleDue, len(due))
	for _, d := range due {
		texts[d.Schedule] = d
	}
	for _, schedule := range t.Schedule {
		if err := s.println(); err != nil {
			return err
		}
		if err := s.showSchedule(schedule, texts[schedule.ID]); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) showSchedule(schedule task.Schedule, due client.ScheduleDue) error {
	text, overlap := due.Text, schedule.Overlap
	if text == "" {
		text = scheduleText(schedule)
	}
	if overlap == "" {
		overlap = task.OverlapSkip
	}
	dst := string(schedule.DST)
	if schedule.DST == task.DSTAuto {
		dst = ""
	}
	status := ""
	switch {
	case schedule.Invalid != "":
		status = "invalid"
	case due.Paused:
		status = "paused"
	}
	pairs := [][2]string{
		{"schedule", text}, {"id", strconv.FormatInt(schedule.ID, 10)}, {"status", status}, {"invalid", schedule.Invalid}, {"note", schedule.Note},
		{"overlap", string(overlap)}, {"dst", dst},
	}
	zone := zoneOf(schedule)
	for i, d := range due.Due {
		pairs = append(pairs, [2]string{map[bool]string{true: "next", false: " "}[i == 0], s.dueText(d, zone)})
	}
	return s.fields(pairs...)
}

// zoneOf is the schedule's zone where this machine knows it.
func zoneOf(schedule task.Schedule) *time.Location {
	name := schedule.Timezone
	for _, prefix := range []string{"CRON_TZ=", "TZ="} {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(schedule.Cron), prefix); ok {
			name, _, _ = strings.Cut(rest, " ")
		}
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return time.UTC
	}
	return zone
}

func (s *session) dueText(d client.DueTime, zone *time.Location) string {
	const layout = "Mon 2006-01-02 15:04:05 -07:00"
	text := d.DueAt.In(zone).Format(layout) + " (" + s.age(d.DueAt) + ")"
	if delay := d.StartsAt.Sub(d.DueAt); delay > 0 {
		text += ", starts " + durationText(delay.Round(time.Millisecond)) + " later"
	}
	return text
}
