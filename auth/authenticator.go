package auth

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/catena-run/catena/task"
)

// Tokens finds a token by the hash of its text; task.CodeNotFound when there
// is none. Revoked and expired tokens are found too.
type Tokens interface {
	TokenByHash(ctx context.Context, hash []byte) (Token, error)
}

// Config configures an Authenticator. Zero values mean the defaults.
type Config struct {
	TTL      time.Duration // how long a look-up is trusted, so how long a revoked token still works; 0: 1s
	Size     int           // tokens remembered; 0: 1000
	Failures int           // failed attempts in a row per address; 0: 20
	Recovery time.Duration // after which an address may fail once more; 0: 1s
}

// maxTTL bounds the time for which a revoked token still works.
const maxTTL = 2 * time.Second

// Validate checks c.
func (c Config) Validate() error {
	if c.TTL < 0 || c.TTL > maxTTL {
		return task.Errorf(task.CodeInvalid, "a token is trusted for %s", c.TTL).At("ttl").Fix("use at most %s", maxTTL)
	}
	if c.Size < 0 || c.Failures < 0 || c.Recovery < 0 {
		return task.Errorf(task.CodeInvalid, "limits of the authenticator are negative")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.TTL == 0 {
		c.TTL = time.Second
	}
	if c.Size == 0 {
		c.Size = 1000
	}
	if c.Failures == 0 {
		c.Failures = 20
	}
	if c.Recovery == 0 {
		c.Recovery = time.Second
	}
	return c
}

// Authenticator tells who presents a token. It trusts a look-up for a moment
// and slows down addresses that keep presenting wrong tokens; both memories
// are bounded. It is safe for concurrent use.
type Authenticator struct {
	tokens  Tokens
	config  Config
	limiter *limiter

	mu    sync.Mutex
	known map[[sha256.Size]byte]sighting
}

// sighting is a token that was found. After its time it is looked up again,
// but spares its owner the limiter: a stranger who shares the owner's address
// cannot lock the owner out.
type sighting struct {
	token Token
	until time.Time
}

// New returns an Authenticator over tokens.
func New(tokens Tokens, c Config) (*Authenticator, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	return &Authenticator{
		tokens:  tokens,
		config:  c,
		limiter: newLimiter(c.Failures, c.Recovery),
		known:   make(map[[sha256.Size]byte]sighting),
	}, nil
}

// Authenticate returns the token whose text is presented from the address
// remote (host, or host:port). It fails with task.CodeUnauthorized for a text
// that is no valid token, and with the error of Tokens when that cannot tell.
func (a *Authenticator) Authenticate(ctx context.Context, presented, remote string) (Token, error) {
	if presented == "" {
		return Token{}, refuse("no token was given")
	}
	now := time.Now()
	key := sha256.Sum256([]byte(presented))
	seen, known := a.recall(key)
	if known && now.Before(seen.until) {
		return seen.token, seen.token.usable(now)
	}
	if !known && !a.limiter.allow(remote, now) {
		return Token{}, task.Errorf(task.CodeUnauthorized, "too many wrong tokens came from %s", group(remote)).
			Fix("wait a few seconds and use a valid token")
	}
	token, err := a.look(ctx, presented, key)
	if err == nil {
		err = token.usable(now)
	}
	if task.CodeOf(err) == task.CodeUnauthorized {
		a.forget(key)
		a.limiter.fail(remote, now)
		return Token{}, err
	}
	if err != nil {
		return Token{}, err
	}
	a.remember(key, sighting{token: token, until: now.Add(a.config.TTL)}, now)
	return token, nil
}

func (a *Authenticator) look(ctx context.Context, presented string, key [sha256.Size]byte) (Token, error) {
	if !shaped(presented) {
		return Token{}, refuse("the text given is not a token of Catena")
	}
	token, err := a.tokens.TokenByHash(ctx, key[:])
	if task.CodeOf(err) == task.CodeNotFound {
		return Token{}, refuse("the token is not known here")
	}
	return token, err
}

func (a *Authenticator) recall(key [sha256.Size]byte) (sighting, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen, known := a.known[key]
	return seen, known
}

func (a *Authenticator) forget(key [sha256.Size]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.known, key)
}

// remember keeps s. A full memory first drops what has run out, then, if that
// is not enough, any: those are only looked up again.
func (a *Authenticator) remember(key [sha256.Size]byte, s sighting, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.known[key]; !known && len(a.known) >= a.config.Size {
		for other, seen := range a.known {
			if now.After(seen.until) {
				delete(a.known, other)
			}
		}
		for other := range a.known {
			if len(a.known) < a.config.Size {
				break
			}
			delete(a.known, other)
		}
	}
	a.known[key] = s
}
