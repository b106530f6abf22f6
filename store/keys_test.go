package store_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func TestAKeyStandsForOneRequest(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.worker()
	ctx := context.Background()
	at := time.Now().Add(time.Hour)
	other := at.Add(time.Microsecond)
	params := json.RawMessage(`{"month": "2026-11", "n": 1}`)
	first, _, err := f.InsertRuns(ctx, []store.NewRun{
		{Task: "demo", Key: "plain"}, {Task: "demo", Key: "params", Params: params}, {Task: "demo", Key: "timed", Params: params, At: at}})
	require.NoError(t, err)

	for name, same := range map[string]store.NewRun{
		"no params":    {Task: "demo", Key: "plain", Params: json.RawMessage(`{}`)},
		"other blanks": {Task: "demo", Key: "params", Params: json.RawMessage(`{"n":1.0,"month":"2026-11"}`)},
		"same time":    {Task: "demo", Key: "timed", Params: params, At: at.UTC()},
	} {
		got, parcels, err := f.InsertRuns(ctx, []store.NewRun{same})
		require.NoError(t, err, name)
		require.Empty(t, parcels, name)
		require.True(t, got[0].Duplicate, name)
		require.Contains(t, []any{first[0].ID, first[1].ID, first[2].ID}, any(got[0].ID), name)
	}
	for name, c := range map[string]struct {
		run  store.NewRun
		want string
	}{
		"params where there were none": {store.NewRun{Task: "demo", Key: "plain", Params: params}, "has other params"},
		"other params":                 {store.NewRun{Task: "demo", Key: "params", Params: json.RawMessage(`{"month": "2026-12", "n": 1}`)}, "has other params"},
		"no params":                    {store.NewRun{Task: "demo", Key: "params"}, "has other params"},
		"another time":                 {store.NewRun{Task: "demo", Key: "timed", Params: params, At: other}, "was asked for at "},
		"no time":                      {store.NewRun{Task: "demo", Key: "timed", Params: params}, "was asked for at "},
		"a time where there was none":  {store.NewRun{Task: "demo", Key: "params", Params: params, At: at}, "was asked for without a time"},
	} {
		before := f.scalar(`SELECT count(*) FROM runs`)
		_, _, err := f.InsertRuns(ctx, []store.NewRun{{Task: "demo", Key: "fresh " + name}, c.run})
		var refused *store.RefusedRuns
		require.ErrorAs(t, err, &refused, name)
		require.Len(t, refused.Reasons, 1, name)
		require.Equal(t, task.CodeConflict, task.CodeOf(refused.Reasons[1]), name)
		require.ErrorContains(t, err, c.want, name)
		require.ErrorContains(t, err, "has started run ", name)
		require.Equal(t, before, f.scalar(`SELECT count(*) FROM runs`), "all or none")
		require.Zero(t, f.scalar(`SELECT count(*) FROM run_keys WHERE key LIKE 'fresh%'`))
	}
}

func TestAKeyTwiceInOneCallStandsForOneRequestToo(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	run := func(n string) store.NewRun {
		return store.NewRun{Task: "demo", Key: "k", Params: json.RawMessage(`{"n":` + n + `}`)}
	}
	got, _, err := f.InsertRuns(ctx, []store.NewRun{run("1"), run("1")})
	require.NoError(t, err)
	require.Equal(t, got[0].ID, got[1].ID)
	f.exec(`DELETE FROM run_keys`)
	_, _, err = f.InsertRuns(ctx, []store.NewRun{run("1"), run("2")})
	var refused *store.RefusedRuns
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Reasons, 1)
}

func TestAKeyOfABinaryThatKeptNoTime(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	run := store.NewRun{Task: "demo", Key: "k", At: time.Now().Add(time.Hour)}
	first, _, err := f.InsertRuns(ctx, []store.NewRun{run})
	require.NoError(t, err)
	f.exec(`UPDATE run_keys SET at = NULL`)
	again, _, err := f.InsertRuns(ctx, []store.NewRun{run})
	require.NoError(t, err)
	require.Equal(t, first[0].ID, again[0].ID)
	f.exec(`DELETE FROM runs`)
	again, _, err = f.InsertRuns(ctx, []store.NewRun{{Task: "demo", Key: "k", Params: json.RawMessage(`{"a":1}`)}})
	require.NoError(t, err, "with the run gone there is nothing to compare")
	require.Equal(t, first[0].ID, again[0].ID)
}
