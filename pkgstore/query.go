package pkgstore

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Selector selects a version of a package by Digest (or its first digits),
// else by Channel. Both empty: the channel live.
type Selector struct {
	Channel string
	Digest  string
}

func (s Selector) want() string {
	if s.Digest != "" {
		return s.Digest
	}
	return s.Channel
}

var hexPattern = regexp.MustCompile(`^(?:sha256:)?([0-9a-f]{1,64})$`)

// resolve finds the digest that a channel points at ("": live) or that begins
// with the given digits. A channel goes before digits of the same spelling.
func (s *Store) resolve(ctx context.Context, q querier, name, want string) (string, error) {
	if want == "" {
		want = task.DefaultChannel
	}
	if channelPattern.MatchString(want) {
		r, found, err := current(ctx, q, name, want)
		if err != nil {
			return "", err
		}
		if found && r.Digest != "" {
			return r.Digest, nil
		}
	}
	digits := hexPattern.FindStringSubmatch(want)
	if digits == nil {
		return "", unknownVersion(ctx, q, name, "channel", want)
	}
	return s.byPrefix(ctx, q, name, want, digits[1])
}

func (s *Store) byPrefix(ctx context.Context, q querier, name, want, digits string) (string, error) {
	rows, err := q.Query(ctx, `
		SELECT digest FROM package_versions
		WHERE package = $1 AND starts_with(digest, $2) AND octet_length(archive) > 0 ORDER BY digest LIMIT 2`, name, digestPrefix+digits)
	if err != nil {
		return "", failed(err, "look for version "+want)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	switch {
	case err != nil:
		return "", failed(err, "look for version "+want)
	case len(found) == 0:
		return "", unknownVersion(ctx, q, name, "version", want)
	case len(found) > 1:
		return "", task.Errorf(task.CodeConflict, "%s begins more than one digest of %s", want, name).Fix("write more digits: %s or %s", Short(found[0]), Short(found[1]))
	}
	return found[0], nil
}

// channelsOf returns the newest release of each channel that points somewhere.
func channelsOf(ctx context.Context, q querier, name string) ([]task.Release, error) {
	return releases(ctx, q, `
		SELECT * FROM (
			SELECT DISTINCT ON (channel) `+releaseColumns+` AS at FROM releases WHERE package = $1 ORDER BY channel, releases.id DESC
		) newest (id, package, channel, digest, action, by, at) WHERE digest <> '' ORDER BY channel`, name)
}

func releases(ctx context.Context, q querier, sql string, args ...any) ([]task.Release, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, failed(err, "read the releases")
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r task.Release, err error) {
		err = row.Scan(&r.ID, &r.Package, &r.Channel, &r.Digest, &r.Action, &r.By, &r.At)
		return r, err
	})
	return list, failed(err, "read the releases")
}

// Releases returns every change of the channels of a package, newest first.
func (s *Store) Releases(ctx context.Context, name string) ([]task.Release, error) {
	list, err := releases(ctx, s.pool, `SELECT `+releaseColumns+` FROM releases WHERE package = $1 ORDER BY releases.id DESC`, name)
	if err == nil && len(list) == 0 {
		return nil, unknownPackage(ctx, s.pool, name)
	}
	return list, err
}

// versionSQL selects versions with the channels that point at them now.
const versionSQL = `
	WITH pointing AS (
		SELECT DISTINCT ON (package, channel) package, channel, digest FROM releases
		WHERE $1 = '' OR package = $1 ORDER BY package, channel, id DESC)
	SELECT v.package, v.digest, coalesce(v.manifest ->> 'description', ''), v.size, v.files,
		ARRAY(SELECT p.channel FROM pointing p WHERE p.digest = v.digest ORDER BY p.channel) AS channels,
		v.pushed_by, v.created_at
	FROM package_versions v WHERE octet_length(v.archive) > 0 AND `

func (s *Store) versions(ctx context.Context, sql string, args ...any) ([]task.PackageVersion, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, failed(err, "read the packages")
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (v task.PackageVersion, err error) {
		err = row.Scan(&v.Name, &v.Digest, &v.Description, &v.Size, &v.Files, &v.Channels, &v.PushedBy, &v.CreatedAt)
		return v, err
	})
	return list, failed(err, "read the packages")
}

