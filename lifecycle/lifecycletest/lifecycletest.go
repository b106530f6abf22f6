// Package lifecycletest holds the one test that every lifecycle.Runner passes.
// It checks the contract only, not what the Runner does.
package lifecycletest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/lifecycle"
)

// patience is far more than a healthy Runner needs.
const patience = 30 * time.Second

// Run checks Runners made by fresh, one for each subtest.
func Run(t *testing.T, fresh func(t *testing.T) lifecycle.Runner) {
	t.Helper()
	for name, check := range map[string]func(*testing.T, context.Context, lifecycle.Runner){
		"stop without start": func(t *testing.T, ctx context.Context, r lifecycle.Runner) {
			require.NoError(t, r.Stop(ctx))
		},
		"stop twice": func(t *testing.T, ctx context.Context, r lifecycle.Runner) {
			require.NoError(t, r.Start(ctx))
			require.NoError(t, r.Stop(ctx))
			require.NoError(t, r.Stop(ctx))
		},
		"start twice": func(t *testing.T, ctx context.Context, r lifecycle.Runner) {
			require.NoError(t, r.Start(ctx))
			require.Error(t, r.Start(ctx), "a second Start must be refused")
			require.NoError(t, r.Stop(ctx))
		},
		"stops at once": stopsAtOnce,
		"start with an ended context": func(t *testing.T, ctx context.Context, r lifecycle.Runner) {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			require.Error(t, r.Start(ended))
			require.NoError(t, r.Stop(ctx))
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			check(t, ctx, fresh(t))
		})
	}
}

// stopsAtOnce: several goroutines stop the Runner, and all return.
func stopsAtOnce(t *testing.T, ctx context.Context, r lifecycle.Runner) {
	require.NoError(t, r.Start(ctx))
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = r.Stop(ctx) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}
