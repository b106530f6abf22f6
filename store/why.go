package store

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Bounds of a look at what is before a run.
const (
	whyAhead   = 10_000 // runs that are counted
	whyHolders = 10     // runs that are named
)

// Why says what a run waits for, in the order in which admission asks: its
// time, a pause, a worker, a token, a place, its turn.
func (s *Store) Why(ctx context.Context, id uuid.UUID) (task.Why, error) {
	run, err := s.Run(ctx, id)
	if err != nil {
		return task.Why{}, err
	}
	w := &whyLook{Why: task.Why{Run: id, State: run.State}, store: s, run: run}
	switch {
	case run.State.Terminal():
		w.ended()
	case run.State == task.StateWaiting:
		err = w.parked(ctx)
	case run.State == task.StateQueued:
		err = w.queued(ctx)
	default:
		err = w.underWay(ctx)
	}
	return w.Why, wrap(err, "look why run "+id.String()+" waits")
}

type whyLook struct {
	task.Why
	store *Store
	run   task.Run
	ready readyRow
	now   time.Time
}

// readyRow is a waiting run with what its task and lane say.
type readyRow struct {
	lane, hold        string
	rank, available   time.Time
	rate, concurrency *string
	limit             *int
	schedule          *int64
	keys              string
	paused            bool
	note              string
	limits            task.Limits
	slots, open       int
	micros            float64
}