// List returns the live version of every package, by name.
func (s *Store) List(ctx context.Context) ([]task.PackageVersion, error) {
	return s.versions(ctx, versionSQL+`v.digest IN (SELECT p.digest FROM pointing p WHERE p.channel = 'live') ORDER BY v.package`, "")
}

// Versions returns every version of a package, newest first.
func (s *Store) Versions(ctx context.Context, name string) ([]task.PackageVersion, error) {
	list, err := s.versions(ctx, versionSQL+`v.package = $1 ORDER BY v.created_at DESC, v.digest`, name)
	if err == nil && len(list) == 0 {
		return nil, unknownPackage(ctx, s.pool, name)
	}
	return list, err
}

// Show returns one version and its manifest.
func (s *Store) Show(ctx context.Context, name string, which Selector) (task.PackageVersion, *Manifest, error) {
	digest, err := s.resolve(ctx, s.pool, name, which.want())
	if err != nil {
		return task.PackageVersion{}, nil, err
	}
	list, err := s.versions(ctx, versionSQL+`v.package = $1 AND v.digest = $2`, name, digest)
	if err != nil {
		return task.PackageVersion{}, nil, err
	}
	if len(list) == 0 {
		return task.PackageVersion{}, nil, unknownVersion(ctx, s.pool, name, "version", Short(digest))
	}
	row, err := s.stored(ctx, digest, "''::bytea")
	if err != nil {
		return task.PackageVersion{}, nil, err
	}
	return list[0], row.manifest, nil
}

// Archive returns the content of one version.
func (s *Store) Archive(ctx context.Context, name string, which Selector) (*Content, error) {
	digest, err := s.resolve(ctx, s.pool, name, which.want())
	if err != nil {
		return nil, err
	}
	found, err := databaseLibrary{s}.find(ctx, name, digest)
	if err != nil {
		return nil, err
	}
	return found.content, nil
}

// Files describes the files of one version.
func (s *Store) Files(ctx context.Context, name string, which Selector) ([]FileInfo, error) {
	content, err := s.Archive(ctx, name, which)
	if err != nil {
		return nil, err
	}
	return content.Files(), nil
}

// Diff returns what changed from one version of a package to another, as a
// unified diff. The versions are named as in Promote; "" is live.
func (s *Store) Diff(ctx context.Context, name, from, to string) (string, error) {
	before, err := s.Archive(ctx, name, Selector{Digest: from})
	if err != nil {
		return "", err
	}
	after, err := s.Archive(ctx, name, Selector{Digest: to})
	if err != nil {
		return "", err
	}
	return Diff(before, after), nil
}

// storedVersion is a row of package_versions with one of its large columns.
type storedVersion struct {
	name     string
	manifest *Manifest
	data     []byte
}

// stored reads a version; column is archive, modules or an empty constant.
func (s *Store) stored(ctx context.Context, digest, column string) (*storedVersion, error) {
	row, manifest, there := &storedVersion{}, "", false
	err := s.pool.QueryRow(ctx, `SELECT package, manifest::text, octet_length(archive) > 0, `+column+` FROM package_versions WHERE digest = $1`, digest).
		Scan(&row.name, &manifest, &there, &row.data)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, task.Errorf(task.CodeNotFound, "package version %s is not in the database", digest).Fix("push it again with `catena pkg push DIR`")
	case err != nil:
		return nil, failed(err, "read package version "+Short(digest))
	case !there:
		return nil, task.Errorf(task.CodeNotFound, "version %s of package %s was deleted", digest, row.name).
			Fix("push the same content again with `catena pkg push DIR`")
	}
	if err := json.Unmarshal([]byte(manifest), &row.manifest); err != nil {
		return nil, task.Errorf(task.CodeInternal, "the stored manifest of %s is damaged: %w", Short(digest), err)
	}
	return row, nil
}

// Load returns what a worker executes of the version with this full digest.
func (s *Store) Load(ctx context.Context, digest string) (*Version, error) {
	row, err := s.stored(ctx, digest, "modules")
	if err != nil {
		return nil, err
	}
	modules, err := decodeModules(row.data)
	if err != nil {
		return nil, err
	}
	return &Version{Name: row.name, Digest: digest, Manifest: row.manifest, Modules: modules}, nil
}
