package pkgstore

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Promote points a channel ("": live) at a version, named by its digest, by
// the first digits of it, or by a channel that points at it.
func (s *Store) Promote(ctx context.Context, name, version, channel, by string) (release task.Release, err error) {
	if channel, err = checkChannel(channel); err != nil {
		return release, err
	}
	err = s.change(ctx, "promote "+name, func(tx pgx.Tx) error {
		digest, err := s.resolve(ctx, tx, name, version)
		if err != nil {
			return err
		}
		release, err = point(ctx, tx, task.Release{Package: name, Channel: channel, Digest: digest, Action: "promote", By: by})
		return err
	})
	return release, err
}

// Rollback points a channel ("": live) at the version it had before. Done
// again it goes further back; a push or promote after it begins a new branch,
// whose rollback leads to where the earlier one had led. Versions that were
// deleted meanwhile are passed over. A removed channel comes back.
func (s *Store) Rollback(ctx context.Context, name, channel, by string) (release task.Release, err error) {
	if channel, err = checkChannel(channel); err != nil {
		return release, err
	}
	err = s.change(ctx, "roll back "+name, func(tx pgx.Tx) error {
		history, err := s.history(ctx, tx, name, channel)
		if err != nil {
			return err
		}
		if len(history) == 0 {
			return unknownVersion(ctx, tx, name, "channel", channel)
		}
		target := previous(history)
		if target == "" {
			return task.Errorf(task.CodeConflict, "channel %s of %s has no earlier version", channel, name).
				Fix("see `catena pkg history %s`; choose a version with `catena pkg promote`", name)
		}
		release, err = point(ctx, tx, task.Release{Package: name, Channel: channel, Digest: target, Action: "rollback", By: by})
		return err
	})
	return release, err
}

// change of a channel, with what became of the version since.
type pastRelease struct {
	digest, action string
	deleted        bool
}

func (s *Store) history(ctx context.Context, q querier, name, channel string) ([]pastRelease, error) {
	rows, err := q.Query(ctx, `
		SELECT coalesce(r.digest, ''), r.action, coalesce(octet_length(v.archive) = 0, false)
		FROM releases r LEFT JOIN package_versions v USING (digest)
		WHERE r.package = $1 AND r.channel = $2 ORDER BY r.id`, name, channel)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p pastRelease, err error) {
		err = row.Scan(&p.digest, &p.action, &p.deleted)
		return p, err
	})
}

// previous returns the digest that a rollback leads to, or "". The history is
// read as an undo list: a rollback takes off what came after its target.
func previous(history []pastRelease) string {
	var undo []pastRelease
	for _, r := range history {
		if r.action == "rollback" {
			for len(undo) > 0 && undo[len(undo)-1].digest != r.digest {
				undo = undo[:len(undo)-1]
			}
			if len(undo) > 0 {
				continue
			}
		}
		undo = append(undo, r)
	}
	if len(undo) == 0 {
		return ""
	}
	now := undo[len(undo)-1].digest
	for i := len(undo) - 2; i >= 0; i-- {
		if past := undo[i]; past.digest != "" && past.digest != now && !past.deleted {
			return past.digest
		}
	}
	return ""
}

// Delete removes the content of one version, named as in Promote, or, with an
// empty version, the package: all of its channels. It is refused while
// a channel points at the version or did a moment ago, while an unfinished run
// is pinned to a release in which it was live, and while another version was
// built from it. The row stays as a mark in the history; a push of the same
// content brings it back.
func (s *Store) Delete(ctx context.Context, name, version, by string) error {
	return s.change(ctx, "delete "+name, func(tx pgx.Tx) error {
		if version == "" {
			return deleteChannels(ctx, tx, name, by)
		}
		digest, err := s.resolve(ctx, tx, name, version)
		if err != nil {
			return err
		}
		if err := s.deletable(ctx, tx, name, digest); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE package_versions SET archive = '', modules = '' WHERE digest = $1`, digest)
		return err
	})
}

func deleteChannels(ctx context.Context, tx pgx.Tx, name, by string) error {
	channels, err := channelsOf(ctx, tx, name)
	if err != nil {
		return err
	}
	if len(channels) == 0 {
		return unknownPackage(ctx, tx, name)
	}
	for _, r := range channels {
		if _, err := point(ctx, tx, task.Release{Package: name, Channel: r.Channel, Action: "delete", By: by}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) deletable(ctx context.Context, tx pgx.Tx, name, digest string) error {
	refuse := func(remedy, format string, args ...any) error {
		return task.Errorf(task.CodeConflict, "version "+Short(digest)+" of "+name+" is needed: "+format, args...).Fix("%s", remedy)
	}
	channels, err := channelsOf(ctx, tx, name)
	if err != nil {
		return err
	}
	for _, r := range channels {
		if r.Digest == digest {
			return refuse("promote another version to the channel first", "channel %s points at it", r.Channel)
		}
	}
	// A run that is being dispatched this moment may have read an older release number.
	var recent bool
	err = tx.QueryRow(ctx, `
		SELECT coalesce(max(next) > clock_timestamp() - $3::bigint * interval '1 microsecond', false)
		FROM (SELECT digest, lead(at) OVER (PARTITION BY channel ORDER BY id) AS next FROM releases WHERE package = $1) spans
		WHERE digest = $2`, name, digest, s.cfg.DeleteGrace.Microseconds()).Scan(&recent)
	if err != nil {
		return err
	}
	if recent {
		return refuse("try again in a while", "a channel pointed at it less than %s ago", s.cfg.DeleteGrace)
	}
	run, err := pinnedRun(ctx, tx, name, digest)
	if err != nil {
		return err
	}
	if run != uuid.Nil {
		return refuse("wait until the run has ended, or cancel it", "run %s began while it was live and has not ended", run)
	}
	var dependent, version string
	err = tx.QueryRow(ctx, `
		SELECT v.package, v.digest FROM package_versions v, json_array_elements(v.manifest -> 'dependencies') d
		WHERE d ->> 'digest' = $1 AND octet_length(v.archive) > 0 LIMIT 1`, digest).Scan(&dependent, &version)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return refuse("delete that version first", "version %s of %s was built from it", Short(version), dependent)
}

// pinnedRun finds an unfinished run whose release resolves to the digest. No
// index serves it: a deletion is rare and may read the whole table.
func pinnedRun(ctx context.Context, tx pgx.Tx, name, digest string) (uuid.UUID, error) {
	var run uuid.UUID
	err := tx.QueryRow(ctx, `
		WITH spans AS (
			SELECT digest, id AS first, lead(id) OVER (ORDER BY id) AS next
			FROM releases WHERE package = $1 AND channel = 'live')
		SELECT r.id FROM runs r JOIN spans s ON r.release >= s.first AND (s.next IS NULL OR r.release < s.next)
		WHERE s.digest = $2 AND r.finished_at IS NULL LIMIT 1`, name, digest).Scan(&run)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, nil
	}
	return run, err
}
