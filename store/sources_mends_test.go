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
