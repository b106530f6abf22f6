package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

const (
	prefix      = "catena"
	idBytes     = 6  // the id only names the token in lists
	secretBytes = 32 // the secret is what cannot be guessed
)

// Token is what is known of a token besides its secret.
type Token struct {
	ID        string
	Name      string
	Role      Role
	CreatedAt time.Time
	ExpiresAt *time.Time // nil: never
	RevokedAt *time.Time // nil: not revoked
}

// usable says why t may not be used at the time now; nil when it may.
func (t Token) usable(now time.Time) error {
	switch {
	case t.RevokedAt != nil:
		return refuse("the token %s was revoked", t.ID)
	case t.ExpiresAt != nil && !now.Before(*t.ExpiresAt):
		return refuse("the token %s expired at %s", t.ID, t.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return nil
}

// NewToken makes a token: its id, its text catena_<id>_<secret>, which is shown
// once and never kept, and the hash that is kept instead.
func NewToken() (id, secret string, hash []byte) {
	id = randomHex(idBytes)
	secret = prefix + "_" + id + "_" + randomHex(secretBytes)
	return id, secret, Hash(secret)
}

// Hash returns the SHA-256 hash of a token's whole text.
func Hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// shaped reports whether text can be a token at all, which spares a look-up
// for text that cannot.
func shaped(text string) bool {
	start, rest, _ := strings.Cut(text, "_")
	id, secret, _ := strings.Cut(rest, "_")
	return start == prefix && isHex(id, idBytes) && isHex(secret, secretBytes)
}

func isHex(text string, bytes int) bool {
	decoded, err := hex.DecodeString(text)
	return err == nil && len(decoded) == bytes
}

// randomHex never fails: crypto/rand ends the process rather than return
// predictable bytes.
func randomHex(bytes int) string {
	data := make([]byte, bytes)
	_, _ = rand.Read(data)
	return hex.EncodeToString(data)
}

func refuse(format string, args ...any) *task.Error {
	return task.Errorf(task.CodeUnauthorized, format, args...).
		Fix("make another with catena token create, and pass it with --token / CATENA_TOKEN")
}
