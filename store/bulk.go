package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Bounds of one step of a bulk change: so few rows are looked at, and so few of
// them changed, that a step takes a fraction of a second whatever the tables hold.
const (
	bulkScan    = 5000
	cancelBatch = 500
	retryBatch  = 50
	mostFaults  = 10 // that a step tells of
)

// BulkStep is what one step of a bulk change did. The walk goes from the newest
// run to the oldest; Next is where it goes on, the nil id at its end.
type BulkStep struct {
	Matched int
	Done    int
	Skipped int // they changed meanwhile: had ended, or went again
	Failed  int
	Next    uuid.UUID
	Faults  []BulkFault // the first of the failed ones
}

// BulkFault is a run that could not be changed.
type BulkFault struct {
	Run uuid.UUID
	Err error
}

// checkBulk refuses a task that there has never been at the first step of a walk:
// that nothing matches would look like success.
func (s *Store) checkBulk(ctx context.Context, f RunFilter) error {
	if f.Task == "" || f.Before != uuid.Nil {
		return nil
	}
	return s.everExisted(ctx, f.Task)
}

// CountLive counts the matching runs of one step that have not ended.
func (s *Store) CountLive(ctx context.Context, f RunFilter) (BulkStep, error) {
	if err := s.checkBulk(ctx, f); err != nil {
		return BulkStep{}, err
	}
	ids, next, err := s.liveRuns(ctx, f, bulkScan)
	return BulkStep{Matched: len(ids), Next: next}, err
}

// CountEnded counts the matching runs of one step that have ended.
func (s *Store) CountEnded(ctx context.Context, f RunFilter) (BulkStep, error) {
	if err := s.checkBulk(ctx, f); err != nil {
		return BulkStep{}, err
	}
	ids, next, err := s.endedRuns(ctx, f, bulkScan)
	return BulkStep{Matched: len(ids), Next: next}, err
}

// CancelRuns cancels the next matching runs that have not ended, as CancelRun
// does, in one transaction. f.Before is where it begins.
func (s *Store) CancelRuns(ctx context.Context, f RunFilter, by string, atOnce bool) (BulkStep, error) {
	if err := s.checkBulk(ctx, f); err != nil {
		return BulkStep{}, err
	}
	ids, next, err := s.liveRuns(ctx, f, cancelBatch)
	if err != nil || len(ids) == 0 {
		return BulkStep{Next: next}, err
	}
	var done cancelled
	err = s.inTx(ctx, "cancel runs", func(tx pgx.Tx) (err error) {
		done, err = cancelRuns(ctx, tx, ids, by, atOnce)
		return err
	})
	did := len(done.ended) + len(done.asked)
	return BulkStep{Matched: len(ids), Done: did, Skipped: len(ids) - did, Next: next}, err
}

// RetryRuns retries the next matching runs that ended without success, each as
// RetryRun does from the step that failed, in a transaction of its own.
func (s *Store) RetryRuns(ctx context.Context, f RunFilter, by string) (BulkStep, error) {
	if err := s.checkBulk(ctx, f); err != nil {
		return BulkStep{}, err
	}
	ids, next, err := s.endedRuns(ctx, f, retryBatch)
	if err != nil {
		return BulkStep{}, err
	}
	step := BulkStep{Matched: len(ids), Next: next}
	for i, id := range ids {
		err := s.retryRun(ctx, id, "", by)
		switch {
		case err == nil:
			step.Done++
		case ctx.Err() != nil || Unreachable(err):
			step.Matched = i
			return step, wrap(err, "retry runs")
		case !errors.Is(err, errChildrenLeft) && task.CodeOf(err) == task.CodeConflict || task.CodeOf(err) == task.CodeNotFound:
			step.Skipped++
		default:
			if step.Failed++; len(step.Faults) < mostFaults {
				step.Faults = append(step.Faults, BulkFault{Run: id, Err: err})
			}
		}
	}
	return step, nil
}

// start is the id below which a step looks.
func (f *RunFilter) start() uuid.UUID {
	if f.Before == uuid.Nil {
		return uuid.Max
	}
	return f.Before
}

// floor is the least id that f.Since lets through.
func (f *RunFilter) floor() uuid.UUID {
	if f.Since.IsZero() {
		return uuid.Nil
	}
	return idFloor(f.Since)
}

