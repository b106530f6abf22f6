package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Every batch locks its runs in the order of their ids, however they lie on
// disk: one that waits for its first run holds none of the later ones.
func TestBatchesLockRunsInTheOrderOfTheirIDs(t *testing.T) {
	t.Parallel()
	again := func(c store.Claimed) store.Ending {
		return store.Ending{Run: c.ID, Fence: c.Fence, State: task.StateQueued, Attempt: 2}
	}
	for name, batch := range map[string]func(a, b store.Claimed) store.Batch{
		"finish": func(a, b store.Claimed) store.Batch {
			return store.Batch{Endings: []store.Ending{succeeded(b), succeeded(a)}}
		},
		"requeue": func(a, b store.Claimed) store.Batch { return store.Batch{Endings: []store.Ending{again(b), again(a)}} },
		"step": func(a, b store.Claimed) store.Batch {
			return store.Batch{Steps: []store.StepRow{{Run: b.ID, Fence: b.Fence, Step: step("0")}, {Run: a.ID, Fence: a.Fence, Step: step("0")}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			ctx := context.Background()
			w := f.worker()
			ids, parcels := f.submit(2)
			var claimed []store.Claimed
			for _, p := range parcels {
				claimed = append(claimed, f.claim(w, p)...)
			}
			require.Len(t, claimed, 2)
			first, second := claimed[0], claimed[1]
			if first.ID != ids[0] {
				first, second = second, first
			}
			f.exec(`WITH gone AS (DELETE FROM runs WHERE id = $1 RETURNING *) INSERT INTO runs SELECT * FROM gone`, first.ID)

			tx, err := f.Pool().Begin(ctx)
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(ctx) }()
			lock := func(id uuid.UUID) error {
				_, err := tx.Exec(ctx, `SELECT 1 FROM runs WHERE id = $1 FOR NO KEY UPDATE NOWAIT`, id)
				return err
			}
			require.NoError(t, lock(first.ID))
			b := batch(first, second)
			b.Worker = w
			written := make(chan store.Written, 1)
			go func() { written <- f.write(b) }()
			require.Eventually(t, func() bool {
				return f.scalar(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
			}, 10*time.Second, 5*time.Millisecond, "the batch does not wait for the first run")
			require.NoError(t, lock(second.ID), "the batch waits for the first run and holds the second")
			require.NoError(t, tx.Rollback(ctx))
			got := <-written
			require.False(t, got.Stale[first.ID])
			require.False(t, got.Stale[second.ID])
		})
	}
}
