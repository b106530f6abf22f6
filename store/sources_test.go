package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func (f *fixture) source(def task.SourceDefinition) store.SourceTurn {
	f.t.Helper()
	if def.Name == "" {
		def.Name = "work"
	}
	if def.Call == "" && def.HTTP == nil {
		def.HTTP = &task.SourceHTTP{URL: "http://127.0.0.1/"}
	}
	require.NoError(f.t, def.Validate())
	_, err := f.Apply(f.t.Context(), store.Documents{Sources: []task.SourceDefinition{def}}, false)
	require.NoError(f.t, err)
	return f.turn(def.Name)
}

// turn reads a source as a turn would find it, whether or not it is due.
func (f *fixture) turn(name string) store.SourceTurn {
	f.t.Helper()
	one, err := f.Source(f.t.Context(), name)
	require.NoError(f.t, err)
	t := store.SourceTurn{Source: one}
	require.NoError(f.t, f.Pool().QueryRow(f.t.Context(), `SELECT version, clock_timestamp() FROM sources WHERE name = $1`, name).Scan(&t.Version, &t.At))
	return t
}

func (f *fixture) accept(turn store.SourceTurn, items ...store.NewItem) store.Taken {
	f.t.Helper()
	var err error
	turn.At, err = f.Now(f.t.Context())
	require.NoError(f.t, err)
	taken, err := f.AcceptItems(f.t.Context(), f.term, turn, store.SourceAnswer{Items: items})
	require.NoError(f.t, err)
	return taken
}

func (f *fixture) items(name string) map[string]task.SourceItem {
	f.t.Helper()
	list, err := f.SourceItems(f.t.Context(), store.ItemFilter{Source: name, Limit: 1000})
	require.NoError(f.t, err)
	byKey := map[string]task.SourceItem{}
	for _, item := range list {
		byKey[item.Key] = item
	}
	return byKey
}

// finish ends a run as a worker would, whatever lane it waits in.
func (f *fixture) finish(run uuid.UUID, state task.State, outcome string) {
	f.t.Helper()
	f.exec(`DELETE FROM ready WHERE run = $1`, run)
	f.exec(`DELETE FROM parcels WHERE $1 = ANY (runs)`, run)
	require.EqualValues(f.t, 1, f.exec(`UPDATE runs SET state = $2, outcome = $3::text::json, finished_at = clock_timestamp() WHERE id = $1`, run, string(state), outcome))
}

func (f *fixture) endItems() int64 {
	f.t.Helper()
	next, ended, err := f.EndItems(f.t.Context(), f.term, uuid.UUID{})
	require.NoError(f.t, err)
	require.Zero(f.t, next)
	return ended
}

func (f *fixture) toRecord(turn store.SourceTurn) []store.ItemOutcome {
	f.t.Helper()
	list, err := f.ItemsToRecord(f.t.Context(), f.term, turn, 100, 1<<20)
	require.NoError(f.t, err)
	return list
}

func (f *fixture) recordItems(turn store.SourceTurn, items []store.ItemOutcome, again map[string]time.Duration) store.Taken {
	f.t.Helper()
	taken, err := f.RecordItems(f.t.Context(), f.term, turn, items, again)
	require.NoError(f.t, err)
	return taken
}

