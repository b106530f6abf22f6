package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestTheSecondSignalEndsTheProcess(t *testing.T) {
	t.Parallel()
	for first, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		synctest.Test(t, func(t *testing.T) { secondSignal(t, first, want) })
	}
}

func secondSignal(t *testing.T, first syscall.Signal, want int) {
	{
		signals := make(chan os.Signal)
		ctx, end := context.WithCancelCause(t.Context())
		var said strings.Builder
		code := make(chan int, 1)
		go heed(signals, end, &said, func(c int) { code <- c })
		signals <- first
		<-ctx.Done()
		require.ErrorContains(t, context.Cause(ctx), "interrupted by")
		require.ErrorIs(t, context.Cause(ctx), context.Canceled, "for those who tell an orderly end from a failure")
		stopped, yes := interruptedCode(ctx, fmt.Errorf("wrapped: %w", task.Errorf(task.CodeCancelled, "stopped")))
		require.True(t, yes)
		require.Equal(t, want, stopped)
		time.Sleep(sameRequest - time.Millisecond)
		signals <- syscall.SIGTERM // from somebody else who means the same
		synctest.Wait()
		require.Empty(t, code)
		time.Sleep(time.Millisecond)
		signals <- syscall.SIGTERM
		require.Equal(t, 143, <-code)
		require.Contains(t, said.String(), "stopping now")
	}
}

func TestOnlyACancelledCommandWasInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := task.Errorf(task.CodeCancelled, "stopped")
	_, yes := interruptedCode(ctx, cancelled)
	require.False(t, yes, "the server may say cancelled too")
	cancel()
	_, yes = interruptedCode(ctx, errors.New("broken"))
	require.False(t, yes)
	_, yes = interruptedCode(ctx, nil)
	require.False(t, yes)
	code, yes := interruptedCode(ctx, cancelled)
	require.True(t, yes)
	require.Equal(t, 130, code)
}

func TestTheNameIsThatOfTheCall(t *testing.T) {
	t.Parallel()
	require.Equal(t, "bin/catena", calledAs([]string{"bin/catena", "dev"}))
	require.Equal(t, "'./my bin/catena'", calledAs([]string{"./my bin/catena"}))
	require.Empty(t, calledAs(nil))
}
