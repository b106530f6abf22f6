package history_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/task"
)

// proven is a record without a fault in which every promise is at stake: two
// fires of an exclusive schedule, an interrupted step with its outcome, a
// cancelled run, and requests that a crash broke.
func proven() history.Record {
	r := good()
	second, due, schedule := ended(5, 6200), at(5000), int64(8)
	second.Task, second.Schedule, second.DueAt = "x", &schedule, &due
	third, dueThird := ended(6, 7400), at(6000)
	third.Task, third.Schedule, third.DueAt, third.State = "x", &schedule, &dueThird, task.StateCancelled
	secondID, thirdID := id(5), id(6)
	r.Runs = append(r.Runs, second, third)
	r.Fires = append(r.Fires,
		task.Fire{Schedule: 8, DueAt: due, LastDueAt: due, Count: 1, Outcome: task.FireStarted, Run: &secondID},
		task.Fire{Schedule: 8, DueAt: dueThird, LastDueAt: dueThird, Count: 1, Outcome: task.FireBuffered, Run: &thirdID})
	r.Executions = append(r.Executions,
		history.Execution{Run: id(5), Step: 0, Attempt: 1, Began: at(5001), Source: "x", Due: due},
		history.Execution{Run: id(5), Step: 1, Attempt: 1, Began: at(6100), Source: "x", Due: due},
		history.Execution{Run: id(6), Step: 0, Attempt: 1, Began: at(6300), Source: "x", Due: dueThird})
	for i := range r.Executions {
		r.Executions[i].Serial = int64(i + 1)
	}
	r.Sources = map[string]history.Source{"x": {States: []task.State{task.StateSucceeded, task.StateCancelled}, Exclusive: true}}
	r.Commits = []history.Commit{{Run: id(2), Serial: 3}, {Run: id(2), Serial: 5}, {Run: id(2), Serial: 6}}
	r.Losses, r.Recovery = []time.Time{at(100)}, time.Second
	r.Windows = []history.Window{
		{From: at(0), To: at(1000), Harm: history.HarmNone, Fault: "a planned restart"},
		{From: at(2000), To: at(3000), Harm: history.HarmBreaks, Fault: "kill -9 of a worker"},
		{From: at(4000), To: at(5000), Harm: history.HarmRefuses, Fault: "kill -9 of the leader"},
	}
	r.Failures = []history.Request{
		{Began: at(1990), Ended: at(2001), Error: "reset"},
		{Began: at(4500), Ended: at(4501), Refused: true, Error: "refused"},
	}
	return r
}

