package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/catena-run/catena/task"
)

// EndChildren looks at the next few hundred runs that wait for children and
// lets those go on whose children have all ended. One that cannot stops none of
// the others. The cursor comes back zero at the end of the walk.
func (s *Store) EndChildren(ctx context.Context, term int64, from uuid.UUID) (next uuid.UUID, err error) {
	rows, err := s.pool.Query(ctx, `
		WITH page AS MATERIALIZED (
			SELECT w.run, w.attempt, w.iteration, w.path, w.kind, w.name, w.detail FROM waits w
			WHERE w.kind = 'children' AND w.outcome IS NULL AND w.run > $1 ORDER BY w.run LIMIT $2
		)
		SELECT w.run, w.attempt, w.iteration, w.path, w.kind, coalesce(w.name, ''), w.detail::text,
			NOT EXISTS (SELECT 1 FROM holds h WHERE h.scope IN ('children', 'children-stop') AND h.key = w.detail->>'group')
			AND NOT EXISTS (SELECT 1 FROM runs c WHERE c.id = (w.detail->>'run')::uuid AND c.finished_at IS NULL)
		FROM page w ORDER BY w.run`, from, waitPage)
	if err != nil {
		return from, wrap(err, "look for children that have ended")
	}
	var over []openWait
	var w openWait
	var detail string
	var ended bool
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&w.run, &w.attempt, &w.iteration, &w.path, &w.kind, &w.name, &detail, &ended}, func() error {
		n++
		next = w.run
		if !ended {
			return nil
		}
		one := w
		one.detail = task.WaitDetail{}
		over = append(over, one)
		return json.Unmarshal([]byte(detail), &over[len(over)-1].detail)
	})
	if err != nil {
		return from, wrap(err, "look for children that have ended")
	}
	if n < waitPage {
		next = uuid.Nil
	}
	var failed []error
	for _, w := range over {
		err := s.endGroup(ctx, term, w)
		if StaleTerm(err) || Unreachable(err) || ctx.Err() != nil {
			return from, err
		}
		failed = append(failed, err)
	}
	return next, errors.Join(failed...)
}

// endGroup lets one run go on with the outcome of its children, which change
// no more.
func (s *Store) endGroup(ctx context.Context, term int64, w openWait) error {
	outcome, unread := s.childrenOutcome(ctx, w)
	if unread != nil {
		unread = fmt.Errorf("run %s: %w", w.run, wrap(unread, "read the outcomes of its children"))
		if !unreadable(unread) {
			return unread
		}
		outcome = task.Fail("the outcomes of its children cannot be read")
	}
	err := s.inTx(ctx, "end the wait of run "+w.run.String()+" for its children", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		if back, err := rejoined(ctx, tx, w); err != nil || back {
			return err
		}
		_, err := endWaits(ctx, tx, []waitEnd{w.end(outcome, "")})
		return err
	})
	return errors.Join(unread, err)
}

