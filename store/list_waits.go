package store

import (
	"context"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"github.com/catena-run/catena/task"
)

// waiting lists runs that wait for one kind of thing.
func (l listing) waiting(ctx context.Context, kind task.WaitKind, states []task.State) ([]task.Run, error) {
	if len(states) > 0 && !slices.Contains(states, task.StateWaiting) {
		return nil, nil
	}
	ids, err := l.ids(ctx, `SELECT run FROM waits WHERE outcome IS NULL AND kind = $3 AND run >= $1 AND run < $2 AND ($4 = '' OR task = $4)
		ORDER BY run DESC LIMIT `+strconv.Itoa(l.limit), l.low, l.high, kind, l.task)
	if err != nil {
		return nil, err
	}
	return l.byID(ctx, ids, []task.State{task.StateWaiting})
}

// children lists the runs that were started by some runs. A child is younger
// than its parent, which spares older partitions.
func (l listing) children(ctx context.Context, parents []uuid.UUID, kind task.WaitKind, states []task.State) ([]task.Run, error) {
	oldest, _ := bounds(parents)
	if lessID(l.low, oldest) {
		l.low = oldest
	}
	if len(states) == 0 {
		states = task.States[:]
	}
	ids, err := l.ids(ctx, `SELECT id FROM runs r WHERE parent = ANY ($3) AND id >= $1 AND id < $2 AND ($4 = '' OR task = $4) AND state = ANY ($5)
		AND ($6 = '' OR EXISTS (SELECT 1 FROM waits w WHERE w.run = r.id AND w.kind = $6 AND w.outcome IS NULL))
		ORDER BY id DESC LIMIT `+strconv.Itoa(l.limit), l.low, l.high, parents, l.task, states, kind)
	if err != nil {
		return nil, err
	}
	return l.byID(ctx, ids, states)
}