func TestAKeyIsStartedOnceUntilItIsRecorded(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{})
	item := store.NewItem{Key: "a", Task: "demo", Params: json.RawMessage(`{"n": 1}`)}
	taken := f.accept(turn, item, store.NewItem{Key: "b", Task: "demo"})
	require.Equal(t, 2, taken.Started)
	first := f.items("work")
	require.Equal(t, task.ItemRunning, first["a"].State)
	require.JSONEq(t, `{"n": 1}`, string(f.run(*first["a"].Run).Params))

	taken = f.accept(turn, item, store.NewItem{Key: "c", Task: "demo"})
	require.Equal(t, 1, taken.Started)
	require.Equal(t, 1, taken.Known)
	require.Zero(t, f.endItems(), "nothing has ended")

	f.finish(*first["a"].Run, task.StateSucceeded, `{"success":true,"data":7}`)
	require.EqualValues(t, 1, f.endItems())
	require.Equal(t, 1, f.accept(turn, item).Known, "it has ended and is not recorded")
	told := f.toRecord(turn)
	require.Len(t, told, 1)
	require.Equal(t, "a", told[0].Key)
	require.Equal(t, task.StateSucceeded, told[0].State)
	require.JSONEq(t, `{"success":true,"data":7}`, string(told[0].Outcome))
	require.NotNil(t, told[0].FinishedAt)
	require.Equal(t, 1, f.recordItems(turn, told, nil).Recorded)
	require.Empty(t, f.toRecord(turn))
	require.Zero(t, f.recordItems(turn, told, nil).Recorded, "again changes nothing")

	require.Equal(t, 1, f.accept(turn, item).Started)
	again := f.items("work")["a"]
	require.Equal(t, 2, again.Attempt)
	require.NotEqual(t, first["a"].Run, again.Run)
	require.Zero(t, f.recordItems(turn, told, map[string]time.Duration{"a": 0}).Recorded, "a late answer about the attempt before")
}

func TestAListFromBeforeTheRecordStartsNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.accept(f.source(task.SourceDefinition{}), store.NewItem{Key: "a", Task: "demo"})
	f.finish(*f.items("work")["a"].Run, task.StateSucceeded, `{"success":true}`)
	f.endItems()
	asked := f.turn("work") // its answer is on the way
	told := f.turn("work")
	require.Equal(t, 1, f.recordItems(told, f.toRecord(told), nil).Recorded)
	list := store.SourceAnswer{Items: []store.NewItem{{Key: "a", Task: "demo"}}}
	taken, err := f.AcceptItems(t.Context(), f.term, asked, list)
	require.NoError(t, err)
	require.Equal(t, 1, taken.Known)
	taken, err = f.AcceptItems(t.Context(), f.term, f.turn("work"), list)
	require.NoError(t, err)
	require.Equal(t, 1, taken.Started, "it is listed again by who knows of the record")
}

func TestItemsRunWhereAndAsTheSourceSays(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.apply(task.Definition{Name: "tagged", Chain: json.RawMessage(`["nop"]`), Queue: "low", Tags: []string{"gpu"}},
		task.Definition{Name: "once", Chain: json.RawMessage(`["nop"]`), Dedupe: &task.Dedupe{Key: "same", Window: task.Duration(time.Hour)}})
	turn := f.source(task.SourceDefinition{Runtime: "eu-1", Queue: "own"})
	urgent := 9
	chain := json.RawMessage(`[["//inline/p:m?f",{"n":1}]]`)
	taken := f.accept(turn,
		store.NewItem{Key: "plain", Task: "demo", Priority: &urgent},
		store.NewItem{Key: "tagged", Task: "tagged"},
		store.NewItem{Key: "chain", Chain: chain}, store.NewItem{Key: "same", Chain: chain}, store.NewItem{Key: "other", Chain: json.RawMessage(`["nop"]`)},
		store.NewItem{Key: "d1", Task: "once"}, store.NewItem{Key: "d2", Task: "once"},
		store.NewItem{Key: "unknown", Task: "dmeo"}, store.NewItem{Key: "bad", Refused: "no sense"})
	require.Equal(t, 7, taken.Started)
	require.Equal(t, 2, taken.Refused)
	items := f.items("work")
	lanes := map[string]string{}
	rows, err := f.Pool().Query(t.Context(), `SELECT i.key, r.lane FROM source_items i JOIN runs r ON r.id = i.run`)
	require.NoError(t, err)
	for rows.Next() {
		var key, lane string
		require.NoError(t, rows.Scan(&key, &lane))
		lanes[key] = lane
	}
	require.Equal(t, "default+eu-1", lanes["plain"])
	require.Equal(t, "low+eu-1+gpu", lanes["tagged"])
	require.Equal(t, "own+eu-1", lanes["chain"])
	require.Equal(t, 9, f.run(*items["plain"].Run).Priority)
	chained := f.run(*items["chain"].Run)
	require.Equal(t, "source-item/work", chained.Task)
	require.Equal(t, chained.Revision, f.run(*items["same"].Run).Revision, "the same chain is the same revision")
	require.NotEqual(t, chained.Revision, f.run(*items["other"].Run).Revision)
	revisions, err := f.Revisions(t.Context(), []int64{chained.Revision})
	require.NoError(t, err)
	require.JSONEq(t, string(chain), string(revisions[chained.Revision].Chain))
	require.Equal(t, items["d1"].Run, items["d2"].Run, "dedupe answers with the first run")
	require.Contains(t, items["unknown"].Reason, `there is no task "dmeo"`)
	require.Equal(t, "no sense", items["bad"].Reason)
	tasks, err := f.Tasks(t.Context())
	require.NoError(t, err)
	require.Len(t, tasks, 3, "the runs of chains need no task")

	// The refused ones are told at once, without a run.
	told := f.toRecord(turn)
	require.Len(t, told, 2)
	require.Nil(t, told[0].Run)
	require.Empty(t, told[0].State)
	_, err = f.Task(t.Context(), "source-item/work")
	require.ErrorContains(t, err, "catena source show work")
}