// rejoined reports whether a child was put back to work by hand since the
// outcomes were read. Until the end of the transaction none is.
func rejoined(ctx context.Context, tx pgx.Tx, w openWait) (back bool, err error) {
	if _, err := tx.Exec(ctx, `SELECT 1 FROM waits WHERE run = $1 AND attempt = $2 AND iteration = $3 AND path = $4 FOR UPDATE`,
		w.run, w.attempt, w.iteration, w.path); err != nil {
		return false, err
	}
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM holds h WHERE h.scope IN ('children', 'children-stop') AND h.key = $1)`, w.detail.Group).Scan(&back)
	return back, err
}

// unreadable reports whether it is what stands there that cannot be read, now
// or ever.
func unreadable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && strings.HasPrefix(pg.Code, "22") || task.CodeOf(err) == task.CodeInvalid
}

func (s *Store) childrenOutcome(ctx context.Context, w openWait) (task.Outcome, error) {
	if w.detail.Run != nil {
		return s.childOutcome(ctx, *w.detail.Run, w.name)
	}
	return s.groupOutcome(ctx, w)
}

// childOutcome is the outcome of a single child, with its run.
func (s *Store) childOutcome(ctx context.Context, id uuid.UUID, name string) (task.Outcome, error) {
	var state task.State
	var reason string
	var raw *string
	err := s.pool.QueryRow(ctx, `SELECT state, coalesce(reason, ''), outcome::text FROM runs WHERE id = $1`, id).Scan(&state, &reason, &raw)
	o := task.Outcome{}
	switch {
	case isMissing(err):
		o = task.Fail(fmt.Sprintf("run %s of %s is no longer kept", id, name))
	case err != nil:
		return o, err
	default:
		if raw != nil {
			if err := json.Unmarshal([]byte(*raw), &o); err != nil {
				return o, err
			}
		}
		if state != task.StateSucceeded {
			if o.Success = false; o.Reason == "" || state == task.StateCancelled {
				o.Reason = childFailure(id, name, state, reason)
			}
		}
	}
	if o.Extra == nil {
		o.Extra = map[string]json.RawMessage{}
	}
	o.Extra["run"] = json.RawMessage(strconv.Quote(id.String()))
	return o, nil
}

// gathered adds up the children of a group in the order of their elements.
type gathered struct {
	max                 int
	data                []byte
	children, succeeded int
	next                int // index that is expected
	first               string
	cancelled           string // the first that was cancelled, where none failed by itself
	large               bool
}

func (s *Store) groupOutcome(ctx context.Context, w openWait) (task.Outcome, error) {
	g := gathered{max: w.detail.Max, data: []byte{'['}}
	rows, err := s.pool.Query(ctx, `SELECT id, task, state, coalesce(reason, ''), child_index, outcome::text FROM runs
		WHERE parent = $1 AND id > $1 AND child_group = $2 AND child_index IS NOT NULL ORDER BY 5`, w.run, w.detail.Group)
	if err != nil {
		return task.Outcome{}, err
	}
	var id uuid.UUID
	var name, reason string
	var state task.State
	var index int
	var raw *string
	_, err = pgx.ForEachRow(rows, []any{&id, &name, &state, &reason, &index, &raw}, func() error {
		var o task.Outcome
		if raw != nil {
			if err := json.Unmarshal([]byte(*raw), &o); err != nil {
				return err
			}
		}
		g.skip(index)
		g.add(state, o.Data, strconv.Itoa(index)+" ("+childFailure(id, name, state, reason)+")")
		return nil
	})
	g.skip(w.detail.Children)
	return g.outcome(), err
}

// skip accounts for children that are no longer kept.
func (g *gathered) skip(to int) {
	for g.next < to {
		g.add(task.StateFailed, nil, strconv.Itoa(g.next)+", is no longer kept")
	}
}

func (g *gathered) add(state task.State, data json.RawMessage, failure string) {
	g.children, g.next = g.children+1, g.next+1
	switch {
	case state == task.StateSucceeded:
		g.succeeded++
	case state == task.StateCancelled && g.cancelled == "":
		g.cancelled = failure
	case state != task.StateCancelled && g.first == "":
		g.first = failure
	}
	if g.large = g.large || g.max > 0 && len(g.data)+len(data) > g.max; g.large {
		return
	}
	if len(g.data) > 1 {
		g.data = append(g.data, ',')
	}
	if len(data) == 0 || state != task.StateSucceeded {
		g.data = append(g.data, "null"...)
		return
	}
	g.data = append(g.data, data...)
}

func (g *gathered) outcome() task.Outcome {
	o := task.Succeed(append(g.data, ']'))
	if g.large || g.max > 0 && len(o.Data) > g.max {
		o.Data = fmt.Appendf(nil, `{"children":%d,"succeeded":%d,"too_large":true}`, g.children, g.succeeded)
	}
	if g.succeeded < g.children {
		first := g.first
		if first == "" {
			first = g.cancelled
		}
		o.Success, o.Reason = false, fmt.Sprintf("%d of %d children did not succeed; the first is %s", g.children-g.succeeded, g.children, first)
	}
	return o
}
