package pkgstore

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// unknownPackage is the error for a package that does not exist. It names the
// nearest one that does.
func unknownPackage(ctx context.Context, q querier, name string) error {
	err := task.Errorf(task.CodeNotFound, "there is no package %s", name).Fix("see `catena pkg list`; push it with `catena pkg push DIR`")
	if len(name) > maxPath {
		return err
	}
	rows, queryErr := q.Query(ctx, `SELECT DISTINCT package FROM releases WHERE abs(length(package) - length($1)) <= length($1) / 2 LIMIT 5000`, name)
	if queryErr != nil {
		return err // the suggestion is not worth another error
	}
	names, queryErr := pgx.CollectRows(rows, pgx.RowTo[string])
	if near := task.Nearest(name, names); queryErr == nil && near != "" && near != name {
		return err.Fix("did you mean %s? `catena pkg list` shows all", near)
	}
	return err
}

// unknownVersion is the error for a channel or digest that a package does not
// have, or for the package when that is what is unknown. noun is channel or version.
func unknownVersion(ctx context.Context, q querier, name, noun, want string) error {
	channels, err := channelsOf(ctx, q, name)
	if err != nil {
		return err
	}
	if len(channels) == 0 {
		var pushed bool
		if err := q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM releases WHERE package = $1)`, name).Scan(&pushed); err != nil {
			return failed(err, "look for package "+name)
		}
		if !pushed {
			return unknownPackage(ctx, q, name)
		}
	}
	names := make([]string, len(channels))
	for i, r := range channels {
		names[i] = r.Channel
	}
	absent := task.Errorf(task.CodeNotFound, "package %s has no %s %s", name, noun, want).Fix("see `catena pkg history %s`", name)
	if near := task.Nearest(want, names); near != "" && near != want {
		return absent.Fix("did you mean the channel %s? `catena pkg history %s` shows all", near, name)
	}
	return absent
}
