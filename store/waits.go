package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// waitPage is how many waits one look of the leader takes.
const waitPage = 500

type openWait struct {
	run       uuid.UUID
	attempt   int32
	iteration int32
	path      string
	kind      task.WaitKind
	name      string
	detail    task.WaitDetail
}

func (w openWait) end(o task.Outcome, by string) waitEnd {
	return waitEnd{run: w.run, attempt: w.attempt, iteration: w.iteration, path: w.path, outcome: o, by: by}
}

const openWaits = `SELECT w.run, w.attempt, w.iteration, w.path, w.kind, coalesce(w.name, ''), w.detail::text FROM waits w `

func scanWait(row pgx.CollectableRow) (w openWait, err error) {
	var detail *string
	if err = row.Scan(&w.run, &w.attempt, &w.iteration, &w.path, &w.kind, &w.name, &detail); err != nil || detail == nil {
		return w, err
	}
	return w, json.Unmarshal([]byte(*detail), &w.detail)
}

// EndDueWaits ends waits whose time is over, at most a few hundred at once, and
// returns how many. A delay succeeds, anything else fails; children that were
// waited for are cancelled.
func (s *Store) EndDueWaits(ctx context.Context, term int64) (ended int, err error) {
	var due bool
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM waits WHERE outcome IS NULL AND until <= (SELECT clock_timestamp()))`).Scan(&due)
	if err != nil || !due {
		return 0, wrap(err, "look for waits whose time is over")
	}
	err = s.inTx(ctx, "end waits whose time is over", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, openWaits+`WHERE w.outcome IS NULL AND w.until <= (SELECT clock_timestamp()) ORDER BY w.until LIMIT $1`, waitPage)
		if err != nil {
			return err
		}
		waits, err := pgx.CollectRows(rows, scanWait)
		if err != nil {
			return err
		}
		ends := make([]waitEnd, len(waits))
		batch := &pgx.Batch{}
		for i, w := range waits {
			outcome := task.Succeed(nil)
			if w.detail.Late != "" || w.kind != task.WaitDelay {
				outcome = task.Fail(w.detail.Late)
			}
			ends[i] = w.end(outcome, "")
			if w.kind == task.WaitChildren {
				batch.Queue(`INSERT INTO child_cancels (parent, children, by) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
					w.run, w.detail.Group, "the run that waited for it: "+w.detail.Late)
			}
		}
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		ended = len(waits)
		_, err = endWaits(ctx, tx, ends)
		return err
	})
	return ended, err
}

// Approval is what somebody says to a run that waits for an approval.
type Approval struct {
	By      string
	Role    string // of who decides
	Reject  bool
	Comment string
}

// Approve decides an approval that a run waits for. It is a conflict when the
// run waits for none, or when it was decided before, and forbidden when the
// role is below the asked one.
func (s *Store) Approve(ctx context.Context, id uuid.UUID, d Approval) (task.Run, error) {
	err := s.inTx(ctx, "approve run "+id.String(), func(tx pgx.Tx) error {
		var state task.State
		err := tx.QueryRow(ctx, `SELECT state FROM runs WHERE id = $1 FOR NO KEY UPDATE`, id).Scan(&state)
		if isMissing(err) {
			return noRun(id)
		}
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, openWaits+`WHERE w.run = $1 AND w.kind = 'approval' AND w.outcome IS NULL`, id)
		if err != nil {
			return err
		}
		waits, err := pgx.CollectRows(rows, scanWait)
		if err != nil {
			return err
		}
		if len(waits) == 0 || state != task.StateWaiting {
			return noApproval(ctx, tx, id, state)
		}
		if task.RoleRank(d.Role) < task.RoleRank(waits[0].name) {
			return task.Errorf(task.CodeForbidden, "run %s waits for the approval of the role %s; the role %s may not give it", id, waits[0].name, d.Role).
				Fix("use a token with the role %s", waits[0].name)
		}
		_, err = endWaits(ctx, tx, []waitEnd{waits[0].end(d.outcome(), d.By)})
		return err
	})
	if err != nil {
		return task.Run{}, err
	}
	return s.Run(ctx, id)
}