func TestItemsOfALimitedTaskKeepTheirLane(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.apply(task.Definition{Name: "limited", Chain: json.RawMessage(`["nop"]`), Concurrency: &task.Concurrency{Limit: 1}})
	_, err := f.RegisterWorker(t.Context(), task.Worker{ID: "tagged", Host: "h", PID: 1, Version: "test", Queues: []string{"*"}, Tags: []string{"eu-1"}, Slots: 4})
	require.NoError(t, err)
	turn := f.source(task.SourceDefinition{Runtime: "eu-1"})
	taken := f.accept(turn, store.NewItem{Key: "a", Task: "limited"}, store.NewItem{Key: "b", Task: "limited"})
	require.Empty(t, taken.Parcels, "a turn of the leader lets them start")
	parcels, _, err := f.Admit(t.Context(), f.term)
	require.NoError(t, err)
	require.Len(t, parcels, 1, "one at once")
	require.Equal(t, "default+eu-1", parcels[0].Lane)
}

func TestARequeuedItemRunsOnceMoreLater(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{})
	f.accept(turn, store.NewItem{Key: "a", Task: "demo", Params: json.RawMessage(`{"n":1}`)}, store.NewItem{Key: "b", Chain: json.RawMessage(`["nop"]`)})
	before := f.items("work")
	for _, item := range before {
		f.finish(*item.Run, task.StateFailed, `{"success":false}`)
	}
	require.EqualValues(t, 2, f.endItems())
	taken := f.recordItems(turn, f.toRecord(turn), map[string]time.Duration{"a": time.Hour, "b": 0})
	require.Equal(t, 2, taken.Requeued)
	require.Equal(t, 2, taken.Recorded)
	after := f.items("work")
	for key := range before {
		require.Equal(t, 2, after[key].Attempt)
		require.Equal(t, task.ItemRunning, after[key].State)
		require.NotEqual(t, before[key].Run, after[key].Run)
	}
	later := f.run(*after["a"].Run)
	require.JSONEq(t, `{"n":1}`, string(later.Params))
	require.WithinDuration(t, time.Now().Add(time.Hour), *later.AvailableAt, time.Minute)

	// A task that has gone meanwhile: the item is refused, and the source hears of it.
	f.finish(*after["a"].Run, task.StateFailed, `{"success":false}`)
	f.endItems()
	require.NoError(t, f.DeleteTask(t.Context(), "demo"))
	taken = f.recordItems(turn, f.toRecord(turn), map[string]time.Duration{"a": 0})
	require.Equal(t, 1, taken.Refused)
	require.Equal(t, task.ItemRefused, f.items("work")["a"].State)
}