func (w *whyLook) say(waits task.Wait, format string, args ...any) {
	w.Waits, w.Sentence = waits, fmt.Sprintf(format, args...)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (w *whyLook) ended() {
	text := "it has ended: " + strings.ReplaceAll(string(w.run.State), "_", " ")
	if w.run.FinishedAt != nil {
		text += " at " + stamp(*w.run.FinishedAt)
	}
	if w.run.Reason != "" {
		text += ", " + w.run.Reason
	}
	w.Sentence = text
}

// underWay tells of a run in a parcel.
func (w *whyLook) underWay(ctx context.Context) error {
	var worker *string
	var lane string
	var ahead int
	err := w.store.pool.QueryRow(ctx, `SELECT p.lane, k.id, (SELECT count(*) FROM parcels o WHERE o.lane = p.lane AND o.state = 'unclaimed' AND o.id < p.id)
		FROM runs r JOIN parcels p ON p.id = r.parcel LEFT JOIN workers k ON k.epoch = p.worker WHERE r.id = $1`, w.Run).Scan(&lane, &worker, &ahead)
	switch {
	case isMissing(err):
		w.Sentence = "it changes at this moment: ask again"
		return nil
	case err != nil:
		return err
	case worker == nil:
		w.Place = ahead + 1
		w.say(task.WaitWorker, "it is handed out and waits for the next free worker of lane %s, %s in line", lane, ordinal(w.Place))
	case w.run.StartedAt == nil || w.State == task.StateDispatched:
		w.Sentence = "worker " + *worker + " has it, and it starts in a moment if it has not yet"
	default:
		w.Sentence = "it runs on worker " + *worker + " since " + stamp(*w.run.StartedAt)
	}
	if w.run.CancelRequested {
		w.Sentence += "; it was asked to end"
	}
	return nil
}

// parked tells of a run that waits at an item of its chain.
func (w *whyLook) parked(ctx context.Context) error {
	var kind, path string
	var name, key *string
	err := w.store.pool.QueryRow(ctx, `SELECT kind, path, name, key, until FROM waits WHERE run = $1 AND outcome IS NULL ORDER BY since DESC LIMIT 1`, w.Run).
		Scan(&kind, &path, &name, &key, &w.Until)
	if isMissing(err) {
		w.say(task.WaitStep, "it waits at an item of its chain and goes on in a moment")
		return nil
	}
	if err != nil {
		return err
	}
	what := map[string]string{"delay": "the end of a delay", "children": "the end of its children", "event": "event ", "approval": "an approval"}[kind]
	if kind == "event" && name != nil {
		what += *name
		if key != nil && *key != "" {
			what += fmt.Sprintf(" with the key %q", *key)
		}
	}
	if kind == "approval" && name != nil {
		what += " by " + *name
	}
	if w.Until != nil {
		what += ", until " + stamp(*w.Until)
	}
	w.say(task.WaitStep, "at item %s it waits for %s", path, what)
	return nil
}

func (w *whyLook) queued(ctx context.Context) error {
	r := &w.ready
	var rate, concurrency *string
	err := w.store.pool.QueryRow(ctx, `SELECT r.lane, r.hold, r.rank, r.available_at, r.rate_key, r.concurrency_key, r.concurrency_limit, r.schedule, r.limit_keys,
			coalesce(t.paused, false), coalesce(t.note, ''), t.rate::text, t.concurrency::text, `+laneSlots("r.lane")+`,
			(SELECT count(*) FROM parcels p WHERE p.lane = r.lane AND p.state = 'unclaimed'),
			coalesce((SELECT micros FROM task_costs c WHERE c.revision = r.revision), 0), clock_timestamp()
		FROM ready r LEFT JOIN tasks t ON t.name = r.task WHERE r.run = $1`, w.Run).
		Scan(&r.lane, &r.hold, &r.rank, &r.available, &r.rate, &r.concurrency, &r.limit, &r.schedule, &r.keys,
			&r.paused, &r.note, &rate, &concurrency, &r.slots, &r.open, &r.micros, &w.now)
	if isMissing(err) {
		w.Sentence = "it changes at this moment: ask again"
		return nil
	}
	if err != nil {
		return err
	}
	r.limits, _ = parseLimits(rate, concurrency, nil) // what cannot be read is no limit
	switch {
	case r.hold == holdLater:
		w.later()
		return nil
	case r.hold == holdBuffered:
		return w.buffered(ctx)
	case r.paused:
		w.say(task.WaitPause, "its task %s is paused%s", w.run.Task, colon(r.note))
		return nil
	case r.slots == 0:
		w.say(task.WaitWorker, "no live worker serves %s", laneText(r.lane))
		return nil
	case r.hold == holdLimited:
		return w.limited(ctx)
	}
	return w.line(ctx, "hold = '' AND lane = $3", r.lane)
}

// later tells of a run whose time has not come.
func (w *whyLook) later() {
	at := w.ready.available
	w.Until, w.Estimate = &at, w.span(at.Sub(w.now))
	if w.run.Attempt > 1 {
		w.say(task.WaitTime, "it waits for its next attempt at %s%s", stamp(at), colon(w.run.Reason))
		return
	}
	w.say(task.WaitTime, "its time has not come: it starts at %s", stamp(at))
}

// buffered tells of a run that waits for an earlier one of its schedule.
func (w *whyLook) buffered(ctx context.Context) error {
	var before *uuid.UUID
	err := w.store.pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM ready WHERE hold = 'buffered' AND schedule = $2 AND run <= $1),
		coalesce((SELECT run FROM ready WHERE hold = 'buffered' AND schedule = $2 AND run < $1 ORDER BY run DESC LIMIT 1),
			(SELECT id FROM runs WHERE task = $3 AND schedule = $2 AND id < $1 AND id > catena_id_floor(clock_timestamp() - interval '7 days')
				AND finished_at IS NULL ORDER BY id DESC LIMIT 1))`, w.Run, w.ready.schedule, w.run.Task).Scan(&w.Place, &before)
	if err != nil {
		return err
	}
	if before == nil {
		w.say(task.WaitBuffer, "it is buffered and goes on in a moment: the run before it has ended")
		return nil
	}
	w.say(task.WaitBuffer, "it is buffered behind run %s of the same schedule, %s in line", before, ordinal(w.Place))
	return nil
}

// limited tells of a run that admission has not let start.
func (w *whyLook) limited(ctx context.Context) error {
	r := &w.ready
	if rate := r.limits.Rate; rate != nil && r.rate != nil {
		var used int
		var next *time.Time
		err := w.store.pool.QueryRow(ctx, `SELECT coalesce(sum(tokens), 0), min(back_at) FILTER (WHERE back_at < 'infinity' AND tokens > 0)
			FROM (SELECT tokens, back_at FROM rate_uses WHERE task = $1 AND key = $2
				UNION ALL SELECT 1, t.back_at FROM token_packs t CROSS JOIN LATERAL unnest(t.runs) WITH ORDINALITY AS u(run, at)
					WHERE `+tokenAt+` = $4) t WHERE back_at > $3`,
			w.run.Task, *r.rate, w.now, placeKey{w.run.Task, *r.rate}.number().bytes()).Scan(&used, &next)
		if err != nil {
			return err
		}
		if used >= rate.Limit {
			return w.rated(ctx, *rate, next)
		}
	}
	limit := r.limit
	if c := r.limits.Concurrency; limit == nil && c != nil {
		limit = &c.Limit
	}
	if limit != nil && r.concurrency != nil {
		held, err := w.holders(ctx, *r.concurrency)
		if err != nil {
			return err
		}
		if held >= *limit {
			return w.crowded(ctx, *limit, held)
		}
	}
	return w.line(ctx, "hold = 'limited' AND lane = $3", r.lane)
}

func (w *whyLook) rated(ctx context.Context, rate task.Rate, next *time.Time) error {
	if err := w.placeIn(ctx); err != nil {
		return err
	}
	text := "as soon as the runs that took them have started"
	if next != nil {
		wait := next.Sub(w.now) + windows(w.Place, rate)
		w.Until, w.Estimate = next, w.span(wait)
		text = "at " + next.UTC().Format(time.RFC3339)
	}
	w.say(task.WaitRate, "the rate limit of %d per %v%s is used up: a token comes back %s, %s in line", rate.Limit, rate.Per,
		keyText(w.ready.rate), text, ordinal(w.Place))
	return nil
}

func (w *whyLook) holders(ctx context.Context, key string) (held int, err error) {
	scope := limitScope(w.run.Task)
	rows, err := w.store.pool.Query(ctx, `SELECT run, count(*) OVER () FROM `+limitHolders+` ORDER BY taken_at, run LIMIT $4`,
		scope, key, placeKey{scope, key}.number().bytes(), whyHolders)
	if err != nil {
		return 0, err
	}
	var holder uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&holder, &held}, func() error { w.Holders = append(w.Holders, holder); return nil })
	return held, err
}

func (w *whyLook) crowded(ctx context.Context, limit, held int) error {
	if err := w.placeIn(ctx); err != nil {
		return err
	}
	if w.ready.micros > 0 {
		rounds := math.Ceil(float64(w.Place) / float64(limit))
		w.Estimate = w.span(time.Duration(rounds * w.ready.micros * float64(time.Microsecond)))
	}
	names := make([]string, 0, 3)
	for _, id := range w.Holders[:min(3, len(w.Holders))] {
		names = append(names, id.String())
	}
	by := strings.Join(names, ", ")
	if held > len(names) {
		by += fmt.Sprintf(" and %d more", held-len(names))
	}
	defer w.admitUnknown()
	if rate := w.ready.limits.Rate; rate != nil && w.Estimate != nil { // tokens may be what lasts longer
		if tokens := windows(w.Place, *rate); tokens > time.Duration(*w.Estimate) {
			w.Estimate = w.span(tokens)
		}
	}
	w.say(task.WaitConcurrency, "the concurrency limit of %d%s is reached: run %s holds it, and this one is %s in line", limit,
		keyText(w.ready.concurrency), by, ordinal(w.Place))
	if held > 1 {
		w.Sentence = strings.Replace(w.Sentence, "run "+by+" holds it", "runs "+by+" hold it", 1)
	}
	return nil
}

// placeIn counts the runs of the same keys before this one.
func (w *whyLook) placeIn(ctx context.Context) error {
	r := &w.ready
	return w.store.pool.QueryRow(ctx, `SELECT count(*) + 1 FROM (SELECT 1 FROM ready WHERE hold = 'limited' AND lane = $3 AND task = $4 AND limit_keys = $5
		AND (rank, run) < ($2, $1) LIMIT $6) a`, w.Run, r.rank, r.lane, w.run.Task, r.keys, whyAhead).Scan(&w.Place)
}

// line tells of a run that waits for its turn only.
func (w *whyLook) line(ctx context.Context, which string, lane string) error {
	var micros float64
	var unknown bool
	err := w.store.pool.QueryRow(ctx, `SELECT count(*) + 1, coalesce(sum(micros), 0), coalesce(bool_or(micros IS NULL), false) FROM (SELECT c.micros FROM ready r LEFT JOIN task_costs c ON c.revision = r.revision
		WHERE `+which+` AND (r.rank, r.run) < ($2, $1) LIMIT $4) a`, w.Run, w.ready.rank, lane, whyAhead).Scan(&w.Place, &micros, &unknown)
	if err != nil {
		return err
	}
	if micros > 0 && !unknown {
		w.Estimate = w.span(time.Duration(micros / float64(w.ready.slots) * float64(time.Microsecond)))
	}
	w.say(task.WaitRoom, "it waits for room in %s, which has %d slots, %s in line", laneText(w.ready.lane), w.ready.slots, ordinal(w.Place))
	if w.Place > 1 {
		w.admitUnknown()
	}
	return nil
}

// admitUnknown says so where nobody knows yet how long the runs before it take.
func (w *whyLook) admitUnknown() {
	if w.Estimate == nil {
		w.Sentence += "; there is no estimate yet: such runs have not ended before"
	}
}

// windows is how long the tokens of the runs before a place take at a rate.
func windows(place int, rate task.Rate) time.Duration {
	return time.Duration((place-1)/rate.Limit) * time.Duration(rate.Per)
}

func (w *whyLook) span(d time.Duration) *task.Duration {
	rounded := task.Duration(max(d, 0).Round(time.Millisecond))
	return &rounded
}

func laneText(lane string) string {
	suspect := ""
	if Suspect(lane) {
		suspect = " for runs whose worker was lost"
		lane = strings.TrimPrefix(lane, suspectPrefix)
	}
	queue, tags, tagged := strings.Cut(lane, "+")
	if tagged {
		return "queue " + queue + " with the tags " + strings.ReplaceAll(tags, "+", ", ") + suspect
	}
	return "queue " + queue + suspect
}

func keyText(key *string) string {
	if key == nil || *key == WholeTask {
		return ""
	}
	return fmt.Sprintf(" for the key %q", *key)
}

func colon(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

func ordinal(n int) string {
	if n > whyAhead {
		return fmt.Sprintf("behind more than %d others", whyAhead)
	}
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}
