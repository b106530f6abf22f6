package store_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func (f *fixture) why(id uuid.UUID) task.Why {
	f.t.Helper()
	w, err := f.Why(context.Background(), id)
	require.NoError(f.t, err)
	require.NotEmpty(f.t, w.Sentence)
	return w
}

func TestWhyOfEveryWait(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := openLimited(t, task.Definition{Concurrency: &task.Concurrency{Limit: 1, Key: "${params.k}"}})
	f.apply(task.Definition{Name: "rated", Chain: json.RawMessage(`["nop"]`), Rate: &task.Rate{Limit: 1, Per: task.Duration(time.Hour)}},
		task.Definition{Name: "tagged", Chain: json.RawMessage(`["nop"]`), Queue: "gold", Tags: []string{"gpu", "eu"}})
	insert := func(run store.NewRun) uuid.UUID {
		accepted, _, err := f.InsertRuns(ctx, []store.NewRun{run})
		require.NoError(t, err)
		return accepted[0].ID
	}
	demo := insert(store.NewRun{Task: "demo"})
	require.Contains(t, f.why(demo).Sentence, "no live worker serves queue default")
	w := f.worker()
	room := f.why(demo)
	require.Equal(t, task.WaitRoom, room.Waits)
	require.Contains(t, room.Sentence, "1st in line")

	later := f.why(insert(store.NewRun{Task: "demo", At: time.Now().Add(time.Hour)}))
	require.Equal(t, task.WaitTime, later.Waits)
	require.NotNil(t, later.Until)
	require.Contains(t, f.why(insert(store.NewRun{Task: "tagged"})).Sentence, "queue gold with the tags eu, gpu")

	ids := f.ask("a", "a", "a")
	fromParcel := f.admit()
	require.Equal(t, task.WaitWorker, f.why(ids[0]).Waits, "in a parcel that nobody has claimed")
	c := f.claimAll(w, fromParcel)[0]
	require.Contains(t, f.why(c.ID).Sentence, "worker ")
	third := f.why(ids[2])
	require.Equal(t, task.WaitConcurrency, third.Waits)
	require.Equal(t, 2, third.Place)
	require.Equal(t, []uuid.UUID{c.ID}, third.Holders)
	require.Contains(t, third.Sentence, `the concurrency limit of 1 for the key "a" is reached: run `+c.ID.String()+" holds it")
	require.Nil(t, third.Estimate)
	require.Contains(t, third.Sentence, "no estimate yet")
	require.NoError(t, f.LearnCosts(ctx, map[int64]float64{c.Revision: 2e6}))
	f.exec(`UPDATE tasks SET rate = '{"limit":1,"per":"1h"}' WHERE name = 'limited'`)
	require.Equal(t, task.Duration(time.Hour), *f.why(ids[2]).Estimate, "the tokens last longer")
	f.exec(`UPDATE tasks SET rate = NULL WHERE name = 'limited'`)
	require.Equal(t, task.Duration(4*time.Second), *f.why(ids[2]).Estimate)

	insert(store.NewRun{Task: "rated"})
	blocked := insert(store.NewRun{Task: "rated"})
	f.claimAll(w, f.admit())
	rated := f.why(blocked)
	require.Equal(t, task.WaitRate, rated.Waits)
	require.NotNil(t, rated.Until)
	require.Greater(t, time.Duration(*rated.Estimate), 59*time.Minute)

	_, err := f.PauseTask(ctx, "limited", "audit until noon")
	require.NoError(t, err)
	require.Contains(t, f.why(ids[1]).Sentence, "its task limited is paused: audit until noon")
	_, err = f.ResumeTask(ctx, "limited")
	require.NoError(t, err)

	f.exec(`UPDATE ready SET hold = 'buffered', schedule = 7 WHERE run = ANY($1)`, ids[1:])
	f.exec(`UPDATE runs SET schedule = 7 WHERE task = 'limited'`)
	require.Contains(t, f.why(ids[1]).Sentence, "behind run "+ids[0].String())
	require.Contains(t, f.why(ids[2]).Sentence, "behind run "+ids[1].String())

	f.exec(`UPDATE runs SET state = 'waiting' WHERE id = $1`, demo)
	f.exec(`INSERT INTO waits (run, attempt, iteration, path, kind, task, name, key) VALUES ($1, 1, 0, '2', 'event', 'demo', 'paid', '17')`, demo)
	require.Contains(t, f.why(demo).Sentence, `at item 2 it waits for event paid with the key "17"`)

	f.write(store.Batch{Worker: w, Endings: []store.Ending{ended(c)}})
	require.Contains(t, f.why(c.ID).Sentence, "it has ended: succeeded")
	_, err = f.Why(ctx, uuid.New())
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
}