// liveRuns looks at the newest n runs that have not ended, below f.Before, and
// returns those that match. They are found in the narrow tables, which hold
// every one of them: runs has no index on its state. A run that moves from one
// to the other meanwhile is seen in one of them, since this is one statement.
func (s *Store) liveRuns(ctx context.Context, f RunFilter, n int) (ids []uuid.UUID, next uuid.UUID, err error) {
	rows, err := s.pool.Query(ctx, `
		(SELECT run FROM ready WHERE run < $1 AND run >= $2 ORDER BY run DESC LIMIT $3)
		UNION (SELECT DISTINCT u.run FROM parcels p, unnest(p.runs) AS u(run) WHERE u.run < $1 AND u.run >= $2 ORDER BY u.run DESC LIMIT $3)
		UNION (SELECT DISTINCT run FROM waits WHERE outcome IS NULL AND run < $1 AND run >= $2 ORDER BY run DESC LIMIT $3)
		ORDER BY 1 DESC LIMIT $3`, f.start(), f.floor(), n)
	if err != nil {
		return nil, next, wrap(err, "find runs")
	}
	near, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(near) == 0 {
		return nil, next, wrap(err, "find runs")
	}
	if len(near) == n {
		next = near[n-1]
	}
	low, high := bounds(near)
	ids, err = s.matching(ctx, f, `id = ANY($1) AND id BETWEEN $2 AND $3`, near, low, high)
	return ids, next, err
}

// endedRuns returns the newest n runs below f.Before that match and ended
// without success.
func (s *Store) endedRuns(ctx context.Context, f RunFilter, n int) (ids []uuid.UUID, next uuid.UUID, err error) {
	states := f.states()
	if len(states) == 0 {
		states = []string{string(task.StateFailed), string(task.StateCancelled), string(task.StateTimedOut), string(task.StateQuarantined)}
	}
	page, args := failedPage, []any{f.floor(), f.start(), states}
	if f.Task != "" {
		page, args = failedTaskPage, append(args, f.Task)
	}
	err = s.byIndex(ctx, func(rows pgx.Rows) (err error) {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	}, failedStatement(page, n), args...)
	if len(ids) == n {
		next = ids[n-1]
	}
	return ids, next, wrap(err, "find runs")
}

// matching returns those of the runs that the filter lets through and that have
// not ended, newest first.
func (s *Store) matching(ctx context.Context, f RunFilter, condition string, args ...any) ([]uuid.UUID, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, task, state FROM runs WHERE `+condition+` AND finished_at IS NULL ORDER BY id DESC`, args...)
	if err != nil {
		return nil, wrap(err, "find runs")
	}
	states := f.states()
	var ids []uuid.UUID
	var id uuid.UUID
	var name, state string
	_, err = pgx.ForEachRow(rows, []any{&id, &name, &state}, func() error {
		if (f.Task == "" || f.Task == name) && (len(states) == 0 || slices.Contains(states, state)) {
			ids = append(ids, id)
		}
		return nil
	})
	return ids, wrap(err, "find runs")
}

func (f *RunFilter) states() []string {
	if f.State == "" {
		return nil
	}
	return strings.Split(f.State, ",")
}

// bulkTime is how long one request goes on taking steps.
const bulkTime = time.Second

// Bulk takes steps from f.Before on until none is left or a second has passed,
// and adds up what they did.
func Bulk(ctx context.Context, f RunFilter, step func(context.Context, RunFilter) (BulkStep, error)) (BulkStep, error) {
	var sum BulkStep
	for began := time.Now(); ; {
		did, err := step(ctx, f)
		sum.add(did)
		if err != nil || did.Next == uuid.Nil || time.Since(began) > bulkTime {
			return sum, err
		}
		f.Before = did.Next
	}
}

func (b *BulkStep) add(did BulkStep) {
	b.Matched, b.Done, b.Skipped, b.Failed = b.Matched+did.Matched, b.Done+did.Done, b.Skipped+did.Skipped, b.Failed+did.Failed
	b.Next = did.Next
	b.Faults = append(b.Faults, did.Faults[:min(len(did.Faults), mostFaults-len(b.Faults))]...)
}
