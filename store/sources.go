package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// sourceColumns are read by scanSource. A time that is infinity, which keeps a source
// from being polled or told, is shown as none.
const sourceColumns = `s.name, s.description, s.http::text, coalesce(s.call, ''), s.every_ms, s.loop, s.runtime, s."limit", s.timeout_ms, s.queue, s.task,
	s.params::text, s.paused, s.note, s.version,
	CASE WHEN isfinite(s.next_poll_at) THEN s.next_poll_at END AS next_poll_at, s.polled_at, s.poll_run, s.listed, s.failures, s.error,
	CASE WHEN isfinite(s.record_at) THEN s.record_at END AS record_at, s.record_run, s.record_failures, s.record_error, s.created_at, s.updated_at`

var countedSources = `SELECT ` + sourceColumns + `, ` + countOf(task.ItemRunning) + `, ` + countOf(task.ItemEnded) + `, ` + countOf(task.ItemRefused) + ` FROM sources s `

// countOf counts items of a source in a state, no further than countLimit.
func countOf(state task.SourceItemState) string {
	return fmt.Sprintf(`(SELECT count(*) FROM (SELECT 1 FROM source_items i
		WHERE i.source = s.name AND i.state = '%s' AND i.state <> 'recorded' LIMIT %d) c)`, state, countLimit)
}

// scanSource reads sourceColumns and then more.
func scanSource(row pgx.Row, more ...any) (s task.Source, version int64, err error) {
	var endpoint *string
	var params string
	var every, timeout int64
	var loop bool
	err = row.Scan(append([]any{&s.Name, &s.Description, &endpoint, &s.Call, &every, &loop, &s.Runtime, &s.Limit, &timeout, &s.Queue, &s.Task,
		&params, &s.Paused, &s.Note, &version, &s.NextPollAt, &s.PolledAt, &s.PollRun, &s.Listed, &s.Failures, &s.Error,
		&s.RecordAt, &s.RecordRun, &s.RecordFailures, &s.RecordError, &s.CreatedAt, &s.UpdatedAt}, more...)...)
	if err != nil {
		return s, 0, err
	}
	s.Every, s.Timeout, s.Loop = task.Duration(milliseconds(every)), task.Duration(milliseconds(timeout)), &loop
	s.Params = json.RawMessage(params)
	if endpoint != nil {
		s.HTTP = &task.SourceHTTP{}
		if err := json.Unmarshal([]byte(*endpoint), s.HTTP); err != nil {
			s.HTTP.URL = "" // written by hand: Validate says what is wrong
		}
	}
	s.SourceDefinition = s.Normalize() // a row that was written by hand has no defaults within http
	s.Status = statusOf(s)
	return s, version, nil
}

func statusOf(s task.Source) task.SourceStatus {
	switch {
	case s.Paused:
		return task.SourcePaused
	case s.Failures > 0 || s.RecordFailures > 0:
		return task.SourceFailing
	case s.NextPollAt == nil:
		return task.SourceDone
	}
	return task.SourceReady
}

// Sources returns all sources by name.
func (s *Store) Sources(ctx context.Context) ([]task.Source, error) {
	return s.sources(ctx, "read sources", countedSources+`ORDER BY s.name`)
}

func (s *Store) sources(ctx context.Context, doing, query string, args ...any) ([]task.Source, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, wrap(err, doing)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (task.Source, error) {
		var running, ended, refused int64
		one, _, err := scanSource(row, &running, &ended, &refused)
		one.Running, one.Ended, one.Refused = running, ended, refused
		return one, err
	})
	return list, wrap(err, doing)
}

// Source returns one source, or a not_found error.
func (s *Store) Source(ctx context.Context, name string) (task.Source, error) {
	if !storable(name) {
		return task.Source{}, s.unknownSource(ctx, name)
	}
	list, err := s.sources(ctx, "read source "+name, countedSources+`WHERE s.name = $1`, name)
	if err != nil {
		return task.Source{}, err
	}
	if len(list) == 0 {
		return task.Source{}, s.unknownSource(ctx, name)
	}
	return list[0], nil
}