func TestAStaleLeaderChangesNoSource(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{})
	f.accept(turn, store.NewItem{Key: "a", Task: "demo"})
	f.finish(*f.items("work")["a"].Run, task.StateSucceeded, `{"success":true}`)
	f.endItems()
	told := f.toRecord(turn)
	f.exec(`UPDATE leader SET term = term + 1`)
	_, err := f.AcceptItems(t.Context(), f.term, turn, store.SourceAnswer{Items: []store.NewItem{{Key: "b", Task: "demo"}}})
	require.True(t, store.StaleTerm(err))
	_, err = f.RecordItems(t.Context(), f.term, turn, told, nil)
	require.True(t, store.StaleTerm(err))
	require.True(t, store.StaleTerm(f.FailPoll(t.Context(), f.term, turn, "x")))
	require.True(t, store.StaleTerm(f.FailRecord(t.Context(), f.term, turn, told, "x")))
	_, err = f.SweepItems(t.Context(), f.term)
	require.True(t, store.StaleTerm(err))
	require.Equal(t, task.ItemEnded, f.items("work")["a"].State)
	require.Len(t, f.items("work"), 1)
}

func TestFailuresOfASourceWaitLongerAndLonger(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{Every: task.Duration(time.Second)})
	for n := 1; n <= 12; n++ {
		f.exec(`UPDATE sources SET next_poll_at = clock_timestamp()`)
		turn = f.turn("work")
		require.NoError(t, f.FailPoll(t.Context(), f.term, turn, fmt.Sprintf("problem %d\x00", n)))
		turn = f.turn("work")
		require.Equal(t, n, turn.Failures)
		require.Equal(t, task.SourceFailing, turn.Status)
		wait := time.Until(*turn.NextPollAt)
		require.Greater(t, wait, min(time.Second<<(n-1), 5*time.Minute)/2)
		require.Less(t, wait, min(time.Second<<(n-1), 5*time.Minute)*2)
	}
	require.Contains(t, turn.Error, "problem 12")
	f.accept(turn)
	turn = f.turn("work")
	require.Zero(t, turn.Failures)
	require.Empty(t, turn.Error)

	// Outcomes: three failures together, then each item alone, so that one that
	// cannot be recorded keeps no other.
	f.accept(turn, store.NewItem{Key: "a", Task: "demo"}, store.NewItem{Key: "b", Task: "demo"})
	for _, item := range f.items("work") {
		f.finish(*item.Run, task.StateSucceeded, `{"success":true}`)
	}
	f.endItems()
	for n := range 3 {
		told := f.toRecord(turn)
		require.Len(t, told, 2)
		require.NoError(t, f.FailRecord(t.Context(), f.term, turn, told, "no"))
		require.Empty(t, f.toRecord(turn), "not before its time")
		f.exec(`UPDATE source_items SET record_at = clock_timestamp()`)
		require.Equal(t, n+1, f.turn("work").RecordFailures)
	}
	require.Len(t, f.toRecord(turn), 1)
	require.Equal(t, "no", f.items("work")["a"].Error)
	due, err := f.DueSources(t.Context(), store.DueFilter{Limit: 100})
	require.NoError(t, err)
	require.Empty(t, due, "neither the poll nor the record is due")
	_, err = f.PollSource(t.Context(), "work")
	require.NoError(t, err)
	due, err = f.DueSources(t.Context(), store.DueFilter{Limit: 100})
	require.NoError(t, err)
	require.Len(t, due, 1)
	require.True(t, due[0].Poll)
	require.True(t, due[0].Record)
}

