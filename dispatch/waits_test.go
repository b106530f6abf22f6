package dispatch

import (
	"encoding/json"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func TestNoPartOfTheWaitsStopsTheOthers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, err := store.Open(ctx, store.Config{URL: servertest.PostgresURL(t)})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.EnsurePartitions(ctx))
	lease, _, err := s.Campaign(ctx, "test")
	require.NoError(t, err)
	_, err = s.ApplyTasks(ctx, []task.Definition{{Name: "demo", Chain: json.RawMessage(`["nop"]`)}}, false)
	require.NoError(t, err)
	for _, statement := range []string{
		`INSERT INTO child_cancels (parent, children, by) VALUES ('` + uuid.NewString() + `', '', 'anna')`,
		`ALTER TABLE events RENAME TO elsewhere`,
	} {
		_, err = s.Pool().Exec(ctx, statement)
		require.NoError(t, err)
	}
	_, err = NewWaits(s).RunOnce(ctx, lease.Term)
	require.ErrorContains(t, err, "match events")
	var left int
	require.NoError(t, s.Pool().QueryRow(ctx, `SELECT count(*) FROM child_cancels`).Scan(&left))
	require.Zero(t, left)
}
