package cli_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

// polls is a server whose source due is looked at, asked for, and looked at again.
func polls(t *testing.T, before, asked task.Source, items []task.SourceItem, then ...any) *shell {
	return shellOn(t, map[string]http.HandlerFunc{
		"GET /api/v1/sources/due":       inTurn(append([]any{before}, then...)...),
		"POST /api/v1/sources/due/poll": answer(http.StatusOK, asked),
		"GET /api/v1/sources/due/items": answer(http.StatusOK, items),
	})
}

func sourceAt(next, polled time.Duration, change func(*task.Source)) task.Source {
	at, last := now().Add(next), now().Add(polled)
	one := task.Source{SourceDefinition: task.SourceDefinition{Name: "due", Call: "p:m?f", Timeout: task.Duration(time.Second)}, NextPollAt: &at, PolledAt: &last}
	if change != nil {
		change(&one)
	}
	return one
}

func TestAPollTellsWhatItGave(t *testing.T) {
	t.Parallel()
	run := uuid.New()
	before, asked := sourceAt(time.Hour, -time.Hour, nil), sourceAt(0, -time.Hour, nil)
	underWay := sourceAt(0, time.Millisecond, nil) // a poll that began before has ended: this one is still due
	listed := func(n int) task.Source {
		return sourceAt(time.Hour, time.Second, func(s *task.Source) { s.Listed = n })
	}
	started := task.SourceItem{Key: "a", Run: &run, State: task.ItemRunning, StartedAt: now().Add(500 * time.Millisecond)}
	refused := task.SourceItem{Key: "b", State: task.ItemRefused, Reason: "there is no task x", StartedAt: now().Add(500 * time.Millisecond)}
	old := task.SourceItem{Key: "c", Run: &run, State: task.ItemRunning, StartedAt: now().Add(-time.Minute)}
	for want, c := range map[string]struct {
		listed int
		items  []task.SourceItem
	}{
		"due listed no items\n": {0, []task.SourceItem{}},
		"due listed 1 item, which is known: its run is under way, or its outcome is not recorded yet\n":                  {1, []task.SourceItem{old}},
		"due listed 2 items, all of which are known: their runs are under way, or their outcomes are not recorded yet\n": {2, []task.SourceItem{old}},
		"due listed 1 item; 1 run was started\n":                    {1, []task.SourceItem{started, old}},
		"due listed 3 items; 2 runs were started, 1 item refused\n": {3, []task.SourceItem{started, refused, started, old}},
	} {
		got := polls(t, before, asked, c.items, asked, underWay, listed(c.listed)).run("source", "poll", "due")
		require.Zero(t, got.code, got.err)
		require.Equal(t, want, got.out)
		if c.listed == 3 {
			require.Equal(t, "item b was refused: there is no task x\n", got.err)
		}
	}
	got := polls(t, before, asked, []task.SourceItem{started}, listed(1)).run("source", "poll", "due", "--json")
	require.Zero(t, got.code, got.err)
	var answered struct {
		Name string
		Poll struct{ Listed, Started, Refused int }
	}
	require.NoError(t, json.Unmarshal([]byte(got.out), &answered))
	require.Equal(t, "due", answered.Name)
	require.Equal(t, 1, answered.Poll.Started)

	got = polls(t, before, asked, nil, asked).run("source", "poll", "due", "--no-wait")
	require.Equal(t, "due is polled in a moment; see catena source show due\n", got.out)
}

func TestAPollThatFailsSaysWhy(t *testing.T) {
	t.Parallel()
	before, asked := sourceAt(time.Hour, -time.Hour, nil), sourceAt(0, -time.Hour, nil)
	failed := sourceAt(5*time.Second, -time.Hour, func(s *task.Source) { s.Failures, s.Error = 1, "the endpoint answered 500" })
	got := polls(t, before, asked, nil, asked, failed).run("source", "poll", "due")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "error: source due: due cannot be polled: the endpoint answered 500\n  fix: it is tried again by itself")

	never := task.Source{SourceDefinition: before.SourceDefinition, NextPollAt: before.NextPollAt}
	never.Failures, failed.Failures, failed.PolledAt, asked.PolledAt = 3, 4, nil, nil
	got = polls(t, never, asked, nil, failed).run("source", "poll", "due")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "cannot be polled")

	asked.PolledAt = before.PolledAt
	remarked := sourceAt(time.Hour, time.Second, func(s *task.Source) { s.Error, s.RecordError = "items are refused", "503" })
	got = polls(t, before, asked, []task.SourceItem{}, remarked).run("source", "poll", "due")
	require.Zero(t, got.code)
	require.Contains(t, got.err, "warning: items are refused\nwarning: it cannot be told of outcomes: 503\n")
}
