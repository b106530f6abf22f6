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

// CreateToken stores a new token.
func (s *Store) CreateToken(ctx context.Context, t Token) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO tokens (id, hash, name, role, expires_at) VALUES ($1, $2, $3, $4, $5)`,
		t.ID, t.Hash, clean(t.Name), t.Role, t.ExpiresAt)
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

// RevokeToken ends a token's use; to revoke it again changes nothing.
func (s *Store) RevokeToken(ctx context.Context, id string) error {
	tag, err := s.pool.Exec(ctx, `UPDATE tokens SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = $1`, id)
	if err == nil && tag.RowsAffected() == 0 {
		return task.Errorf(task.CodeNotFound, "there is no token %q", id).Fix("`catena token list` shows them")
	}
	return wrap(err, "revoke a token")
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
