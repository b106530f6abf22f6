package chain_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/task"
)

// slow waits as long as its input says, or until ctx ends.
func slow(ctx context.Context, in map[string]any) task.Outcome {
	ms, _ := in["ms"].(float64)
	select {
	case <-ctx.Done():
		return task.Fail("interrupted: " + ctx.Err().Error())
	case <-time.After(time.Duration(ms) * time.Millisecond):
		return task.Succeed([]byte(fmt.Sprint(ms)))
	}
}

func functions(more map[string]func(context.Context, map[string]any) task.Outcome) *code {
	all := map[string]func(context.Context, map[string]any) task.Outcome{"slow": slow, "fail": func(context.Context, map[string]any) task.Outcome { return task.Fail("broken") }}
	for name, f := range more {
		all[name] = f
	}
	return &code{functions: all}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text, reason string
		least, most        time.Duration
	}{
		{"delay", `[{delay: 250}, ["delay", 250], {delay: 1.5s}, ["nop", 1000]]`, "", 3 * time.Second, 3 * time.Second},
		{"timeout", `[{call: "a:m?slow", with: {ms: 5000}, timeout: 2s}]`, "timed out after 2s", 2 * time.Second, 2 * time.Second},
		{"timeout of a delay", `[{delay: 5s, timeout: 2s}]`, "timed out after 2s", 2 * time.Second, 2 * time.Second},
		{"timeout of a group", `[{do: [{delay: 1s}, {delay: 5s}], timeout: 2s}]`, "timed out after 2s", 2 * time.Second, 2 * time.Second},
		{"timeout of each", `[{each: [1, 2, 3], limit: 2, do: [{delay: 5s}], timeout: 2s}]`, "timed out after 2s", 2 * time.Second, 2 * time.Second},
		{"inner timeout", `[{do: [{delay: 5s, timeout: 1s}], timeout: 2s}]`, "timed out after 1s", time.Second, time.Second},
		{"in time", `[{call: "a:m?slow", with: {ms: 1000}, timeout: 2s}]`, "", time.Second, time.Second},
		{"timeout is caught", `[{delay: 5s, timeout: 2s, catch: [{delay: 1s}]}]`, "", 3 * time.Second, 3 * time.Second},
		{"timeout of every attempt", `[{delay: 5s, timeout: 2s, retry: {attempts: 3, backoff: 1s}}]`, "timed out after 2s", 9 * time.Second, 9 * time.Second},
		{"retry", `[{call: "a:m?fail", retry: {attempts: 4, backoff: 1s, factor: 3, max: 5s}}]`, "broken", 9 * time.Second, 9 * time.Second},
		{"jitter", `[{call: "a:m?fail", retry: {attempts: 2, backoff: 10s, jitter: 0.5}}]`, "broken", 5 * time.Second, 15 * time.Second},
		{"return is not retried", `[{do: [["outcome", {success: false, reason: no}]], retry: {attempts: 4, backoff: 1s}}]`, "no", 0, 0},
		{"each one by one", `[{each: [1, 2, 3], do: [{delay: 1s}]}]`, "", 3 * time.Second, 3 * time.Second},
		{"each with limit", `[{each: [1, 2, 3, 4, 5], limit: 2, do: [{delay: 1s}]}]`, "", 3 * time.Second, 3 * time.Second},
		{"parallel", `[{parallel: [{delay: 1s}, {delay: 2s}, {delay: 2s}]}]`, "", 2 * time.Second, 2 * time.Second},
		{"parallel with limit", `[{parallel: [{delay: 1s}, {delay: 2s}, {delay: 2s}], limit: 1}]`, "", 5 * time.Second, 5 * time.Second},
		{"failure cancels the others", `[{parallel: [{call: "a:m?slow", with: {ms: 9000}}, [{delay: 1s}, {call: "a:m?fail"}]]}]`, "broken", time.Second, time.Second},
		{"failure stops each", `[{each: [1, 2, 3, 4], limit: 2, do: [{delay: 1s}, {call: "a:m?fail"}]}]`, "broken", time.Second, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				res, err := parse(t, tt.text).Run(t.Context(), chain.Options{Invoker: functions(nil)})
				require.NoError(t, err)
				require.Equal(t, tt.reason, res.Outcome.Reason)
				require.Equal(t, tt.reason == "", res.Outcome.Success)
				require.GreaterOrEqual(t, time.Since(began), tt.least)
				require.LessOrEqual(t, time.Since(began), tt.most)
			})
		})
	}
}

func TestRetrySucceeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		c := functions(map[string]func(context.Context, map[string]any) task.Outcome{"third": func(context.Context, map[string]any) task.Outcome {
			if calls++; calls < 3 {
				return task.Fail("not yet")
			}
			return task.Succeed(nil)
		}})
		res, err := parse(t, `[{call: "a:m?third", retry: {attempts: 5, backoff: 1s}}]`).Run(t.Context(), chain.Options{Invoker: c})
		require.NoError(t, err)
		require.True(t, res.Outcome.Success)
		require.Equal(t, 3, calls)
	})
}

// TestCancel ends the context while each kind of item runs.
func TestCancel(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`[{delay: 1h}]`,
		`[{call: "a:m?slow", with: {ms: 9000000}}]`,
		`[{call: "a:m?slow", with: {ms: 9000000}, timeout: 2h, retry: {attempts: 9}, catch: [{log: never}]}]`,
		`[{call: "a:m?fail", retry: {attempts: 9, backoff: 1h, max: 1h}}]`,
		`[{each: [1, 2, 3], do: [{delay: 1h}]}]`,
		`[{each: [1, 2, 3], limit: 2, do: [{delay: 1h}]}]`,
		`[{parallel: [{delay: 1h}, {call: "a:m?slow", with: {ms: 9000000}}]}]`,
		`[["newChain", {chainItems: [{delay: 1h}]}]]`,
		`[["nop"], ["replay"]]`,
		`[{do: [["nop"], ["replay"]]}]`,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				asked := errors.New("asked for")
				ctx, cancel := context.WithCancelCause(t.Context())
				began := time.Now()
				time.AfterFunc(time.Second, func() { cancel(asked) })
				_, err := parse(t, `[["nop"], `+strings.TrimPrefix(text, "[")).Run(ctx, chain.Options{
					Invoker: functions(nil), Log: func(_, _, message string) { require.NotContains(t, message, "never") },
				})
				require.ErrorIs(t, err, asked)
				require.Equal(t, time.Second, time.Since(began))
			})
		})
	}
}

func TestCancelBetweenItems(t *testing.T) {
	t.Parallel()
	asked := errors.New("asked for")
	ctx, cancel := context.WithCancelCause(t.Context())
	c := functions(map[string]func(context.Context, map[string]any) task.Outcome{"stop": func(context.Context, map[string]any) task.Outcome {
		cancel(asked)
		return task.Succeed(nil)
	}})
	var committed int
	_, err := parse(t, `[{call: "a:m?stop"}, {call: "a:m?never"}]`).Run(ctx, chain.Options{
		Invoker: c, Commit: func(context.Context, task.Step) error { committed++; return nil },
	})
	require.ErrorIs(t, err, asked)
	require.Equal(t, 1, committed, "what was done is committed")
	require.Len(t, c.calls, 1)
}

// TestLimitIsKept counts how many branches run at once.
func TestLimitIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		c := functions(map[string]func(context.Context, map[string]any) task.Outcome{"count": func(context.Context, map[string]any) task.Outcome {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return task.Succeed(nil)
		}})
		res, err := parse(t, `[{each: "${1..50}", limit: 7, do: [{call: "a:m?count"}]}]`).Run(t.Context(), chain.Options{Invoker: c})
		require.NoError(t, err)
		require.True(t, res.Outcome.Success)
		require.EqualValues(t, 7, most.Load())
	})
}

// TestBranchesShareNothing lets branches read and write everything at once; the
// race detector judges.
func TestBranchesShareNothing(t *testing.T) {
	t.Parallel()
	res := execute(t, `
- {call: "a:m?f", with: {n: 1}, as: first}
- each: ${1..200}
  limit: 16
  do:
    - set: {v: "${item + vars.first.n + params.n}"}
    - {call: "a:m?f", with: {v: "${vars.v}", s: "${steps.first.data.n}", t: "${run.task}"}, as: inner}
    - {when: "${steps.inner.data.v > 0}", call: "a:m?f", with: {sum: "${vars.inner.v + outcome.data.s}"}, catch: [{log: "${error.reason}"}]}
    - {call: "a:m?f", with: {o: "${outcome.data.sum}", x: "${vars.missing.x}"}, catch: [{parallel: [{log: "${error.reason}"}, {set: {z: "${index}"}}]}, {call: "a:m?f", with: {z: "${vars.z}"}}]}
`, `{"n": 2}`)
	require.True(t, res.Outcome.Success, res.Outcome.Reason)
	require.Contains(t, string(res.Outcome.Data), `{"z":199}`)
}
