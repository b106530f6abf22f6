package chain_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/task"
)

// everything leaves state of every kind behind and ends by showing all of it.
const everything = `
- set: {count: 0, big: 123456789012345678901234567890, half: "${1 / 2}", whole: "${4 / 2}"}
- {call: "a:m?f", with: {total: 5}, as: invoice}
- ["nop"]
- {when: "${false}", call: "a:m?f", as: skipped}
- set: {invoice: changed, list: "${[1, 2.5, {a: now() != now()}]}"}
- do:
    - {call: "a:m?f", with: {inner: 1}, as: inner}
    - set: {count: "${vars.count + 1}", groups: "${groupBy([1, 2, 3], # % 2 == 0)}"}
- parallel:
    - {call: "a:m?f", with: {left: 1}, as: left}
    - {set: {right: 2}}
- {name: the loop, each: [1, 2], do: [{call: "a:m?f", with: {v: "${item}"}}]}
- ["newChain", {chainItems: [["outcome", {success: false, reason: inner failed, status: 7}]]}]
- ["set", "seen", "${outcome.reason}"]
- {when: "${vars.count < 3}", do: [{set: {count: "${vars.count + 1}"}}]}
- {task: other, with: {n: "${vars.count}"}}
- {call: "a:m?f", with: {vars: "${vars}", steps: "${steps}", outcome: "${outcome}", whole: "${vars.whole % 2}"}}
- ["outcome", {success: true, data: "${outcome.data}", extra: "${vars.seen}"}]
- {log: never}
`

// TestResumeAfterEveryStep ends a run after each of its steps and goes on from
// what was committed, as it comes back from JSON: the end must be the same, and
// no committed item may run again.
func TestResumeAfterEveryStep(t *testing.T) {
	t.Parallel()
	doc := parse(t, everything)
	var committed []task.Step
	first := &code{}
	want, err := doc.Run(t.Context(), chain.Options{Invoker: first, Starter: &starter{}, Commit: func(_ context.Context, s task.Step) error {
		committed = append(committed, s)
		return nil
	}})
	require.NoError(t, err)
	require.True(t, want.Outcome.Success, want.Outcome.Reason)
	require.Len(t, want.Steps, 1)
	require.Equal(t, "13", want.Steps[0].Path)
	require.Len(t, committed, 13)
	for i, s := range committed {
		require.Equal(t, fmt.Sprint(i), s.Path)
		require.False(t, s.FinishedAt.Before(s.StartedAt))
	}
	require.Equal(t, "the loop", committed[7].Name)

	raw, err := json.Marshal(committed)
	require.NoError(t, err)
	for k := range len(committed) + 1 {
		var done []task.Step
		require.NoError(t, json.Unmarshal(raw, &done))
		again := &code{}
		got, err := doc.Run(t.Context(), chain.Options{Invoker: again, Starter: &starter{}, Done: done[:k], Commit: func(context.Context, task.Step) error { return nil }})
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(want.Outcome, got.Outcome), "after %d steps", k)
		require.LessOrEqual(t, len(again.calls), len(first.calls))
		tail := first.inputs()[len(first.calls)-len(again.calls):]
		if len(again.calls) < 3 { // the branches of parallel come in any order
			require.Equal(t, tail, again.inputs())
		}
	}
}

func TestStepsSayOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	res := execute(t, `[["nop"], {call: "a:m?f", as: x}, {set: {a: 1}}, {set: {b: "${vars.a}"}}, {when: "${false}", log: x}, {log: y}, ["set", "outcome", {success: true}]]`, "")
	var vars []string
	for _, s := range res.Steps {
		vars = append(vars, string(s.Vars))
	}
	quiet := `{"quiet":true}`
	require.Equal(t, []string{quiet, "", `{"quiet":true,"set":{"a":1}}`, `{"quiet":true,"set":{"b":1}}`, quiet, quiet, `{"outcome":{"success":true}}`}, vars)
	require.JSONEq(t, `true`, string(res.Steps[4].Outcome.Extra["skipped"]))
}

func TestFailingStepComesBack(t *testing.T) {
	t.Parallel()
	doc := parse(t, `[{call: "a:m?f", with: {a: 1}}, {call: "a:m?fail"}, {call: "a:m?f"}]`)
	fail := true
	c := &code{functions: map[string]func(context.Context, map[string]any) task.Outcome{"fail": func(context.Context, map[string]any) task.Outcome {
		if fail {
			return task.Fail("not yet")
		}
		return task.Succeed(nil)
	}}}
	var done []task.Step
	commit := func(_ context.Context, s task.Step) error { done = append(done, s); return nil }
	res, err := doc.Run(t.Context(), chain.Options{Invoker: c, Commit: commit})
	require.NoError(t, err)
	require.Equal(t, "not yet", res.Outcome.Reason)
	require.Len(t, done, 1)
	require.Len(t, res.Steps, 1)
	require.Equal(t, "1", res.Steps[0].Path)
	require.Nil(t, res.Steps[0].Vars)

	fail = false
	res, err = doc.Run(t.Context(), chain.Options{Invoker: c, Commit: commit, Done: done, Run: chain.RunInfo{Attempt: 2}})
	require.NoError(t, err)
	require.True(t, res.Outcome.Success)
	require.Equal(t, 2, res.Steps[0].Attempt)
	require.Len(t, c.calls, 4, "the first item ran once")
}