// unknownSource is the error for a source that does not exist. It names the
// nearest one that does.
func (s *Store) unknownSource(ctx context.Context, name string) error {
	err := task.Errorf(task.CodeNotFound, "there is no source %q", name).Fix("`catena source list` shows them; `catena task apply -f FILE` makes one")
	rows, queryErr := s.pool.Query(ctx, `SELECT name FROM sources ORDER BY name LIMIT $1`, maxSuggested)
	if queryErr != nil {
		return err // the suggestion is not worth another error
	}
	names, queryErr := pgx.CollectRows(rows, pgx.RowTo[string])
	if near := task.Nearest(name, names); queryErr == nil && near != "" {
		return err.Fix("did you mean %s? `catena source list` shows all", near)
	}
	return err
}

// applySource makes one source as defined. A pause that the definition does not
// ask for stays: somebody paused it.
func applySource(ctx context.Context, tx pgx.Tx, def task.SourceDefinition) (change string, err error) {
	var endpoint *string
	if def.HTTP != nil {
		text, err := json.Marshal(def.HTTP)
		if err != nil {
			return "", err
		}
		endpoint = nullText(string(text))
	}
	var created bool
	err = tx.QueryRow(ctx, `INSERT INTO sources AS s (name, description, http, call, every_ms, loop, runtime, "limit", timeout_ms, queue, task, params, paused, note)
		VALUES ($1, $2, $3::text::json, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::json, $13, $14)
		ON CONFLICT (name) DO UPDATE SET description = excluded.description, http = excluded.http, call = excluded.call, every_ms = excluded.every_ms,
			loop = excluded.loop, runtime = excluded.runtime, "limit" = excluded."limit", timeout_ms = excluded.timeout_ms, queue = excluded.queue,
			task = excluded.task, params = excluded.params, paused = s.paused OR excluded.paused,
			note = CASE WHEN excluded.paused THEN excluded.note ELSE s.note END
		WHERE (s.description, s.http::text, s.call, s.every_ms, s.loop, s.runtime, s."limit", s.timeout_ms, s.queue, s.task, s.params::text, s.paused, s.note)
			IS DISTINCT FROM (excluded.description, excluded.http::text, excluded.call, excluded.every_ms, excluded.loop, excluded.runtime,
				excluded."limit", excluded.timeout_ms, excluded.queue, excluded.task, excluded.params::text, s.paused OR excluded.paused,
				CASE WHEN excluded.paused THEN excluded.note ELSE s.note END)
		RETURNING xmax = 0`,
		def.Name, clean(def.Description), endpoint, nullText(def.Call), time.Duration(def.Every).Milliseconds(), *def.Loop, def.Runtime, def.Limit,
		time.Duration(def.Timeout).Milliseconds(), def.Queue, def.Task, string(def.Params), def.Paused, clean(def.Note)).Scan(&created)
	switch {
	case isMissing(err):
		return "unchanged", nil
	case err != nil:
		return "", err
	case created:
		return "created", nil
	}
	return "updated", nil
}

// PauseSource keeps a source from being polled. Runs of its items go on, and
// their outcomes are recorded.
func (s *Store) PauseSource(ctx context.Context, name, note string) (task.Source, error) {
	return s.changeSource(ctx, name, `UPDATE sources SET paused = true, note = $2 WHERE name = $1`, clean(note))
}

// ResumeSource ends a pause; the source is polled at once.
func (s *Store) ResumeSource(ctx context.Context, name string) (task.Source, error) {
	return s.changeSource(ctx, name, `UPDATE sources SET paused = false, note = '', failures = 0,
		next_poll_at = CASE WHEN next_poll_at IS NULL OR NOT paused THEN next_poll_at ELSE clock_timestamp() END WHERE name = $1`)
}

// PollSource has a source polled and told at once, whatever it waits for.
func (s *Store) PollSource(ctx context.Context, name string) (task.Source, error) {
	if !storable(name) {
		return task.Source{}, s.unknownSource(ctx, name)
	}
	err := s.inTx(ctx, "poll source "+name, func(tx pgx.Tx) error {
		var paused bool
		err := tx.QueryRow(ctx, `UPDATE sources SET next_poll_at = CASE WHEN paused THEN next_poll_at ELSE clock_timestamp() END,
			record_at = CASE WHEN paused THEN record_at END WHERE name = $1 RETURNING paused`, name).Scan(&paused)
		switch {
		case isMissing(err):
			return s.unknownSource(ctx, name)
		case err != nil:
			return err
		case paused:
			return task.Errorf(task.CodeConflict, "source %s is paused", name).Fix("catena source resume %s", name)
		}
		_, err = tx.Exec(ctx, `UPDATE source_items SET record_at = clock_timestamp() WHERE source = $1 AND record_at > (SELECT clock_timestamp())`, name)
		return err
	})
	if err != nil {
		return task.Source{}, err
	}
	return s.Source(ctx, name)
}

