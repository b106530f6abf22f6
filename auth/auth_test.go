package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/catena-run/catena/task"
	"github.com/stretchr/testify/require"
)

// book is a set of tokens that can be changed under the Authenticator.
type book struct {
	tokens map[string]Token
	err    error
	looks  atomic.Int64
}

func (b *book) TokenByHash(_ context.Context, hash []byte) (Token, error) {
	b.looks.Add(1)
	if b.err != nil {
		return Token{}, b.err
	}
	for text, token := range b.tokens {
		if bytes.Equal(Hash(text), hash) {
			return token, nil
		}
	}
	return Token{}, task.Errorf(task.CodeNotFound, "no token")
}

func (b *book) add(name string, role Role) (text string) {
	id, text, _ := NewToken()
	if b.tokens == nil {
		b.tokens = map[string]Token{}
	}
	b.tokens[text] = Token{ID: id, Name: name, Role: role}
	return text
}

func start(t *testing.T, b *book, c Config) *Authenticator {
	t.Helper()
	a, err := New(b, c)
	require.NoError(t, err)
	return a
}

func TestNewToken(t *testing.T) {
	t.Parallel()
	id, text, hash := NewToken()
	require.True(t, strings.HasPrefix(text, "catena_"+id+"_"), text)
	require.Equal(t, Hash(text), hash)
	require.Len(t, hash, 32)
	require.True(t, shaped(text))
	_, other, _ := NewToken()
	require.NotEqual(t, text, other)
	for _, wrong := range []string{"", "catena", "catena__", text + "0", text[:len(text)-1], strings.ToUpper(text), "x" + text} {
		require.False(t, shaped(wrong), wrong)
	}
}

func TestAllowEveryPair(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		action Action
		least  Role
	}{
		{ListTasks, Viewer}, {GetRun, Viewer}, {GetLogs, Viewer}, {Doctor, Viewer}, {GetStats, Viewer}, {GetArchive, Viewer}, {WaitRuns, Viewer},
		{ApplyTasks, Operator}, {DeleteTask, Operator}, {StartRun, Operator}, {StartRuns, Operator}, {CancelRun, Operator}, {CancelRuns, Operator}, {RetryRuns, Operator},
		{PushPackage, Operator}, {DeletePackage, Operator},
		{CreateToken, Admin}, {ListTokens, Admin}, {RevokeToken, Admin}, {"invented", Admin},
	} {
		for _, role := range []Role{Viewer, Operator, Admin} {
			err := Allow(role, c.action)
			if role.rank() >= c.least.rank() {
				require.NoError(t, err, "%s %s", role, c.action)
				continue
			}
			require.Equal(t, task.CodeForbidden, task.CodeOf(err), "%s %s", role, c.action)
			require.ErrorContains(t, err, string(c.least))
		}
		require.ErrorContains(t, Allow("", c.action), "without a known role", "a token without a role may do nothing")
		require.Error(t, Allow("root", c.action))
	}
}

func TestARefusalSpeaksTheUsersWords(t *testing.T) {
	t.Parallel()
	require.EqualError(t, Allow(Viewer, PauseTask), "pausing a task needs the role operator; this token is a viewer; use a token with the role operator")
	require.ErrorContains(t, Allow(Operator, CreateToken), "making a token needs the role admin; this token is an operator")
	require.ErrorContains(t, Allow(Operator, "invented"), "the operation invented needs the role admin")
}

func TestParseRole(t *testing.T) {
	t.Parallel()
	role, err := ParseRole("operator")
	require.NoError(t, err)
	require.Equal(t, Operator, role)
	_, err = ParseRole("root")
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{TTL: 3 * time.Second}, {TTL: -1}, {Size: -1}, {Failures: -1}, {Recovery: -1}} {
		_, err := New(&book{}, c)
		require.Equal(t, task.CodeInvalid, task.CodeOf(err), "%+v", c)
	}
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	b := &book{}
	good, revoked, expired := b.add("ci", Operator), b.add("old", Admin), b.add("short", Admin)
	past := time.Now().Add(-time.Second)
	change := func(text string, f func(*Token)) { token := b.tokens[text]; f(&token); b.tokens[text] = token }
	change(revoked, func(t *Token) { t.RevokedAt = &past })
	change(expired, func(t *Token) { t.ExpiresAt = &past })
	a := start(t, b, Config{})

	token, err := a.Authenticate(t.Context(), good, "10.0.0.1:99")
	require.NoError(t, err)
	require.Equal(t, "ci", token.Name)
	_, unknown, _ := NewToken()
	for text, why := range map[string]string{
		"": "no token", "abc": "not a token", unknown: "not known", revoked: "was revoked", expired: "expired at",
	} {
		_, err := a.Authenticate(t.Context(), text, "10.0.0.1:99")
		require.Equal(t, task.CodeUnauthorized, task.CodeOf(err), why)
		require.ErrorContains(t, err, why)
		if text != "" {
			require.NotContains(t, err.Error(), text, "an error must not show a secret")
		}
	}
}

func TestRevocationHoldsWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{}
		text := b.add("ci", Viewer)
		a := start(t, b, Config{TTL: 2 * time.Second})
		for range 100 {
			_, err := a.Authenticate(t.Context(), text, "10.0.0.1")
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, b.looks.Load(), "a look-up is trusted for its time")

		now := time.Now()
		token := b.tokens[text]
		token.RevokedAt = &now
		b.tokens[text] = token
		time.Sleep(2*time.Second - time.Millisecond)
		_, err := a.Authenticate(t.Context(), text, "10.0.0.1")
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		_, err = a.Authenticate(t.Context(), text, "10.0.0.1")
		require.Equal(t, task.CodeUnauthorized, task.CodeOf(err))
	})
}

func TestExpiryHoldsInsideTheCache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{}
		text := b.add("ci", Viewer)
		soon := time.Now().Add(100 * time.Millisecond)
		token := b.tokens[text]
		token.ExpiresAt = &soon
		b.tokens[text] = token
		a := start(t, b, Config{TTL: time.Second})
		_, err := a.Authenticate(t.Context(), text, "10.0.0.1")
		require.NoError(t, err)
		time.Sleep(100 * time.Millisecond)
		_, err = a.Authenticate(t.Context(), text, "10.0.0.1")
		require.ErrorContains(t, err, "expired")
	})
}

func TestStoreFailureIsNoRefusal(t *testing.T) {
	t.Parallel()
	b := &book{}
	text := b.add("ci", Viewer)
	b.err = task.Errorf(task.CodeUnavailable, "the database is away")
	a := start(t, b, Config{Failures: 1})
	for range 3 {
		_, err := a.Authenticate(t.Context(), text, "10.0.0.1")
		require.Equal(t, task.CodeUnavailable, task.CodeOf(err), "an outage must not count as a wrong token")
	}
	b.err = errors.New("boom")
	_, err := a.Authenticate(t.Context(), text, "10.0.0.1")
	require.Equal(t, task.CodeInternal, task.CodeOf(err))
}

func TestWrongTokensAreSlowedDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{}
		text, late := b.add("ci", Viewer), b.add("late", Viewer)
		a := start(t, b, Config{Failures: 5, Recovery: time.Second})
		_, err := a.Authenticate(t.Context(), text, "10.0.0.1:1")
		require.NoError(t, err)
		looks := func() int64 { return b.looks.Load() }
		before := looks()
		for i := range 50 {
			_, wrong, _ := NewToken()
			_, err := a.Authenticate(t.Context(), wrong, fmt.Sprintf("10.0.0.1:%d", i+1))
			require.Equal(t, task.CodeUnauthorized, task.CodeOf(err))
		}
		require.EqualValues(t, 5, looks()-before, "only so many reach the store")
		_, err = a.Authenticate(t.Context(), late, "10.0.0.1:7")
		require.ErrorContains(t, err, "too many")
		_, err = a.Authenticate(t.Context(), late, "10.0.0.2:7")
		require.NoError(t, err, "another address is not concerned")

		time.Sleep(1500 * time.Millisecond) // past the TTL of the known token
		_, err = a.Authenticate(t.Context(), text, "10.0.0.1:1")
		require.NoError(t, err, "a known token is not locked out by its neighbours")
		_, wrong, _ := NewToken()
		_, err = a.Authenticate(t.Context(), wrong, "10.0.0.1:1")
		require.ErrorContains(t, err, "not known", "one more try after one recovery")
		_, err = a.Authenticate(t.Context(), wrong, "10.0.0.1:1")
		require.ErrorContains(t, err, "too many")
	})
}

func TestMemoriesAreBounded(t *testing.T) {
	t.Parallel()
	b := &book{}
	a := start(t, b, Config{Size: 10, Failures: 1})
	for i := range 50 {
		_, err := a.Authenticate(t.Context(), b.add("many", Viewer), fmt.Sprintf("10.1.0.%d", i))
		require.NoError(t, err)
	}
	require.LessOrEqual(t, len(a.known), 10)
	now := time.Now()
	for i := range maxAddresses + 500 {
		a.limiter.fail(fmt.Sprintf("10.%d.%d.1:80", i/256, i%256), now)
	}
	require.LessOrEqual(t, len(a.limiter.failures), maxAddresses)
}

func TestGroup(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"10.0.0.1:99":          "10.0.0.1",
		"10.0.0.1":             "10.0.0.1",
		"[::ffff:10.0.0.1]:99": "10.0.0.1",
		"[2001:db8::1]:99":     "2001:db8::/64",
		"2001:db8::ffff:1":     "2001:db8::/64",
		"[fe80::1%eth0]:99":    "fe80::/64",
		"@":                    "@",
	} {
		require.Equal(t, want, group(remote), remote)
	}
}
