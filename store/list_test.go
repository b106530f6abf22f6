package store_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// zoo makes runs of two tasks in every state, old and new.
func zoo(t *testing.T) *fixture {
	t.Helper()
	f := open(t)
	ctx := context.Background()
	f.apply(task.Definition{Name: "other", Chain: json.RawMessage(`["nop"]`)})
	worker := f.worker()
	for _, name := range []string{"demo", "other"} {
		for _, state := range []task.State{task.StateSucceeded, task.StateFailed, task.StateCancelled, task.StateTimedOut, task.StateQuarantined} {
			f.past(name, 3, 3*days, state)
			f.past(name, 2, 2*time.Minute, state)
		}
		for range 3 { // queued, dispatched, running and waiting
			later := []store.NewRun{{Task: name, At: time.Now().Add(time.Hour)}}
			_, _, err := f.InsertRuns(ctx, later)
			require.NoError(t, err)
			for _, state := range []task.State{task.StateDispatched, task.StateRunning, task.StateWaiting} {
				accepted, parcels, err := f.InsertRuns(ctx, []store.NewRun{{Task: name}})
				require.NoError(t, err)
				require.Len(t, parcels, 1)
				claimed := f.claim(worker, parcels[0])[0]
				switch state {
				case task.StateRunning:
					_, err = f.MarkRunning(ctx, worker, []uuid.UUID{claimed.ID}, []int32{claimed.Fence}, []time.Time{time.Now()})
					require.NoError(t, err)
				case task.StateWaiting:
					f.exec(`UPDATE runs SET state = 'waiting', parcel = NULL WHERE id = $1`, accepted[0].ID)
					f.exec(`DELETE FROM parcels WHERE id = $1`, parcels[0].ID)
					f.exec(`INSERT INTO waits (run, attempt, iteration, path, kind, task) VALUES ($1, 1, 0, '0', 'approval', $2)`, accepted[0].ID, name)
				}
			}
		}
	}
	return f
}

// Every filter gives what reading all runs and filtering them would, page by page too.
func TestRunsByFilter(t *testing.T) {
	t.Parallel()
	f := zoo(t)
	f.apply(task.Definition{Name: "none", Chain: json.RawMessage(`["nop"]`)}) // has no run
	ctx := context.Background()
	all, err := f.Runs(ctx, store.RunFilter{Limit: 10_000})
	require.NoError(t, err)
	require.Len(t, all, 2*(5*5+3*4))
	require.True(t, slices.IsSortedFunc(all, func(a, b task.Run) int { return slices.Compare(b.ID[:], a.ID[:]) }))
	states := []string{"", "failed,succeeded", "queued,dispatched,running,waiting", "failed,cancelled,timed_out,quarantined",
		"waiting,quarantined,succeeded", "failed,failed"}
	for _, state := range task.States {
		states = append(states, string(state))
	}
	var everything []string
	for _, state := range task.States {
		everything = append(everything, string(state))
	}
	states = append(states, strings.Join(everything, ","))
	for _, state := range states {
		for _, name := range []string{"", "demo", "none"} {
			for _, since := range []time.Time{{}, time.Now().Add(-time.Hour)} {
				want := []uuid.UUID{}
				for _, r := range all {
					if (state == "" || slices.Contains(strings.Split(state, ","), string(r.State))) && (name == "" || r.Task == name) &&
						(since.IsZero() || r.CreatedAt.After(since)) {
						want = append(want, r.ID)
					}
				}
				got, page := []uuid.UUID{}, store.RunFilter{State: state, Task: name, Since: since, Limit: 4}
				for {
					runs, err := f.Runs(ctx, page)
					require.NoError(t, err)
					for _, r := range runs {
						got = append(got, r.ID)
						if !r.State.Terminal() {
							continue
						}
						require.Len(t, r.Steps, 1, "an ended run comes with its steps")
					}
					if len(runs) == 0 {
						break
					}
					page.Before = runs[len(runs)-1].ID
				}
				require.Equal(t, want, got, "state %q task %q since %v", state, name, since)
			}
		}
	}
	_, err = f.Runs(ctx, store.RunFilter{State: "failed,gone"})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
}

func TestStats(t *testing.T) {
	t.Parallel()
	f := zoo(t)
	ctx := context.Background()
	f.exec(`ANALYZE`)
	stats, err := f.Stats(ctx)
	require.NoError(t, err)
	tables := map[string]task.TableStats{}
	for _, table := range stats.Tables {
		tables[table.Table] = table
		require.NotContains(t, table.Table, "_20", "partitions are summed")
	}
	runs := tables["runs"]
	require.Equal(t, int64(2*(5*5+3*4)), runs.Rows)
	require.Greater(t, runs.Partitions, 8)
	require.Positive(t, runs.Size)
	require.Positive(t, runs.Indexes)
	require.WithinDuration(t, time.Now().Add(-3*days), *runs.Oldest, time.Minute)
	require.WithinDuration(t, time.Now(), *runs.Newest, time.Minute)
	require.NotNil(t, runs.AnalyzedAt)
	require.Equal(t, int64(40), tables["failed_runs"].Rows)
	require.Nil(t, tables["fires"].Oldest)
	require.Contains(t, stats.Ready, task.LaneDepth{Lane: "default", State: "later", Count: 6})
	require.Contains(t, stats.Parcels, task.LaneDepth{Lane: "default", State: "claimed", Count: 12})

	f.exec(`INSERT INTO fires (schedule, due_at, last_due_at, count, task, outcome) VALUES (1, $1, $1, 1, 'demo', 'missed')`, time.Now())
	stats, err = f.Stats(ctx)
	require.NoError(t, err)
	for _, table := range stats.Tables {
		if table.Table == "fires" {
			require.Equal(t, time.Now().UTC().Truncate(days), *table.Oldest)
			require.Equal(t, table.Oldest, table.Newest)
		}
	}
}