func (d Approval) outcome() task.Outcome {
	key := "approved_by"
	if d.Reject {
		key = "rejected_by"
	}
	fields := map[string]string{key: clean(d.By)}
	if d.Comment != "" {
		fields["comment"] = clean(d.Comment)
	}
	data, _ := json.Marshal(fields) // texts marshal
	if !d.Reject {
		return task.Succeed(data)
	}
	o := task.Fail("rejected by " + clean(d.By))
	if d.Comment != "" {
		o.Reason += ": " + clean(d.Comment)
	}
	o.Data = data
	return o
}

// noApproval says why there is nothing to approve.
func noApproval(ctx context.Context, tx pgx.Tx, id uuid.UUID, state task.State) error {
	var by string
	var at time.Time
	var success bool
	err := tx.QueryRow(ctx, `SELECT coalesce(ended_by, ''), ended_at, coalesce((outcome->>'success')::boolean, false) FROM waits
		WHERE run = $1 AND kind = 'approval' AND ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 1`, id).Scan(&by, &at, &success)
	switch {
	case err != nil && !isMissing(err):
		return err
	case err == nil && by != "":
		verdict := "rejected"
		if success {
			verdict = "approved"
		}
		return task.Errorf(task.CodeConflict, "run %s was %s by %s at %s already", id, verdict, by, at.UTC().Format(time.RFC3339))
	case err == nil && state == task.StateCancelled:
		return task.Errorf(task.CodeConflict, "run %s was cancelled while it waited for its approval", id)
	case err == nil:
		return task.Errorf(task.CodeConflict, "the time for approving run %s was over at %s", id, at.UTC().Format(time.RFC3339))
	}
	return task.Errorf(task.CodeConflict, "run %s waits for no approval: it is %s", id, state).
		Fix("`catena runs list --waiting-for approval` shows those that do")
}

// NewEvent is an event to send.
type NewEvent struct {
	Name string
	Key  string
	Data json.RawMessage // nil: none
	By   string
	Keep time.Duration // how long runs that began before it may take it; 0: DefaultEventKeep
}

// DefaultEventKeep is how long an event is kept for runs that do not wait yet.
const DefaultEventKeep = 7 * day

// SendEvent keeps an event and gives it to every run that waits for it now; it
// returns how many did. Runs that began before and come to wait for it later
// take it, too, until it expires.
func (s *Store) SendEvent(ctx context.Context, e NewEvent) (event task.Event, reached int, err error) {
	if e.Keep <= 0 {
		e.Keep = DefaultEventKeep
	}
	name, key := clean(e.Name), clean(e.Key)
	event = task.Event{Name: name, Key: key, Data: e.Data, SentBy: clean(e.By)}
	err = s.pool.QueryRow(ctx, `INSERT INTO events (name, key, data, sent_by, expires_at)
		VALUES ($1, $2, $3::text::json, $4, clock_timestamp() + $5 * interval '1 millisecond') RETURNING id, sent_at, expires_at`,
		name, key, nullText(string(e.Data)), event.SentBy, e.Keep.Milliseconds()).Scan(&event.ID, &event.SentAt, &event.ExpiresAt)
	if err != nil {
		return event, 0, wrap(err, "keep the event "+name)
	}
	// The event is durable: whom it does not reach here because of an error, the leader finds.
	var after uuid.UUID
	for more := true; more && err == nil; {
		after, more, err = s.deliver(ctx, name, key, after)
	}
	// The leader may have been faster with some of them.
	err = s.pool.QueryRow(ctx, `SELECT count(*) FROM waits WHERE event = $1`, event.ID).Scan(&reached)
	return event, reached, wrap(err, "count the runs that the event "+name+" reached")
}

