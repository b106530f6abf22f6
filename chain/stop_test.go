package chain_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/task"
)

// A stopped run begins nothing further, whatever would catch or repeat a failure.
func TestStop(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		steps      int // with an outcome; -1: any number
	}{
		{"between steps", `[{call: "a:m?slow", with: {ms: 2000}}, {call: "a:m?after"}]`, 1},
		{"in a delay", `[{delay: 1h}, {call: "a:m?after"}]`, 0},
		{"in the wait before an attempt", `[{call: "a:m?fail", retry: {attempts: 5, backoff: 1h}}]`, 0},
		{"in attempts without a wait", `[{call: "a:m?stop", retry: {attempts: 5}}]`, 0},
		{"before a catch", `[{call: "a:m?stop", catch: [{call: "a:m?after"}]}, {call: "a:m?after"}]`, 0},
		{"in a group with a catch", `[{do: [{call: "a:m?slow", with: {ms: 2000}}, {call: "a:m?after"}], catch: [{call: "a:m?after"}]}]`, 0},
		{"in a chain that never fails", `[["newChain", {chainItems: [{call: "a:m?slow", with: {ms: 2000}}, {call: "a:m?after"}]}]]`, 0},
		{"in each", `[{each: [1, 2, 3], do: [{call: "a:m?slow", with: {ms: 2000}}]}]`, 0},
		{"in parallel branches", `[{parallel: [{call: "a:m?slow", with: {ms: 2000}}, [{delay: 1500}, {call: "a:m?after"}]], catch: [{call: "a:m?after"}]}]`, 0},
		{"in an item with a time limit", `[{call: "a:m?stop", timeout: 1h, catch: [{call: "a:m?after"}]}]`, 0},
		{"while it replays", `[{set: {a: 1}}, ["replay"]]`, -1},
		{"the last step succeeds", `[{call: "a:m?slow", with: {ms: 2000}}]`, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				doc, stop := parse(t, tt.text), make(chan struct{})
				c := functions(map[string]func(context.Context, map[string]any) task.Outcome{
					"after": func(context.Context, map[string]any) task.Outcome { return task.Succeed(nil) },
					"stop": func(context.Context, map[string]any) task.Outcome {
						<-stop
						return task.Fail("aborted")
					},
				})
				time.AfterFunc(time.Second, func() { close(stop) })
				began, committed := time.Now(), 0
				res, err := doc.Run(t.Context(), chain.Options{Invoker: c, Stop: stop,
					Commit: func(context.Context, task.Step) error { committed++; return nil }})
				require.LessOrEqual(t, time.Since(began), 2*time.Second)
				if tt.name == "the last step succeeds" {
					require.NoError(t, err)
					require.True(t, res.Outcome.Success)
				} else {
					require.ErrorIs(t, err, chain.ErrStopped)
					require.False(t, res.Outcome.Success)
				}
				if tt.steps >= 0 {
					require.Equal(t, tt.steps, committed+len(res.Steps))
				}
				for _, call := range c.calls {
					require.NotEqual(t, "after", call.Ref.Function)
				}
			})
		})
	}
}

// What a call is doing when the run is stopped goes on until its context ends.
func TestStopLeavesCallsTheirTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(stop) })
		cause := task.Errorf(task.CodeCancelled, "the grace is over")
		time.AfterFunc(3*time.Second, func() { cancel(cause) })
		began := time.Now()
		_, err := parse(t, `[{call: "a:m?slow", with: {ms: 9000}}]`).Run(ctx, chain.Options{Invoker: functions(nil), Stop: stop})
		require.ErrorIs(t, err, cause)
		require.Equal(t, 3*time.Second, time.Since(began))
	})
}
