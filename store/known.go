package store

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// maxSuggested bounds the names that a misspelt one is compared with.
const maxSuggested = 5000

// storable reports whether Postgres takes name as text; no task has another.
func storable(name string) bool { return utf8.ValidString(name) && !strings.ContainsRune(name, 0) }

// unknownTask is the error for a task that does not exist. It names the nearest
// one that does.
func (s *Store) unknownTask(ctx context.Context, name string) error {
	err := noTask(name)
	if utf8.RuneCountInString(name) > 200 || !storable(name) {
		return err
	}
	// Names of very different length are never near.
	rows, queryErr := s.pool.Query(ctx, `SELECT name FROM tasks
		WHERE abs(length(name) - length($1)) <= length($1) / 2 ORDER BY name LIMIT $2`, name, maxSuggested)
	if queryErr != nil {
		return err // the suggestion is not worth another error
	}
	names, queryErr := pgx.CollectRows(rows, pgx.RowTo[string])
	if near := task.Nearest(name, names); queryErr == nil && near != "" {
		return err.Fix("did you mean %s? `catena task list` shows all", near)
	}
	return err
}

// suggestTasks names the nearest task to each that the refused runs are of and that does not exist.
func (s *Store) suggestTasks(ctx context.Context, runs []NewRun, refused *RefusedRuns) {
	known := map[string]error{}
	for i, reason := range refused.Reasons {
		if task.CodeOf(reason) != task.CodeNotFound {
			continue
		}
		name := runs[i].Task
		if known[name] == nil {
			if len(known) == 10 { // misspelt names of one group commit
				return
			}
			known[name] = s.unknownTask(ctx, name)
		}
		refused.Reasons[i] = known[name]
	}
}

// everExisted returns nil for a task that exists, or did and has left runs or
// due times, so that an empty list of them is the truth and no misspelling.
func (s *Store) everExisted(ctx context.Context, name string) error {
	var known bool
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM tasks WHERE name = $1)
		OR EXISTS (SELECT 1 FROM schedule_tasks WHERE task = $1) OR EXISTS (SELECT 1 FROM runs WHERE task = $1)`, name).Scan(&known)
	if err != nil {
		return wrap(err, "look for task "+name)
	}
	if !known {
		return s.unknownTask(ctx, name)
	}
	return nil
}