// TestEachPromiseCanBreak spoils a good record in every way that a promise can
// be broken and wants the checker to say which.
func TestEachPromiseCanBreak(t *testing.T) {
	t.Parallel()
	require.Empty(t, proven().Check())
	cases := []struct {
		name    string
		promise history.Promise
		want    string
		spoil   func(r *history.Record)
	}{
		{"a lost run", history.P1, "accepted and is lost", func(r *history.Record) { r.Runs = r.Runs[1:]; r.Executions = r.Executions[2:] }},
		{"a scheduled run that failed", history.P1, "is failed", func(r *history.Record) { r.Runs[4].State = task.StateFailed }},
		{"a cancelled run of a task whose runs succeed", history.P1, "is cancelled", func(r *history.Record) { r.Runs[3].State = task.StateCancelled }},
		{"a due time twice in the ledger", history.P2, "covered twice", func(r *history.Record) { r.Fires = append(r.Fires, r.Fires[0]) }},
		{"two runs of a due time by the recorder", history.P2, "the recorder saw 2 runs of x", func(r *history.Record) { r.Executions[10].Due = at(5000) }},
		{"two runs of an exclusive schedule side by side", history.P2, "was under way until", func(r *history.Record) { r.Executions[10].Began = at(6050) }},
		{"an uncovered due time", history.P3, "nothing covers", func(r *history.Record) { r.Fires = r.Fires[:2] }},
		{"a burnt retry", history.P4, "at attempt 2, want 1", func(r *history.Record) { r.Runs[1].Attempt = 2 }},
		{"a slow recovery", history.P4, "began again after 400ms", func(r *history.Record) { r.Recovery = 400 * time.Millisecond }},
		{"a slow recovery before an outage", history.P4, "began again after 400ms", func(r *history.Record) {
			r.Recovery = 400 * time.Millisecond
			r.Windows = append(r.Windows, history.Window{From: at(501), To: at(900), Outage: true})
		}},
		{"an acknowledged step again", history.P5, "ran again", func(r *history.Record) {
			r.Executions = append(r.Executions, history.Execution{Run: id(2), Step: 0, Item: "a", Attempt: 1, Began: at(601), Serial: 20})
		}},
		{"a step again without a loss", history.P5, "ran 2 times", func(r *history.Record) {
			r.Executions = append(r.Executions, history.Execution{Run: id(1), Step: 1, Attempt: 1, Began: at(30), Serial: 20})
		}},
		{"an outcome of a worker that was given up", history.P6, "execution 4, which execution 5 had replaced", func(r *history.Record) { r.Commits[1].Serial = 4 }},
		{"an outcome of another run", history.P6, "knows of no execution", func(r *history.Record) { r.Commits[1].Serial = 1 }},
		{"an outcome out of nowhere", history.P6, "knows of no execution", func(r *history.Record) { r.Commits[0].Serial = 99 }},
		{"a step after the end of its run", history.P6, "after the run's end", func(r *history.Record) { r.Executions[1].Began = at(101) }},
		{"a cancelled run that went on", history.P7, "known to have ended", func(r *history.Record) {
			r.Executions = append(r.Executions, history.Execution{Run: id(3), Step: 1, Attempt: 1, Began: at(61), Serial: 20})
		}},
		{"a cancelled run that succeeded later", history.P7, "is succeeded", func(r *history.Record) {
			r.Accepted[2].States = []task.State{task.StateCancelled}
			r.Runs[2].State = task.StateSucceeded
		}},
		{"a broken request without a fault", history.P8, "failed during no fault", func(r *history.Record) { r.Failures[0].Began, r.Failures[0].Ended = at(1500), at(1600) }},
		{"a broken request in a planned restart", history.P8, "failed during a planned restart", func(r *history.Record) { r.Failures[0].Began, r.Failures[0].Ended = at(500), at(600) }},
		{"a refused request at the death of a worker", history.P8, "failed during kill -9 of a worker", func(r *history.Record) { r.Failures[0].Refused = true }},
	}
	broken := map[history.Promise]bool{}
	for _, one := range cases {
		r := proven()
		one.spoil(&r)
		found := r.Check()
		text := ""
		for _, problem := range found {
			text += problem + "\n"
		}
		require.Contains(t, text, one.want, one.name)
		require.Positive(t, history.Broken(found, one.promise), "%s breaks %s:\n%s", one.name, one.promise, text)
		broken[one.promise] = true
	}
	for _, p := range history.Promises() {
		require.True(t, broken[p.Promise], "nothing shows that %s can break", p.Promise)
		require.Zero(t, history.Broken(proven().Check(), p.Promise))
	}
}

func TestARecoveryDuringAnOutageIsNotTimed(t *testing.T) {
	t.Parallel()
	r := proven()
	r.Recovery = 400 * time.Millisecond
	require.NotEmpty(t, r.Check())
	r.Windows = append(r.Windows, history.Window{From: at(400), To: at(450), Outage: true})
	require.Empty(t, r.Check())
}

func TestMarksAreFoundAtAnyDepth(t *testing.T) {
	t.Parallel()
	require.Equal(t, []int64{7}, history.Marks(json.RawMessage(`{"success":true,"data":{"step":1,"mark":7}}`)))
	require.ElementsMatch(t, []int64{1, 2}, history.Marks(json.RawMessage(`{"data":[{"data":{"mark":1}},{"data":{"mark":2}}]}`)))
	require.Empty(t, history.Marks(json.RawMessage(`{"mark":"text"}`)))
	require.Empty(t, history.Marks(json.RawMessage(`not JSON`)))
}
