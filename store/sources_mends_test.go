package store_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func TestARefusedItemThatIsRunOnceMoreStartsNothingElse(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{Task: "demo"})
	f.accept(turn, store.NewItem{Key: "a", Refused: "chain: no sense"})
	taken := f.recordItems(turn, f.toRecord(turn), map[string]time.Duration{"a": 0})
	require.Equal(t, 1, taken.Refused)
	require.Zero(t, taken.Requeued)
	again := f.items("work")["a"]
	require.Equal(t, task.ItemRefused, again.State)
	require.Equal(t, 2, again.Attempt)
	require.Equal(t, "chain: no sense", again.Reason)
	require.Nil(t, again.Run)
}

func TestARunThatIsRetriedWhileItsOutcomeIsToldIsToldAgain(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{})
	f.accept(turn, store.NewItem{Key: "a", Task: "demo"}, store.NewItem{Key: "b", Task: "demo"})
	items := f.items("work")
	for _, item := range items {
		f.finish(*item.Run, task.StateFailed, `{"success":false}`)
	}
	f.endItems()
	told := f.toRecord(turn)
	require.Len(t, told, 2)
	_, err := f.RetryRun(t.Context(), *items["a"].Run, "", "test")
	require.NoError(t, err)
	taken := f.recordItems(turn, told, map[string]time.Duration{"a": 0})
	require.Equal(t, 1, taken.Recorded)
	require.Zero(t, taken.Requeued, "it runs already")
	require.Equal(t, task.ItemRunning, f.items("work")["a"].State)
	f.finish(*items["a"].Run, task.StateSucceeded, `{"success":true}`)
	require.EqualValues(t, 1, f.endItems())
	told = f.toRecord(turn)
	require.Len(t, told, 1)
	require.Equal(t, task.StateSucceeded, told[0].State)
}

func TestDedupeRefusesAnItemThatIsRunOnceMore(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.apply(task.Definition{Name: "once", Chain: json.RawMessage(`["nop"]`), Dedupe: &task.Dedupe{Key: "same", Window: task.Duration(time.Hour)}})
	turn := f.source(task.SourceDefinition{})
	f.accept(turn, store.NewItem{Key: "a", Task: "once"})
	run := *f.items("work")["a"].Run
	f.finish(run, task.StateFailed, `{"success":false}`)
	f.endItems()
	for attempt := 2; attempt <= 3; attempt++ {
		taken := f.recordItems(turn, f.toRecord(turn), map[string]time.Duration{"a": 0})
		require.Equal(t, 1, taken.Refused)
		require.Zero(t, taken.Requeued)
		item := f.items("work")["a"]
		require.Equal(t, task.ItemRefused, item.State)
		require.Equal(t, attempt, item.Attempt)
		require.Contains(t, item.Reason, "dedupe: run "+run.String()+" has the key")
		require.Empty(t, f.toRecord(turn), "a source that insists is told after a pause")
		f.exec(`UPDATE source_items SET record_at = clock_timestamp()`)
	}
}

func TestItemsAreListedTheOpenOnesFirst(t *testing.T) {
	t.Parallel()
	f := open(t)
	turn := f.source(task.SourceDefinition{})
	for _, key := range []string{"a", "b", "c", "d"} {
		f.accept(turn, store.NewItem{Key: key, Task: "demo"})
	}
	for _, key := range []string{"b", "a"} {
		f.finish(*f.items("work")[key].Run, task.StateSucceeded, `{"success":true}`)
		f.endItems()
		f.recordItems(turn, f.toRecord(turn), nil)
	}
	f.accept(turn, store.NewItem{Key: "e", Refused: "x"})
	keys := func(limit int, states ...task.SourceItemState) (keys string) {
		list, err := f.SourceItems(t.Context(), store.ItemFilter{Source: "work", States: states, Limit: limit})
		require.NoError(t, err)
		for _, item := range list {
			keys += item.Key
		}
		return keys
	}
	require.Equal(t, "edcab", keys(10))
	require.Equal(t, "edca", keys(4))
	require.Equal(t, "ed", keys(2))
	require.Equal(t, "eab", keys(10, task.ItemRecorded, task.ItemRefused))
	require.Equal(t, "dc", keys(10, task.ItemRunning))
}

