package lifecycle_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/lifecycle"
)

func TestNotify(t *testing.T) {
	r, err := lifecycle.NewReadiness()
	require.NoError(t, err)
	env := r.Env(append(os.Environ(), "CATENA_INTERNAL_NOTIFY_SOCKET=/another"))
	path := strings.TrimPrefix(env[len(env)-1], "CATENA_INTERNAL_NOTIFY_SOCKET=")
	require.FileExists(t, path)
	require.NotContains(t, env, "CATENA_INTERNAL_NOTIFY_SOCKET=/another")

	t.Setenv("NOTIFY_SOCKET", "/nowhere/else")
	require.Error(t, lifecycle.Notify(lifecycle.NotifyReady), "nobody is there")
	manager, err := lifecycle.NewReadiness()
	require.NoError(t, err)
	defer manager.Close()
	managed := manager.Env(nil)[0]
	t.Setenv("NOTIFY_SOCKET", strings.TrimPrefix(managed, "CATENA_INTERNAL_NOTIFY_SOCKET="))
	t.Setenv("CATENA_INTERNAL_NOTIFY_SOCKET", path)
	require.NoError(t, lifecycle.Notify("STATUS=nearly"))
	require.NoError(t, lifecycle.Notify(lifecycle.NotifyMainPID(7), lifecycle.NotifyReady))
	require.NoError(t, r.Wait(t.Context()))
	require.NoError(t, manager.Wait(t.Context()), "both hear of it")
	lifecycle.ForgetParent()
	require.NoError(t, lifecycle.Notify(lifecycle.NotifyReady))
	require.NoError(t, manager.Wait(t.Context()))

	given := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(given)
	require.ErrorIs(t, r.Wait(ctx), given)
	r.Close()
	require.NoFileExists(t, path)
	t.Setenv("NOTIFY_SOCKET", "")
	require.NoError(t, lifecycle.Notify(lifecycle.NotifyReady), "without a service manager there is nothing to do")
}
