package cli

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func TestDetails(t *testing.T) {
	t.Parallel()
	first := task.Errorf(task.CodeNotFound, "no task a").At("a").Fix("apply it")
	second := errors.New("plain")
	want := client.ErrorDetail{Code: task.CodeNotFound, Message: "no task a", Where: "a", Remedy: "apply it"}
	require.Equal(t, []client.ErrorDetail{want, {Code: task.CodeInternal, Message: "plain"}}, details(errors.Join(first, second)))
	want.Message = "starting: no task a"
	require.Equal(t, []client.ErrorDetail{want}, details(fmt.Errorf("starting: %w", first)))
	both := fmt.Errorf("%w, and then %w", second, errors.New("more"))
	require.Equal(t, []client.ErrorDetail{{Code: task.CodeInternal, Message: "plain, and then more"}}, details(both))
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	require.Equal(t, exitOK, exitCode(nil))
	require.Equal(t, exitFailure, exitCode(errQuiet))
	require.Equal(t, exitFailure, exitCode(errors.New("any")))
	require.Equal(t, exitUsage, exitCode(fmt.Errorf("wrapped: %w", &usageError{message: "wrong"})))
	require.Equal(t, exitUnreachable, exitCode(task.Errorf(task.CodeUnavailable, "away")))
	require.Equal(t, exitForbidden, exitCode(errors.Join(task.Errorf(task.CodeForbidden, "no"))))
}
