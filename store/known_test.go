package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func TestAnUnknownTaskNamesTheNearest(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.apply(task.Definition{Name: "billing/close-month", Chain: []byte(`["nop"]`)})
	calls := map[string]func(name string) error{
		"show":   func(name string) error { _, err := f.Task(ctx, name); return err },
		"pause":  func(name string) error { _, err := f.PauseTask(ctx, name, ""); return err },
		"resume": func(name string) error { _, err := f.ResumeTask(ctx, name); return err },
		"delete": func(name string) error { return f.DeleteTask(ctx, name) },
		"runs":   func(name string) error { _, err := f.Runs(ctx, store.RunFilter{Task: name}); return err },
		"fires":  func(name string) error { _, err := f.Fires(ctx, store.FireFilter{Task: name}); return err },
		"start": func(name string) error {
			_, _, err := f.InsertRuns(ctx, []store.NewRun{{Task: "demo"}, {Task: name}})
			return err
		},
	}
	for call, ask := range calls {
		err := ask("biling/close-mnoth")
		require.Equal(t, task.CodeNotFound, task.CodeOf(err), call)
		require.ErrorContains(t, err, `there is no task "biling/close-mnoth"; did you mean billing/close-month?`, call)
		require.ErrorContains(t, ask("something quite different"), "catena task list", call)
		if call != "start" { // the dispatcher refuses it
			require.Equal(t, task.CodeNotFound, task.CodeOf(ask("nul \x00 and \xff")), call)
		}
	}
	for _, known := range []string{"runs", "fires"} {
		require.NoError(t, calls[known]("billing/close-month"), "it exists and has none")
	}
}

func TestATaskThatExistedOnceHasAnEmptyListAndNoError(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.submit(1)
	f.apply(task.Definition{Name: "timed", Chain: []byte(`["nop"]`), Schedule: []task.Schedule{{Cron: "0 5 * * *"}}})
	require.NoError(t, f.DeleteTask(ctx, "demo"))
	require.NoError(t, f.DeleteTask(ctx, "timed"))
	runs, err := f.Runs(ctx, store.RunFilter{Task: "demo", State: "failed"})
	require.NoError(t, err, "it has a run in another state")
	require.Empty(t, runs)
	fires, err := f.Fires(ctx, store.FireFilter{Task: "timed"})
	require.NoError(t, err, "it had a schedule")
	require.Empty(t, fires)
}

func TestFiresArePagedBackwards(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	f.apply(task.Definition{Name: "other", Chain: []byte(`["nop"]`)})
	f.exec(`INSERT INTO schedules (id, task, cron) SELECT i, CASE WHEN i = 9 THEN 'other' ELSE 'demo' END, '* * * * *' FROM generate_series(1, 9) i`)
	now := time.Now().UTC().Truncate(time.Minute)
	f.exec(`INSERT INTO fires (schedule, due_at, last_due_at, count, task, outcome)
		SELECT s.id, due, due, 1, s.task, 'skipped' FROM schedules s, generate_series($1::timestamptz - interval '9 minutes', $1, interval '1 minute') due`, now)

	for name, want := range map[string]int{"demo": 80, "other": 10, "": 90} {
		var all []string
		var last task.Fire
		for {
			filter := store.FireFilter{Task: name, Limit: 7, Before: last.DueAt, BeforeSchedule: last.Schedule}
			page, err := f.Fires(ctx, filter)
			require.NoError(t, err)
			if len(page) == 0 {
				break
			}
			for _, fire := range page {
				all = append(all, fmt.Sprintf("%s %d", now.Sub(fire.DueAt), fire.Schedule))
			}
			last = page[len(page)-1]
		}
		require.Len(t, all, want, name)
		seen := map[string]bool{}
		for _, key := range all {
			require.False(t, seen[key], "%s twice", key)
			seen[key] = true
		}
	}
	page, err := f.Fires(ctx, store.FireFilter{Before: now.Add(-8 * time.Minute)})
	require.NoError(t, err)
	require.Len(t, page, 9, "a time alone leaves out all fires of that time")
	page, err = f.Fires(ctx, store.FireFilter{Task: "demo", Since: now})
	require.NoError(t, err)
	require.Len(t, page, 8)
}
