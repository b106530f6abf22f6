package servertest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catena-run/catena/devservers"
	"github.com/catena-run/catena/migrations"
)

// templateLock is the advisory lock under which the template is made.
const templateLock = 0x63617465 // "cate"

// cluster is the PostgreSQL of this test process and its template database.
type cluster struct {
	base     *url.URL
	template string
}

// openCluster uses the environment's server, or starts one, and makes sure
// that the template is there.
func openCluster() (*cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	raw := os.Getenv(EnvPostgres)
	if raw == "" {
		dir, err := sharedFolder()
		if err != nil {
			return nil, err
		}
		p, err := devservers.StartPostgres(ctx, devservers.PostgresConfig{DataDir: filepath.Join(dir, "pg"), Log: quiet()})
		if err != nil {
			return nil, err
		}
		raw = p.URL
	}
	base, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", EnvPostgres, err)
	}
	if base.Scheme != "postgres" && base.Scheme != "postgresql" {
		return nil, fmt.Errorf("%s must be a URL such as postgres://user@host:5432/postgres", EnvPostgres)
	}
	c := &cluster{base: base, template: "catena_template_" + migrations.Hash()[:16]}
	return c, c.makeTemplate(ctx)
}

// urlOf is the server's URL with another database.
func (c *cluster) urlOf(database string) string {
	u := *c.base
	u.Path = "/" + database
	return u.String()
}

// makeTemplate migrates a database under another name and renames it, so that
// what has the template's name is complete. The content of the SQL files is part of the name.
func (c *cluster) makeTemplate(ctx context.Context) error {
	return c.admin(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", templateLock); err != nil {
			return err
		}
		var there bool
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", c.template).Scan(&there)
		if err != nil || there {
			return err
		}
		draft := c.template + "_draft"
		for _, sql := range []string{"DROP DATABASE IF EXISTS " + draft + " WITH (FORCE)", "CREATE DATABASE " + draft} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		if err := migrateUp(ctx, c.urlOf(draft)); err != nil {
			return err
		}
		// Without connections, nothing can hold up CREATE DATABASE .. TEMPLATE.
		for _, sql := range []string{
			"ALTER DATABASE " + draft + " WITH ALLOW_CONNECTIONS false",
			"ALTER DATABASE " + draft + " RENAME TO " + c.template,
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

func migrateUp(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	return migrations.Up(ctx, pool, quiet())
}

func (c *cluster) create(ctx context.Context, name string, migrated bool) error {
	sql := "CREATE DATABASE " + pgx.Identifier{name}.Sanitize()
	if migrated {
		sql += " TEMPLATE " + c.template
	}
	return c.admin(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

func (c *cluster) drop(ctx context.Context, name string) error {
	return c.admin(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
		return err
	})
}

// admin runs do on a connection of its own, in the database that the base URL names.
func (c *cluster) admin(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, c.base.String())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return do(conn)
}