func TestASourceThatIsAskedForWhileItIsPolledIsPolledAgain(t *testing.T) {
	t.Parallel()
	f := open(t)
	once := false
	turn := f.source(task.SourceDefinition{Loop: &once})
	_, err := f.PollSource(t.Context(), "work")
	require.NoError(t, err)
	f.exec(`UPDATE sources SET next_poll_at = next_poll_at + interval '10 milliseconds'`)
	_, err = f.AcceptItems(t.Context(), f.term, turn, store.SourceAnswer{})
	require.NoError(t, err)
	turn = f.turn("work")
	require.NotNil(t, turn.NextPollAt, "it is not done")
	turn.At = *turn.NextPollAt
	_, err = f.AcceptItems(t.Context(), f.term, turn, store.SourceAnswer{})
	require.NoError(t, err)
	require.Nil(t, f.turn("work").NextPollAt)
}

func TestASourceThatWasMadeAnewTakesNoAnswerOfTheOldOne(t *testing.T) {
	t.Parallel()
	f := open(t)
	old := f.source(task.SourceDefinition{})
	require.NoError(t, f.DeleteSource(t.Context(), "work", false))
	f.source(task.SourceDefinition{HTTP: &task.SourceHTTP{URL: "http://127.0.0.2/"}})
	_, err := f.AcceptItems(t.Context(), f.term, old, store.SourceAnswer{Items: []store.NewItem{{Key: "a", Task: "demo"}}})
	require.True(t, store.SourceChanged(err))
	require.True(t, store.SourceChanged(f.FailPoll(t.Context(), f.term, old, "no")))
	require.Zero(t, f.turn("work").Failures)
}

func TestDueSourcesAreBoundedAndLeaveOut(t *testing.T) {
	t.Parallel()
	f := open(t)
	for _, name := range []string{"a", "b", "c"} {
		f.accept(f.source(task.SourceDefinition{Name: name}), store.NewItem{Key: "k", Refused: "x"})
	}
	f.exec(`UPDATE sources SET next_poll_at = clock_timestamp() - interval '1 hour' WHERE name = 'c'`)
	f.exec(`UPDATE sources SET next_poll_at = clock_timestamp() - interval '2 hours' WHERE name = 'b'`)
	due, err := f.DueSources(t.Context(), store.DueFilter{Limit: 2, NoRecord: []string{"b", "c"}})
	require.NoError(t, err)
	require.Len(t, due, 2)
	require.Equal(t, "b", due[0].Name)
	require.True(t, due[0].Poll && !due[0].Record)
	require.Equal(t, "c", due[1].Name)
	due, err = f.DueSources(t.Context(), store.DueFilter{Limit: 9, NoPoll: []string{"b", "c"}, NoRecord: []string{"a", "b"}})
	require.NoError(t, err)
	require.Len(t, due, 1)
	require.Equal(t, "c", due[0].Name)
}

func TestASourceThatWasWrittenByHandHasTheDefaults(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.exec(`INSERT INTO sources (name, http, task) VALUES ('sql/orders', '{"url": "http://127.0.0.1:20090/work"}', 'sql/hello')`)
	due := f.due("sql/orders")
	require.True(t, due.Poll)
	require.Equal(t, "POST", due.HTTP.Method)
	require.NoError(t, due.Validate())
}

func TestATimeThatNeverComesStopsOneSourceAlone(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.accept(f.source(task.SourceDefinition{Name: "stopped"}), store.NewItem{Key: "a", Refused: "x"})
	f.source(task.SourceDefinition{Name: "other"})
	f.exec(`UPDATE sources SET next_poll_at = 'infinity', record_at = 'infinity' WHERE name = 'stopped'`)
	f.exec(`UPDATE source_items SET record_at = 'infinity'`)
	list, err := f.Sources(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Nil(t, f.items("stopped")["a"].RecordAt)
	require.False(t, f.due("stopped").Poll)
	require.True(t, f.due("other").Poll)
	f.exec(`UPDATE sources SET next_poll_at = '-infinity' WHERE name = 'stopped'`)
	require.True(t, f.due("stopped").Poll)
}