func TestDoneSteps(t *testing.T) {
	t.Parallel()
	doc := parse(t, `[{call: "a:m?f", with: {a: 1}}, {log: x}]`)
	all, err := doc.Run(t.Context(), chain.Options{Invoker: &code{}})
	require.NoError(t, err)
	res, err := doc.Run(t.Context(), chain.Options{Done: all.Steps})
	require.NoError(t, err)
	require.Empty(t, res.Steps)
	require.JSONEq(t, `{"a":1}`, string(res.Outcome.Data))

	for _, path := range []string{"2", "-1", "x", ""} {
		_, err = doc.Run(t.Context(), chain.Options{Done: []task.Step{{Path: path, Outcome: &task.Outcome{Success: true}}}})
		require.ErrorContains(t, err, "does not belong to this chain")
	}
	_, err = doc.Run(t.Context(), chain.Options{Done: []task.Step{{Path: "0", Vars: []byte("{"), Outcome: &task.Outcome{Success: true}}}})
	require.ErrorContains(t, err, "state of committed step 0")
}

// TestReplay counts to three with a replay at the top level, which makes
// iterations of steps, and goes on in the middle of the second.
func TestReplay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		doc := parse(t, `[{set: {n: "${(vars.n ?? 0) + 1}"}}, {when: "${vars.n < 3}", do: [["nop"]], name: again}, ["ROF"], {call: "a:m?f", with: {n: "${vars.n}"}}, ["replay"]]`)
		var done []task.Step
		stop := fmt.Errorf("enough")
		_, err := doc.Run(t.Context(), chain.Options{Invoker: &code{}, Commit: func(_ context.Context, s task.Step) error {
			if done = append(done, s); s.Iteration == 2 && s.Path == "3" {
				return stop
			}
			return nil
		}})
		require.ErrorIs(t, err, stop)
		require.Len(t, done, 14)
		require.Equal(t, 1, done[5].Iteration)
		require.Equal(t, "0", done[5].Path)

		again := &code{}
		_, err = doc.Run(t.Context(), chain.Options{Invoker: again, Done: done[:10], Commit: func(_ context.Context, s task.Step) error {
			require.GreaterOrEqual(t, s.Iteration, 2)
			if s.Path == "4" {
				return stop
			}
			return nil
		}})
		require.ErrorIs(t, err, stop)
		require.Equal(t, []string{`{"n":3}`}, again.inputs())
	})
}

// TestReplayInside shows that replay begins the innermost list again.
func TestReplayInside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		res := execute(t, `[{set: {n: 0}}, {do: [{set: {n: "${vars.n + 1}"}}, {do: [{when: "${vars.n < 0}", log: x}, ["nop"]]}, {when: "${vars.n > 3}", call: "a:m?f", with: "${vars}"}, ["ROF"], {each: [1], do: [["nop"]]}, ["newChain", {chainItems: [["outcome", {success: true, data: "${params.x}"}]]}]]}]`, "")
		require.True(t, res.Outcome.Success, res.Outcome.Reason)
		c := &code{}
		counted, err := parse(t, `[{set: {n: 0}}, [["nop"], ["set", "n", "${vars.n + 1}"], {call: "a:m?f", with: "${vars}"}, ["set", "outcome", {success: false, reason: "${string(vars.n)}"}], ["replay"]]]`).
			Run(t.Context(), chain.Options{Invoker: stopAfter{c, 3}})
		require.NoError(t, err)
		require.Equal(t, "enough", counted.Outcome.Reason)
		require.Equal(t, []string{`{"n":1}`, `{"n":2}`, `{"n":3}`}, c.inputs())
	})
}

// stopAfter fails the nth call.
type stopAfter struct {
	*code
	n int
}

func (s stopAfter) Invoke(ctx context.Context, call chain.Invocation) task.Outcome {
	o := s.code.Invoke(ctx, call)
	if len(s.calls) >= s.n {
		return task.Fail("enough")
	}
	return o
}

func TestTaskKeysAreStable(t *testing.T) {
	t.Parallel()
	s := &starter{}
	doc := parse(t, `[{each: [1, 2], do: [{task: other, with: {n: "${item}"}}]}, {task: other}]`)
	for range 2 {
		_, err := doc.Run(t.Context(), chain.Options{Starter: s})
		require.NoError(t, err)
	}
	const id = "00000000-0000-0000-0000-000000000000/0/"
	require.Equal(t, map[string]string{id + "0[0].do.0": `other {"n":1}`, id + "0[1].do.0": `other {"n":2}`, id + "1": "other {}"}, s.keys)
}
