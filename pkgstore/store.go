package pkgstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"regexp"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/catena-run/catena/task"
)

// ReleaseLock is the key of the advisory transaction lock that every writer of
// the table releases holds, so that ids rise in the order of the commits.
const ReleaseLock int64 = 0x636174656e610001 // "catena", 1

// Store keeps packages in Postgres. It is safe for concurrent use.
type Store struct {
	pool *pgxpool.Pool
	cfg  Config
}

// New returns a store on the pool; the schema must be there.
func New(pool *pgxpool.Pool, cfg Config) *Store { return &Store{pool: pool, cfg: cfg.WithDefaults()} }

// Limits returns what a push may hold; give it to ReadArchive.
func (s *Store) Limits() Limits { return s.cfg.Limits() }

// PushResult says what a push made.
type PushResult struct {
	Name    string `json:"name"`
	Digest  string `json:"digest"`
	Created bool   `json:"created"` // false: this content was there before
	Channel string `json:"channel"`
	Release int64  `json:"release"` // that points the channel at the version
}

// Push stores the content as a version and points the channel ("": live) at
// it, both or nothing. A version that is there is not built again, and a
// channel that points at it already gets no new release. It may take seconds
// and is not retried.
func (s *Store) Push(ctx context.Context, content *Content, channel, by string) (PushResult, error) {
	channel, err := checkChannel(channel)
	if err != nil {
		return PushResult{}, err
	}
	manifest, err := content.Manifest()
	if err != nil {
		return PushResult{}, err
	}
	if content.Size() > s.cfg.MaxSize {
		return PushResult{}, tooLarge(ManifestFile, content.Size(), s.cfg.MaxSize)
	}
	there, err := present(ctx, s.pool, content.Digest())
	if err != nil {
		return PushResult{}, err
	}
	var row *versionRow
	if !there {
		if row, err = s.prepare(ctx, content); err != nil {
			return PushResult{}, err
		}
	}
	result := PushResult{Name: manifest.Name, Digest: content.Digest(), Channel: channel}
	err = s.change(ctx, "push "+manifest.Name, func(tx pgx.Tx) error {
		if row != nil {
			if result.Created, err = row.insert(ctx, tx, by); err != nil {
				return err
			}
		} else if err := stillPresent(ctx, tx, content.Digest()); err != nil {
			return err
		}
		release, err := point(ctx, tx, task.Release{Package: manifest.Name, Channel: channel, Digest: result.Digest, Action: "push", By: by})
		result.Release = release.ID
		return err
	})
	if err != nil {
		return PushResult{}, err
	}
	return result, nil
}

// versionRow is a version on its way into the table.
type versionRow struct {
	digest, name     string
	manifest         []byte
	archive, modules []byte
	size             int64
	files            int
	dependencies     []string
}

// prepare does the slow part of a push outside of its transaction.
func (s *Store) prepare(ctx context.Context, content *Content) (*versionRow, error) {
	made, err := bundle(ctx, content, databaseLibrary{s}, s.cfg.MaxBundle)
	if err != nil {
		return nil, err
	}
	row := &versionRow{digest: content.Digest(), name: made.manifest.Name, size: content.Size(), files: len(content.files)}
	for _, d := range made.manifest.Dependencies {
		row.dependencies = append(row.dependencies, d.Digest)
	}
	if row.manifest, err = json.Marshal(made.manifest); err != nil {
		return nil, err
	}
	if row.modules, err = encodeModules(made.modules); err != nil {
		return nil, err
	}
	row.archive, err = compress(content.WriteArchive)
	return row, err
}

// insert reports false when another push was first. A deleted version comes
// back to life.
func (r *versionRow) insert(ctx context.Context, tx pgx.Tx, by string) (created bool, err error) {
	for _, digest := range r.dependencies {
		if err := stillPresent(ctx, tx, digest); err != nil {
			return false, err
		}
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO package_versions (digest, package, manifest, archive, modules, size, files, pushed_by)
		VALUES ($1, $2, $3::text::json, $4, $5, $6, $7, $8)
		ON CONFLICT (digest) DO UPDATE SET manifest = excluded.manifest, archive = excluded.archive, modules = excluded.modules,
			size = excluded.size, files = excluded.files, pushed_by = excluded.pushed_by, created_at = excluded.created_at
		WHERE octet_length(package_versions.archive) = 0`,
		r.digest, r.name, string(r.manifest), r.archive, r.modules, r.size, r.files, by)
	return tag.RowsAffected() > 0, err
}

// querier is what a pool and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// present reports whether a version is there with its content. A deleted one
// keeps its row, since releases speak of it, but has an empty archive.
func present(ctx context.Context, q querier, digest string) (there bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM package_versions WHERE digest = $1 AND octet_length(archive) > 0)`, digest).Scan(&there)
	return there, failed(err, "look for version "+Short(digest))
}