func TestARunThatIsGoneOrRetriedIsRecordedAsItIs(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{})
	f.accept(turn, store.NewItem{Key: "gone", Task: "demo"}, store.NewItem{Key: "retried", Task: "demo"})
	items := f.items("work")
	f.finish(*items["gone"].Run, task.StateSucceeded, `{"success":true}`)
	f.exec(`DELETE FROM runs WHERE id = $1`, *items["gone"].Run)
	f.finish(*items["retried"].Run, task.StateFailed, `{"success":false}`)
	require.EqualValues(t, 2, f.endItems())
	_, err := f.RetryRun(t.Context(), *items["retried"].Run, "", "test")
	require.NoError(t, err)
	told := f.toRecord(turn)
	require.Len(t, told, 1)
	require.Equal(t, "gone", told[0].Key)
	require.Nil(t, told[0].Outcome)
	require.Contains(t, told[0].Reason, "no longer kept")
	require.Equal(t, task.ItemRunning, f.items("work")["retried"].State)
	f.finish(*items["retried"].Run, task.StateSucceeded, `{"success":true}`)
	require.EqualValues(t, 1, f.endItems())
}

func TestOutcomesAreRecordedInPortions(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{})
	large, err := json.Marshal(map[string]any{"success": true, "data": string(make([]byte, 50_000))})
	require.NoError(t, err)
	for _, key := range []string{"a", "b", "c"} {
		f.accept(turn, store.NewItem{Key: key, Task: "demo"})
		f.finish(*f.items("work")[key].Run, task.StateSucceeded, string(large))
	}
	f.endItems()
	for size, want := range map[int]int{1: 1, 700_000: 2, 10 << 20: 3} {
		list, err := f.ItemsToRecord(t.Context(), f.term, turn, 100, size)
		require.NoError(t, err)
		require.Len(t, list, want)
	}
}

func TestASourceThatIsAFunctionIsAskedByRuns(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{Call: "inbox:source?work", Runtime: "eu", Timeout: task.Duration(time.Minute)})
	chain := json.RawMessage(`[{"call":"inbox:source?work","with":"${params}"}]`)
	_, err := f.CallSource(t.Context(), f.term, turn, store.SourceCall{Chain: chain, Request: json.RawMessage(`{"action":"iterate"}`)})
	require.NoError(t, err)
	_, err = f.CallSource(t.Context(), f.term, turn, store.SourceCall{Chain: chain, Request: json.RawMessage(`{}`)})
	require.True(t, store.SourceChanged(err), "one is under way")
	turn = f.turn("work")
	require.NotNil(t, turn.PollRun)
	run := f.run(*turn.PollRun)
	require.Equal(t, "source-poll/work", run.Task)
	require.JSONEq(t, `{"action":"iterate"}`, string(run.Params))
	revisions, err := f.Revisions(t.Context(), []int64{run.Revision})
	require.NoError(t, err)
	require.Equal(t, time.Minute, revisions[run.Revision].Timeout)
	require.False(t, f.due("work").Poll)

	f.finish(*turn.PollRun, task.StateSucceeded, `{"success":true}`)
	require.True(t, f.due("work").Poll)
	f.accept(turn, store.NewItem{Key: "a", Task: "demo"})
	_, err = f.AcceptItems(t.Context(), f.term, turn, store.SourceAnswer{Items: []store.NewItem{{Key: "b", Task: "demo"}}})
	require.True(t, store.SourceChanged(err), "its answer was taken before")
	turn = f.turn("work")
	require.Nil(t, turn.PollRun)

	f.finish(*f.items("work")["a"].Run, task.StateSucceeded, `{"success":true}`)
	f.endItems()
	told := f.toRecord(turn)
	_, err = f.CallSource(t.Context(), f.term, turn, store.SourceCall{Chain: chain, Request: json.RawMessage(`{"action":"record"}`), Items: told})
	require.NoError(t, err)
	turn = f.turn("work")
	require.Equal(t, run.Revision, f.run(*turn.RecordRun).Revision, "the same chain is the same revision")
	of, err := f.ItemsOfRecord(t.Context(), turn)
	require.NoError(t, err)
	require.Len(t, of, 1)
	require.NoError(t, f.FailRecord(t.Context(), f.term, turn, of, "no"))
	require.Nil(t, f.turn("work").RecordRun)
	require.Equal(t, 1, f.items("work")["a"].Tries)

	// The runs that ask are kept for an hour.
	f.exec(`UPDATE runs SET state = 'succeeded', finished_at = clock_timestamp() - interval '2 hours', created_at = clock_timestamp() - interval '2 hours' WHERE task LIKE 'source-poll/%'`)
	now := time.Now().Add(3 * time.Hour)
	expired, err := f.Expired(t.Context(), store.Retention{Runs: 720 * time.Hour, Logs: time.Hour}, now)
	require.NoError(t, err)
	require.Len(t, expired, 1)
	require.Equal(t, "source-poll/work", expired[0].Task)
}

