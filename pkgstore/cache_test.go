package pkgstore

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestCachePinsByRelease(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	ctx := t.Context()
	one, two := hello(t, "hello", 1), hello(t, "hello", 2)
	push(t, s, hello(t, "other", 1), "") // 1
	push(t, s, one, "")                  // 2
	cache := NewCache(s, 0)
	resolve := func(release int64) string {
		t.Helper()
		v, err := cache.Resolve(ctx, "hello", release)
		require.NoError(t, err)
		return v.Digest
	}
	require.Equal(t, one.Digest(), resolve(2))
	push(t, s, two, "beta") // 3
	require.Equal(t, one.Digest(), resolve(3))
	push(t, s, two, "") // 4
	require.Equal(t, one.Digest(), resolve(3), "a run stays on its version")
	require.Equal(t, two.Digest(), resolve(4), "a newer release is seen at once")
	require.Equal(t, two.Digest(), freshResolve(t, s, "hello", 4))
	_, err := cache.Resolve(ctx, "hello", 1)
	requireError(t, err, task.CodeNotFound, "", "package hello has no live version (release 1)")
	_, err = cache.Resolve(ctx, "hello", 99)
	requireError(t, err, task.CodeUnavailable, "", "release 99 is not in the database; the newest is 4")

	_, err = pool.Exec(ctx, `UPDATE package_versions SET archive = '' WHERE digest = $1`, two.Digest())
	require.NoError(t, err)
	require.Equal(t, two.Digest(), resolve(4), "from memory")
	_, err = NewCache(s, 0).Resolve(ctx, "hello", 4)
	requireError(t, err, task.CodeNotFound, "", two.Digest())
}

func freshResolve(t *testing.T, s *Store, pkg string, release int64) string {
	v, err := NewCache(s, 0).Resolve(t.Context(), pkg, release)
	require.NoError(t, err)
	return v.Digest
}

func TestCacheEvicts(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	for i := range 4 {
		push(t, s, hello(t, fmt.Sprintf("p%d", i), i), "")
	}
	v, err := s.Load(t.Context(), hello(t, "p0", 0).Digest())
	require.NoError(t, err)
	cache := NewCache(s, 2*v.size()+v.size()/2)
	get := func(i int) *Version {
		v, err := cache.Resolve(t.Context(), fmt.Sprintf("p%d", i), 4)
		require.NoError(t, err)
		return v
	}
	zero, one := get(0), get(1)
	require.Same(t, zero, get(0))
	two := get(2) // 1 was used longest ago
	require.Same(t, zero, get(0))
	require.Same(t, two, get(2))
	require.NotSame(t, one, get(1))
	require.LessOrEqual(t, cache.size, cache.limit)

	tiny := NewCache(s, 1)
	first, err := tiny.Resolve(t.Context(), "p0", 4)
	require.NoError(t, err)
	again, err := tiny.Resolve(t.Context(), "p0", 4)
	require.NoError(t, err)
	require.Same(t, first, again, "the last one stays whatever its size")
}

func TestCacheAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	push(t, s, hello(t, "hello", 1), "")
	push(t, s, hello(t, "hello", 2), "")
	cache := NewCache(s, 0)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	var wg sync.WaitGroup
	versions := make([]*Version, 40)
	for i := range versions {
		wg.Go(func() {
			if i%4 == 0 {
				_, _ = cache.Resolve(cancelled, "hello", 2) // must not spoil it for the others
			}
			versions[i], _ = cache.Resolve(t.Context(), "hello", int64(1+i%2))
		})
	}
	wg.Wait()
	for i := 2; i < len(versions); i++ {
		require.NotNil(t, versions[i])
		require.Same(t, versions[i%2], versions[i], "loaded once")
	}
}