func stillPresent(ctx context.Context, tx pgx.Tx, digest string) error {
	there, err := present(ctx, tx, digest)
	if err == nil && !there {
		return task.Errorf(task.CodeConflict, "version %s was deleted meanwhile", Short(digest)).Fix("push again")
	}
	return err
}

// change runs do in one transaction that holds the lock of releases.
func (s *Store) change(ctx context.Context, what string, do func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, ReleaseLock); err != nil {
			return err
		}
		return do(tx)
	})
	return failed(err, what)
}

// point moves a channel, unless it points there already. The caller holds the
// lock, so the row it reads is the newest.
func point(ctx context.Context, tx pgx.Tx, to task.Release) (task.Release, error) {
	now, found, err := current(ctx, tx, to.Package, to.Channel)
	if err != nil {
		return task.Release{}, err
	}
	if now.Digest == to.Digest && (found || to.Digest == "") {
		return now, nil
	}
	err = tx.QueryRow(ctx, `
		INSERT INTO releases (id, package, channel, digest, action, by)
		SELECT coalesce(max(id), 0) + 1, $1, $2, nullif($3, ''), $4, $5 FROM releases RETURNING id, at`,
		to.Package, to.Channel, to.Digest, to.Action, to.By).Scan(&to.ID, &to.At)
	return to, err
}

const releaseColumns = `id, package, channel, coalesce(digest, ''), action, by, at`

// current returns the newest release of a channel.
func current(ctx context.Context, q querier, name, channel string) (r task.Release, found bool, err error) {
	err = q.QueryRow(ctx, `SELECT `+releaseColumns+` FROM releases WHERE package = $1 AND channel = $2 ORDER BY id DESC LIMIT 1`, name, channel).
		Scan(&r.ID, &r.Package, &r.Channel, &r.Digest, &r.Action, &r.By, &r.At)
	if errors.Is(err, pgx.ErrNoRows) {
		return task.Release{}, false, nil
	}
	return r, err == nil, failed(err, "read the channel "+channel+" of "+name)
}

var channelPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,59}$`)

func checkChannel(channel string) (string, error) {
	if channel == "" {
		return task.DefaultChannel, nil
	}
	if !channelPattern.MatchString(channel) {
		return "", task.Errorf(task.CodeInvalid, "%q cannot name a channel", channel).At("channel").
			Fix(`use lower-case letters, digits, "_" and "-", at most 60 characters`)
	}
	return channel, nil
}

// failed gives an error of the database a code; one that has a code stays.
func failed(err error, what string) error {
	var coded *task.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return task.Errorf(task.CodeCancelled, "cannot %s: %w", what, err)
	}
	return task.Errorf(task.CodeUnavailable, "cannot %s: %w", what, err).Fix("check that Postgres answers: `catena doctor`")
}

// databaseLibrary finds what modules import among the stored packages.
type databaseLibrary struct{ store *Store }

func (l databaseLibrary) find(ctx context.Context, name, want string) (*imported, error) {
	digest, err := l.store.resolve(ctx, l.store.pool, name, want)
	if err != nil {
		return nil, err
	}
	row, err := l.store.stored(ctx, digest, "archive")
	if err != nil {
		return nil, err
	}
	content, err := ReadArchive(bytes.NewReader(row.data), l.store.unlimited())
	if err != nil {
		return nil, task.Errorf(task.CodeInternal, "the stored content of %s is damaged: %w", Short(digest), err)
	}
	return &imported{content: content, manifest: row.manifest}, nil
}

// unlimited is for content that was accepted before, whatever the limits were.
func (s *Store) unlimited() Limits {
	return Limits{MaxSize: max(512*mebi, s.cfg.MaxSize), MaxFiles: max(100_000, s.cfg.MaxFiles)}
}
