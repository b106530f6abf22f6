package peers

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// MakeDurable turns on everything that makes a commit of Postgres survive a
// power cut, since test servers run without, and returns what it read back.
func MakeDurable(ctx context.Context, url string) (string, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if _, err := conn.Exec(ctx, "ALTER SYSTEM SET "+setting+" = on"); err != nil {
			return "", err
		}
	}
	if _, err := conn.Exec(ctx, "SELECT pg_reload_conf()"); err != nil {
		return "", err
	}
	return readDurability(ctx, url)
}

// readDurability asks on a connection of its own: a session keeps the settings
// that it began with until it has seen the reload.
func readDurability(ctx context.Context, url string) (string, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	var version, fsync, commit, pages string
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('fsync'),
		current_setting('synchronous_commit'), current_setting('full_page_writes')`).Scan(&version, &fsync, &commit, &pages)
	if err != nil {
		return "", err
	}
	if fsync != "on" || commit != "on" || pages != "on" {
		return "", fmt.Errorf("Postgres is not durable: fsync %s, synchronous_commit %s, full_page_writes %s", fsync, commit, pages)
	}
	return fmt.Sprintf("Postgres %s, fsync and synchronous_commit on", version), nil
}
