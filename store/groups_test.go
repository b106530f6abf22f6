package store_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// spawn inserts a child of a run and has the worker claim it.
func (f *fixture) spawn(w int64, parent store.Claimed, group, item string) store.Claimed {
	f.t.Helper()
	_, parcels, err := f.InsertRuns(f.t.Context(), []store.NewRun{{Task: "demo", Parent: &store.Parent{Run: parent.ID, Path: "0", Group: group, Stop: true,
		Entry: json.RawMessage(`{"group":"` + group + `","index":0,"item":` + item + `}`), Revision: parent.Revision}}})
	require.NoError(f.t, err)
	require.Len(f.t, parcels, 1)
	return f.claim(w, parcels[0])[0]
}

func childrenPark(group string) store.Park {
	return store.Park{Kind: task.WaitChildren, Path: "0", Stop: true, Detail: task.WaitDetail{Group: group, Children: 1}}
}

// Postgres keeps any JSON text, but not all of them can become one of its own.
func TestAnyTextMayComeFromAChild(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := t.Context()
	w := f.worker()
	texts := []string{`"a\u0000b"`, `"a\ud800b"`, `"fine"`, `broken`}
	parents := make([]uuid.UUID, len(texts))
	for i, text := range texts {
		p := f.claimOne(w)
		parents[i] = p.ID
		group, item := p.ID.String(), text
		if text == `broken` {
			item = `1`
		}
		c := f.spawn(w, p, group, item)
		f.write(store.Batch{Worker: w, Endings: []store.Ending{parked(p, childrenPark(group))}})
		require.Equal(t, task.StateWaiting, f.run(p.ID).State)
		f.write(store.Batch{Worker: w, Endings: []store.Ending{{Run: c.ID, Fence: c.Fence, State: task.StateSucceeded, Held: c.Held, StartedAt: time.Now(),
			Outcome: json.RawMessage(`{"success":true,"data":` + item + `}`)}}})
		if text == `broken` {
			f.exec(`UPDATE runs SET outcome = '[]' WHERE id = $1`, c.ID)
		}
		tree, err := f.RunTree(ctx, p.ID)
		require.NoError(t, err)
		require.Zero(t, *tree.Children[0].Index)
		tree, err = f.RunTree(ctx, c.ID)
		require.NoError(t, err)
		require.Zero(t, *tree.Index)
	}
	_, err := f.EndChildren(ctx, f.term, uuid.Nil)
	require.ErrorContains(t, err, parents[3].String())
	require.NotContains(t, err.Error(), parents[0].String())
	for i, text := range texts[:3] {
		var outcome string
		require.NoError(t, f.Pool().QueryRow(ctx, `SELECT outcome::text FROM waits WHERE run = $1`, parents[i]).Scan(&outcome))
		require.Equal(t, `{"success":true,"data":[`+text+`]}`, outcome)
	}
	_, err = f.EndChildren(ctx, f.term, uuid.Nil)
	require.NoError(t, err, "it has failed once and for all")
	require.Equal(t, int64(1), f.scalar(`SELECT count(*) FROM waits WHERE run = $1 AND outcome->>'reason' = 'the outcomes of its children cannot be read'`, parents[3]))
	for _, id := range parents {
		require.Equal(t, task.StateQueued, f.run(id).State)
	}
}