// due returns what is due of a source.
func (f *fixture) due(name string) (turn store.SourceTurn) {
	f.t.Helper()
	list, err := f.DueSources(context.Background(), store.DueFilter{Limit: 100})
	require.NoError(f.t, err)
	for _, one := range list {
		if one.Name == name {
			turn = one
		}
	}
	return turn
}

func TestSourcesAreAppliedPausedPolledAndDeleted(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := t.Context()
	once := false
	def := task.SourceDefinition{Name: "once", Call: "p:m?f", Loop: &once, Description: "x"}
	change := func(def task.SourceDefinition) string {
		applied, err := f.Apply(ctx, store.Documents{Sources: []task.SourceDefinition{def}}, false)
		require.NoError(t, err)
		return applied[0].Kind + " " + applied[0].Change
	}
	require.Equal(t, "source created", change(def))
	require.Equal(t, "source unchanged", change(def))
	stale := f.turn("once")
	require.True(t, f.due("once").Poll)
	f.accept(stale)
	require.Equal(t, task.SourceDone, f.turn("once").Status)
	require.False(t, f.due("once").Poll)
	def.Description = "y"
	require.Equal(t, "source updated", change(def))
	require.False(t, f.due("once").Poll, "its description is not what is polled")
	def.Limit = 7
	require.Equal(t, "source updated", change(def))
	require.True(t, f.due("once").Poll, "its new text is")
	f.accept(stale)
	require.True(t, f.due("once").Poll, "an answer to the old text does not end the new one")

	_, err := f.PauseSource(ctx, "once", "holidays")
	require.NoError(t, err)
	require.False(t, f.due("once").Poll)
	_, err = f.PollSource(ctx, "once")
	require.ErrorContains(t, err, "catena source resume once")
	require.Equal(t, "source unchanged", change(def), "a pause by hand stays")
	resumed, err := f.ResumeSource(ctx, "once")
	require.NoError(t, err)
	require.Equal(t, task.SourceReady, resumed.Status)
	require.True(t, f.due("once").Poll)

	f.accept(f.turn("once"), store.NewItem{Key: "a", Task: "demo"})
	err = f.DeleteSource(ctx, "once", false)
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	require.ErrorContains(t, err, "1 items")
	require.NoError(t, f.DeleteSource(ctx, "once", true))
	for _, err := range []error{
		f.DeleteSource(ctx, "once", true), second(f.Source(ctx, "once")), second(f.PauseSource(ctx, "on\x00ce", "")), second(f.SourceItems(ctx, store.ItemFilter{Source: "once", Limit: 1})),
	} {
		require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	}
	f.source(task.SourceDefinition{Name: "billing"})
	require.ErrorContains(t, second(f.Source(ctx, "biling")), "did you mean billing?")

	// A row that was written by hand is polled like any other; what is wrong with it is its error.
	f.exec(`INSERT INTO sources (name, http) VALUES ('byhand', '{"url": 7}')`)
	require.Error(t, f.turn("byhand").Validate())
	require.True(t, f.due("byhand").Poll)
}