func (s *Store) changeSource(ctx context.Context, name, statement string, args ...any) (task.Source, error) {
	if !storable(name) {
		return task.Source{}, s.unknownSource(ctx, name)
	}
	tag, err := s.pool.Exec(ctx, statement, append([]any{name}, args...)...)
	if err != nil {
		return task.Source{}, wrap(err, "change source "+name)
	}
	if tag.RowsAffected() == 0 {
		return task.Source{}, s.unknownSource(ctx, name)
	}
	return s.Source(ctx, name)
}

// DeleteSource removes a source. One with items whose outcomes it has not been
// told is a conflict, unless force is set: their runs go on and nobody is told.
func (s *Store) DeleteSource(ctx context.Context, name string, force bool) error {
	if !storable(name) {
		return s.unknownSource(ctx, name)
	}
	return s.inTx(ctx, "delete source "+name, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT name FROM sources WHERE name = $1 FOR UPDATE`, name).Scan(&name)
		if isMissing(err) {
			return s.unknownSource(ctx, name)
		}
		if err != nil {
			return err
		}
		var open int64
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM source_items WHERE source = $1 AND state <> 'recorded'`, name).Scan(&open); err != nil {
			return err
		}
		if open > 0 && !force {
			return task.Errorf(task.CodeConflict, "source %s has %d items whose outcomes it has not been told", name, open).
				Fix("pause it and wait for them, or use --force: their runs go on, and it is told nothing")
		}
		_, err = tx.Exec(ctx, `DELETE FROM sources WHERE name = $1`, name)
		return err
	})
}

// ItemFilter selects items of a source.
type ItemFilter struct {
	Source string
	States []task.SourceItemState // none: all
	Limit  int
}

// SourceItems lists items of a source: those that it waits for, the newest
// first, and then those that were recorded, the last first.
func (s *Store) SourceItems(ctx context.Context, filter ItemFilter) ([]task.SourceItem, error) {
	if !storable(filter.Source) {
		return nil, s.unknownSource(ctx, filter.Source)
	}
	states := filter.States
	if len(states) == 0 {
		states = task.SourceItemStates[:]
	}
	var open []string
	for _, state := range states {
		if state != task.ItemRecorded {
			open = append(open, string(state))
		}
	}
	var list []task.SourceItem
	var err error
	if len(open) > 0 {
		list, err = s.items(ctx, `SELECT i.* FROM unnest($2::text[]) AS o(state) CROSS JOIN LATERAL (SELECT `+itemColumns+` FROM source_items
				WHERE source = $1 AND state = o.state AND state <> 'recorded' ORDER BY started_at DESC, key LIMIT $3) i
			ORDER BY i.started_at DESC, i.key LIMIT $3`, filter.Source, open, filter.Limit)
	}
	if err == nil && len(list) < filter.Limit && slices.Contains(states, task.ItemRecorded) {
		var recorded []task.SourceItem
		recorded, err = s.items(ctx, `SELECT `+itemColumns+` FROM source_items WHERE source = $1 AND state = 'recorded'
			ORDER BY recorded_at DESC, key LIMIT $2`, filter.Source, filter.Limit-len(list))
		list = append(list, recorded...)
	}
	if err == nil && len(list) == 0 {
		_, err = s.Source(ctx, filter.Source)
	}
	return list, wrap(err, "read the items of source "+filter.Source)
}

const itemColumns = `source, key, attempt, state, task, run, coalesce(result, '') AS result, reason, tries, error,
	CASE WHEN isfinite(record_at) THEN record_at END AS record_at, started_at, ended_at, recorded_at`

func (s *Store) items(ctx context.Context, query string, args ...any) ([]task.SourceItem, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[task.SourceItem])
}
