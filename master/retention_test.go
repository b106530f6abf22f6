package master_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
)

func TestTheLeaderKeepsToTheRetention(t *testing.T) {
	t.Parallel()
	s := openStore(t, servertest.PostgresURL(t))
	require.NoError(t, s.EnsurePartitions(t.Context()))
	_, err := s.Pool().Exec(t.Context(), `
		INSERT INTO tasks (name, chain, keep_ms) VALUES ('short', '["nop"]', 7200000);
		CREATE TABLE runs_20260101 PARTITION OF runs FOR VALUES FROM (catena_id_floor('2026-01-01 00:00Z')) TO (catena_id_floor('2026-01-02 00:00Z'));
		INSERT INTO runs (id, task, revision, state, priority, queue, created_at, finished_at)
		SELECT overlay(catena_id_floor(at)::text placing right(gen_random_uuid()::text, 17) from 20)::uuid, task, 1, 'failed', 5, 'default', at, at
		FROM (VALUES ('short', now() - interval '3 hours'), ('short', now() - interval '1 hour'), ('other', now() - interval '3 hours'),
			('other', '2026-01-01 10:00Z')) v(task, at), generate_series(1, 600)`)
	require.NoError(t, err)
	leadOn(t, s)
	eventually(t, s, patience, `SELECT to_regclass('runs_20260101') IS NULL`)
	eventually(t, s, patience, `SELECT count(*) = 600 FROM runs WHERE task = 'short'`)
	eventually(t, s, patience, `SELECT count(*) = 1200 FROM failed_runs`)
	eventually(t, s, patience, `SELECT count(*) = 600 FROM runs WHERE task = 'other'`)
}