func second[T any](_ T, err error) error { return err }

func TestItemsAreForgottenAWeekAfterTheirRecord(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{})
	f.accept(turn, store.NewItem{Key: "a", Task: "demo"}, store.NewItem{Key: "b", Task: "demo"})
	for _, item := range f.items("work") {
		f.finish(*item.Run, task.StateSucceeded, `{"success":true}`)
	}
	f.endItems()
	f.recordItems(turn, f.toRecord(turn), nil)
	f.exec(`UPDATE source_items SET recorded_at = clock_timestamp() - interval '8 days' WHERE key = 'a'`)
	_, err := f.SweepItems(t.Context(), f.term)
	require.NoError(t, err)
	require.Len(t, f.items("work"), 1)
}

// Whatever is repeated or lost in between: each attempt of a key has one run,
// and the next attempt begins only after the one before was recorded.
func TestPropertyAnAttemptHasOneRun(t *testing.T) {
	t.Parallel()
	f := open(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		name := fmt.Sprintf("work-%d", n)
		turn := f.source(task.SourceDefinition{Name: name})
		keys := []string{"a", "b", "c"}
		want := map[string]int{} // attempts
		state := map[string]task.SourceItemState{}
		var late []store.ItemOutcome // of a record whose answer was lost
		rt.Repeat(map[string]func(*rapid.T){
			"poll": func(rt *rapid.T) {
				var items []store.NewItem
				for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 1, 3, rapid.ID[string]).Draw(rt, "keys") {
					name := rapid.SampledFrom([]string{"demo", "demo", "nothing"}).Draw(rt, "task")
					items = append(items, store.NewItem{Key: key, Task: name})
					if state[key] != "" && state[key] != task.ItemRecorded {
						continue
					}
					want[key]++
					state[key] = task.ItemRunning
					if name == "nothing" {
						state[key] = task.ItemRefused
					}
				}
				f.accept(turn, items...)
			},
			"end": func(rt *rapid.T) {
				key := rapid.SampledFrom(keys).Draw(rt, "key")
				if state[key] != task.ItemRunning {
					return
				}
				f.finish(*f.items(name)[key].Run, task.StateSucceeded, `{"success":true}`)
				f.endItems()
				state[key] = task.ItemEnded
			},
			"record": func(rt *rapid.T) {
				told := f.toRecord(turn)
				if rapid.Bool().Draw(rt, "lost") {
					late = told
					return
				}
				again := map[string]time.Duration{}
				for _, item := range told {
					state[item.Key] = task.ItemRecorded
					if item.State != "" && rapid.Bool().Draw(rt, "requeue") {
						again[item.Key] = 0
						want[item.Key]++
						state[item.Key] = task.ItemRunning
						if item.Task == "nothing" {
							state[item.Key] = task.ItemRefused
						}
					}
				}
				require.Equal(rt, len(told), f.recordItems(turn, told, again).Recorded)
			},
			"late answer": func(rt *rapid.T) {
				before := f.items(name)
				current := map[string]bool{}
				for _, item := range late {
					if b := before[item.Key]; b.Attempt == item.Attempt && b.RecordAt != nil {
						current[item.Key] = true
						state[item.Key] = task.ItemRecorded
					}
				}
				require.Equal(rt, len(current), f.recordItems(turn, late, nil).Recorded)
				late = nil
			},
		})
		items := f.items(name)
		for key, attempt := range want {
			require.Equal(rt, attempt, items[key].Attempt, key)
			require.Equal(rt, state[key], items[key].State, key)
		}
	})
	var runs, distinct int
	require.NoError(t, f.Pool().QueryRow(t.Context(), `SELECT count(run), count(DISTINCT run) FROM source_items`).Scan(&runs, &distinct))
	require.Equal(t, distinct, runs, "no run belongs to two items")
}