// deliver lets the next page of the runs go on that wait for an event.
func (s *Store) deliver(ctx context.Context, name, key string, after uuid.UUID) (last uuid.UUID, more bool, err error) {
	err = s.inTx(ctx, "deliver the event "+name, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT run FROM waits WHERE kind = 'event' AND outcome IS NULL AND name = $1 AND key = $2 AND run > $3
			ORDER BY run LIMIT $4`, name, key, after, waitPage)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil || len(ids) == 0 {
			more = false
			return err
		}
		last, more = ids[len(ids)-1], len(ids) == waitPage
		low, high := bounds(ids)
		_, err = resume(ctx, tx, takeEvents, ids, low, high)
		return err
	})
	return last, more, err
}

// EventCursor is where the walk of MatchEvents stands.
type EventCursor struct {
	Name, Key string
	Run       uuid.UUID
}

// MatchEvents looks at the next few hundred waits for events and lets those go
// on whose event was sent at the moment in which they were parked, when neither
// transaction saw the other. The cursor comes back zero at the end of the walk.
func (s *Store) MatchEvents(ctx context.Context, term int64, from EventCursor) (next EventCursor, err error) {
	rows, err := s.pool.Query(ctx, `
		SELECT w.run, w.name, w.key, EXISTS (SELECT 1 FROM events e WHERE e.name = w.name AND e.key = w.key
			AND e.sent_at >= (SELECT r.created_at FROM runs r WHERE r.id = w.run) AND e.expires_at > (SELECT clock_timestamp())
			AND NOT EXISTS (SELECT 1 FROM waits x WHERE x.run = w.run AND x.event = e.id))
		FROM waits w WHERE w.kind = 'event' AND w.outcome IS NULL AND (w.name, w.key, w.run) > ($1, $2, $3)
		ORDER BY w.name, w.key, w.run LIMIT $4`, from.Name, from.Key, from.Run, waitPage)
	if err != nil {
		return from, wrap(err, "match events")
	}
	var ids []uuid.UUID
	var n int
	var match bool
	_, err = pgx.ForEachRow(rows, []any{&next.Run, &next.Name, &next.Key, &match}, func() error {
		if n++; match {
			ids = append(ids, next.Run)
		}
		return nil
	})
	if err != nil {
		return from, wrap(err, "match events")
	}
	if n < waitPage {
		next = EventCursor{}
	}
	if len(ids) == 0 {
		return next, nil
	}
	return next, s.inTx(ctx, "match events", func(tx pgx.Tx) error {
		if err := holdTerm(ctx, tx, term); err != nil {
			return err
		}
		low, high := bounds(ids)
		_, err := resume(ctx, tx, takeEvents, ids, low, high)
		return err
	})
}

// EventFilter selects events; zero fields do not filter.
type EventFilter struct {
	Name   string
	Key    string
	Before int64 // only events sent before this one
	Limit  int   // 0: 100
}

// Events lists kept events, newest first.
func (s *Store) Events(ctx context.Context, f EventFilter) ([]task.Event, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	rows, err := s.pool.Query(ctx, `SELECT id, name, key, data::text, sent_by, sent_at, expires_at FROM events
		WHERE ($1 = '' OR name = $1) AND ($2 = '' OR key = $2) AND ($3 = 0 OR id < $3) ORDER BY id DESC LIMIT $4`,
		f.Name, f.Key, f.Before, min(f.Limit, 1000))
	if err != nil {
		return nil, wrap(err, "list events")
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e task.Event, err error) {
		var data *string
		err = row.Scan(&e.ID, &e.Name, &e.Key, &data, &e.SentBy, &e.SentAt, &e.ExpiresAt)
		if data != nil {
			e.Data = json.RawMessage(*data)
		}
		return e, err
	})
	return list, wrap(err, "list events")
}

// childFailure describes a child that did not succeed.
func childFailure(id uuid.UUID, name string, state task.State, reason string) string {
	if reason == "" {
		return fmt.Sprintf("run %s of %s is %s", id, name, state)
	}
	return fmt.Sprintf("run %s of %s is %s: %s", id, name, state, reason)
}
