package history_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/task"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

func id(n byte) uuid.UUID { return uuid.UUID{15: n} }

func ended(n byte, ms int) task.Run {
	end := at(ms)
	return task.Run{ID: id(n), Task: "t", State: task.StateSucceeded, Attempt: 1, FinishedAt: &end}
}

// good is a record without a fault: a run of two steps, one of an each with a
// lost worker, one that was cancelled, and a schedule with a range.
func good() history.Record {
	lossy := ended(2, 900)
	lossy.Losses = 1
	cancelled := ended(3, 50)
	cancelled.State = task.StateCancelled
	fired := ended(4, 1500)
	schedule, due := int64(7), at(1000)
	fired.Schedule, fired.DueAt = &schedule, &due
	firedID := id(4)
	succeeds := []task.State{task.StateSucceeded}
	return history.Record{
		Accepted: []history.Accepted{
			{ID: id(1), Task: "t", States: succeeds, Attempt: 1, Marks: 2},
			{ID: id(2), Task: "t", States: succeeds, Attempt: 1, Marks: 3},
			{ID: id(3), Task: "t", States: []task.State{task.StateCancelled, task.StateSucceeded}, Closed: at(60)},
		},
		Executions: []history.Execution{
			{Run: id(1), Step: 0, Attempt: 1, Began: at(10)},
			{Run: id(1), Step: 1, Attempt: 1, Began: at(20)},
			{Run: id(2), Step: 0, Item: "a", Attempt: 1, Began: at(10)},
			{Run: id(2), Step: 0, Item: "b", Attempt: 1, Began: at(10)},
			{Run: id(2), Step: 0, Item: "b", Attempt: 1, Began: at(500)},
			{Run: id(2), Step: 1, Attempt: 1, Began: at(600)},
			{Run: id(3), Step: 0, Attempt: 1, Began: at(40)},
			{Run: id(4), Step: 0, Attempt: 1, Began: at(1001)},
		},
		Runs: []task.Run{ended(1, 100), lossy, cancelled, fired},
		Fires: []task.Fire{
			{Schedule: 7, DueAt: at(4000), LastDueAt: at(4000), Count: 1, Outcome: task.FireSkipped},
			{Schedule: 7, DueAt: at(1000), LastDueAt: at(1000), Count: 1, Outcome: task.FireStarted, Run: &firedID},
			{Schedule: 7, DueAt: at(2000), LastDueAt: at(3000), Count: 2, Outcome: task.FireMissed},
		},
		Every: time.Second,
	}
}

func TestAGoodRecordHasNoProblem(t *testing.T) {
	t.Parallel()
	require.Empty(t, good().Check())
}

func TestEachFaultIsFound(t *testing.T) {
	t.Parallel()
	again := func(r *history.Record, run byte, step, ms int) {
		r.Executions = append(r.Executions, history.Execution{Run: id(run), Step: step, Attempt: 1, Began: at(ms)})
	}
	for _, one := range []struct {
		name, want string
		spoil      func(r *history.Record)
	}{
		{"a lost run", "accepted and is lost", func(r *history.Record) { r.Runs, r.Executions = r.Runs[1:], r.Executions[2:] }},
		{"an executed run that is gone", "executed and is not listed", func(r *history.Record) { r.Runs = r.Runs[1:] }},
		{"a doubled run", "nobody asked for it", func(r *history.Record) { r.Runs = append(r.Runs, ended(9, 100)) }},
		{"a run listed twice", "listed twice", func(r *history.Record) { r.Runs = append(r.Runs, r.Runs[0]) }},
		{"one run for two requests", "accepted twice", func(r *history.Record) { r.Accepted[1].ID = id(1) }},
		{"a run that has not ended", "is running", func(r *history.Record) { r.Runs[0].State = task.StateRunning }},
		{"a burnt attempt", "at attempt 2, want 1", func(r *history.Record) { r.Runs[1].Attempt = 2 }},
		{"a step that never ran", "1 of 2 steps", func(r *history.Record) { r.Executions = r.Executions[1:] }},
		{"a step doubled without a loss", "ran 2 times", func(r *history.Record) { again(r, 1, 1, 30) }},
		{"a step doubled too often", "ran 3 times", func(r *history.Record) {
			r.Executions = append(r.Executions, history.Execution{Run: id(2), Item: "b", Attempt: 1, Began: at(510)})
		}},
		{"an acknowledged step that ran again", "step 0 ran again", func(r *history.Record) { again(r, 2, 0, 601) }},
		{"a step after the end", "after the run's end", func(r *history.Record) { again(r, 2, 1, 901) }},
		{"a step after the acknowledged cancel", "known to have ended", func(r *history.Record) { again(r, 3, 1, 61) }},
		{"an uncovered due time", "nothing covers", func(r *history.Record) { r.Fires = r.Fires[:2] }},
		{"a due time covered twice", "covered twice", func(r *history.Record) { r.Fires = append(r.Fires, r.Fires[0]) }},
		{"a due time inside of a range", "covered twice", func(r *history.Record) {
			r.Fires = append(r.Fires, task.Fire{Schedule: 7, DueAt: at(3000), LastDueAt: at(3000), Count: 1})
		}},
		{"a range that miscounts", "3 due times", func(r *history.Record) { r.Fires[2].Count = 3 }},
		{"a fired run that is lost", "run 00000000-0000-0000-0000-000000000004 of due time", func(r *history.Record) { r.Runs = r.Runs[:3] }},
		{"a fired run that failed", "is failed", func(r *history.Record) { r.Runs[3].State = task.StateFailed }},
		{"a fired run without its due time", "fired by no due time", func(r *history.Record) { r.Fires[1].Run = nil }},
		{"a fired run that nothing executed", "never executed", func(r *history.Record) { r.Executions = r.Executions[:7] }},
	} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			r := good()
			one.spoil(&r)
			found := r.Check()
			require.NotEmpty(t, found)
			text := ""
			for _, problem := range found {
				text += problem + "\n"
			}
			require.Contains(t, text, one.want)
		})
	}
}

func TestRecoveriesCountFromTheLossThatInterrupted(t *testing.T) {
	t.Parallel()
	losses := []time.Time{at(5000), at(100)}
	require.Equal(t, []time.Duration{400 * time.Millisecond}, history.Times(history.Recoveries(good().Executions, losses)))
	require.Empty(t, history.Recoveries(good().Executions, []time.Time{at(700)}))
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	require.Zero(t, history.Percentile(nil, 0.99))
	var all []time.Duration
	for i := range 200 {
		all = append(all, time.Duration(i+1))
	}
	require.Equal(t, time.Duration(100), history.Percentile(all, 0.5))
	require.Equal(t, time.Duration(198), history.Percentile(all, 0.99))
	require.Equal(t, time.Duration(200), history.Percentile(all, 1))
}
