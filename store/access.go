package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/catena-run/catena/task"
)

// Token is an API token; only the SHA-256 of its secret is kept.
type Token struct {
	ID        string     `json:"id"`
	Hash      []byte     `json:"-"`
	Name      string     `json:"name"`
	Role      string     `json:"role"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
}

const validToken = `revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())`

// CreateToken stores a new token. No two valid ones have the same name.
func (s *Store) CreateToken(ctx context.Context, t Token) error {
	tag, err := s.pool.Exec(ctx, `INSERT INTO tokens (id, hash, name, role, expires_at) SELECT $1, $2, $3, $4, $5
		WHERE NOT EXISTS (SELECT 1 FROM tokens WHERE name = $3 AND `+validToken+`)`,
		t.ID, t.Hash, clean(t.Name), t.Role, t.ExpiresAt)
	if err == nil && tag.RowsAffected() == 0 {
		return task.Errorf(task.CodeConflict, "there is a valid token with the name %q", t.Name).At("name").
			Fix("choose another name, since the audit tells tokens apart by it, or revoke that one")
	}
	return wrap(err, "create a token")
}

const tokenColumns = `SELECT id, hash, name, role, created_at, expires_at, revoked_at FROM tokens `

// TokenByHash returns the token with that hash, revoked and expired ones too,
// or a not_found error.
func (s *Store) TokenByHash(ctx context.Context, hash []byte) (Token, error) {
	rows, err := s.pool.Query(ctx, tokenColumns+`WHERE hash = $1`, hash)
	if err != nil {
		return Token{}, wrap(err, "look up a token")
	}
	t, err := pgx.CollectExactlyOneRow(rows, scanToken)
	if isMissing(err) {
		return Token{}, task.Errorf(task.CodeNotFound, "no such token")
	}
	return t, wrap(err, "look up a token")
}

// Tokens lists all tokens, newest first.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	rows, err := s.pool.Query(ctx, tokenColumns+`ORDER BY created_at DESC`)
	if err != nil {
		return nil, wrap(err, "list tokens")
	}
	list, err := pgx.CollectRows(rows, scanToken)
	return list, wrap(err, "list tokens")
}

func scanToken(row pgx.CollectableRow) (t Token, err error) {
	err = row.Scan(&t.ID, &t.Hash, &t.Name, &t.Role, &t.CreatedAt, &t.ExpiresAt, &t.RevokedAt)
	return t, err
}

// RevokeToken ends the use of a token that is given by its id, or by its name
// while it is valid. To revoke it again by its id changes nothing.
func (s *Store) RevokeToken(ctx context.Context, which string) error {
	return s.inTx(ctx, "revoke a token", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE tokens SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = $1`, clean(which))
		if err != nil || tag.RowsAffected() > 0 {
			return err
		}
		tag, err = tx.Exec(ctx, `UPDATE tokens SET revoked_at = clock_timestamp() WHERE name = $1 AND `+validToken, clean(which))
		switch {
		case err != nil:
			return err
		case tag.RowsAffected() == 0:
			return task.Errorf(task.CodeNotFound, "there is no valid token %q", which).Fix("`catena token list` shows them")
		case tag.RowsAffected() > 1: // made before names were unique
			return task.Errorf(task.CodeConflict, "%d valid tokens have the name %q", tag.RowsAffected(), which).Fix("name one by its id: `catena token list`")
		}
		return nil
	})
}

// Audit records who did what. detail must hold no secret.
func (s *Store) Audit(ctx context.Context, actor, action, target string, detail any) error {
	var text *string
	if detail != nil {
		data, err := json.Marshal(detail)
		if err != nil {
			return err
		}
		text = nullText(string(data))
	}
	_, err := s.pool.Exec(ctx, `INSERT INTO audit (actor, action, target, detail) VALUES ($1, $2, $3, $4::text::json)`,
		clean(actor), action, clean(target), text)
	return wrap(err, "write the audit trail")
}
