package chain_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/task"
)

// TestOutcome runs documents with code that echoes its input, and compares the
// data or the reason they end with.
func TestOutcome(t *testing.T) {
	t.Parallel()
	const none = "<none>"
	for _, tt := range []struct{ name, text, data, reason string }{
		{name: "nothing said", text: `[["nop"]]`, data: none},
		{name: "call", text: `[{call: 'a:m?f', with: {n: "${params.n}"}}]`, data: `{"n":3}`},
		{name: "call without input", text: `[{call: 'a:m?f'}]`, data: `{}`},
		{name: "quiet items keep the outcome", text: `[{call: 'a:m?f', with: {a: 1}}, {log: x}, [delay, 0], {set: {b: 2}}]`, data: `{"a":1}`},
		{name: "types survive one expression", text: `[{call: 'a:m?f', with: {a: "${params.list}", b: "n=${params.n}", c: "${params.n > 2}", d: "${params.none}"}}]`,
			data: `{"a":[1,2.5,"x"],"b":"n=3","c":true,"d":null}`},
		{name: "escaped", text: `[{call: 'a:m?f', with: {a: "$${x} ${params.n}"}}]`, data: `{"a":"${x} 3"}`},
		{name: "exact integers", text: `[{call: 'a:m?f', with: {a: "${params.big}", b: 98765432109876543210987, c: "${params.id}"}}]`,
			data: `{"a":123456789012345678901234567890,"b":98765432109876543210987,"c":9007199254740993}`},
		{name: "named step", text: `[{call: 'a:m?f', with: {t: 5}, as: x}, {call: 'a:m?f', with: {u: "${steps.x.data.t + vars.x.t}", ok: "${steps.x.success}"}}]`,
			data: `{"u":10,"ok":true}`},
		{name: "a name with spaces", text: `[{call: 'a:m?f', with: {t: 5}, name: the first}, {call: 'a:m?f', with: {u: '${steps["the first"].data.t}'}}]`, data: `{"u":5}`},
		{name: "skipped", text: `[{call: 'a:m?f', with: {t: 5}}, {when: params.n > 5, call: 'a:m?f', as: x}, {call: 'a:m?f', with: {s: "${steps.x.skipped}", o: "${outcome.data.t}"}}]`,
			data: `{"s":true,"o":5}`},
		{name: "set sees old values", text: `[{set: {a: 1}}, {set: {a: 2, b: "${vars.a}"}}, {call: 'a:m?f', with: "${vars}"}]`, data: `{"a":2,"b":1}`},
		{name: "each", text: `[{each: "${params.list}", do: [{call: 'a:m?f', with: {v: "${item}", i: "${index}"}}]}]`, data: `[{"v":1,"i":0},{"v":2.5,"i":1},{"v":"x","i":2}]`},
		{name: "each with names and limit", text: `[{each: [7, 8], item: a, index: b, limit: 2, do: [{call: 'a:m?f', with: {v: "${a * 10 + b}"}}]}]`, data: `[{"v":70},{"v":81}]`},
		{name: "each within each", text: `[{each: [1, 2], item: a, do: [{each: [3], item: b, do: [{call: 'a:m?f', with: {v: "${a * b}"}}]}]}]`, data: `[[{"v":3}],[{"v":6}]]`},
		{name: "each of nothing", text: `[{each: [], do: [{call: 'a:m?f'}]}]`, data: `[]`},
		{name: "each without outcomes", text: `[{each: [1, 2], do: [{log: "${item}"}]}]`, data: `[null,null]`},
		{name: "variables of each stay inside", text: `[{set: {v: 1}}, {each: [5], do: [{set: {v: "${item}"}}]}, {call: 'a:m?f', with: "${vars}"}]`, data: `{"v":1}`},
		{name: "return in each ends the element", text: `[{each: [1, 2], do: [["outcome", {success: true, data: 9}], {call: 'a:m?f'}]}]`, data: `[9,9]`},
		{name: "parallel", text: `[{parallel: [{call: 'a:m?f', with: {a: 1}, as: x}, [{set: {y: 2}}, {call: 'a:m?f', with: {b: 1}}], [nop]]}]`, data: `[{"a":1},{"b":1},null]`},
		{name: "parallel keeps names and variables", text: `[{parallel: [{call: 'a:m?f', with: {a: 1}, as: x}, {set: {y: 2}}]}, {call: 'a:m?f', with: {x: "${steps.x.data.a}", v: "${vars}"}}]`,
			data: `{"x":1,"v":{"x":{"a":1},"y":2}}`},
		{name: "group", text: `[{do: [{set: {a: 1}}, {call: 'a:m?f', with: {n: "${vars.a}"}}], as: g}, {call: 'a:m?f', with: {g: "${steps.g.data.n}"}}]`, data: `{"g":1}`},
		{name: "task", text: `[{task: other, with: {a: 1}}]`, data: `{"run":"` + uuid.NewSHA1(uuid.Nil, []byte(uuid.Nil.String()+"/0/0")).String() + `"}`},
		{name: "catch", text: `[{call: 'a:m?f', with: "${params.none.x}", catch: [{call: 'a:m?f', with: {r: "${error.success}"}}], as: c}, [nop]]`, data: `{"r":false}`},
		{name: "catch that fails", text: `[{do: [["outcome", 5]]}]`, reason: "parse"},
		{name: "dynamic call", text: `[{call: "${params.ref}", with: {a: 1}}]`, data: `{"a":1}`},
		{name: "dynamic call, bad", text: `[{call: "${params.n}"}]`, reason: `"3" does not name a function of a package; write package:module?function, such as billing:invoice?close`},

		{name: "missing step", text: `[{call: 'a:m?f', with: {a: "${steps.x.data.total}"}}]`, reason: `with: ${steps.x.data.total}: no step named "x" has run before this item`},
		{name: "null in the middle", text: `[{call: 'a:m?f', with: {a: "${params.none.x}"}}]`, reason: `with: ${params.none.x}: cannot fetch x from null`},
		{name: "when is not boolean", text: `[{when: "${params.n}", log: x}]`, reason: `when must be true or false, but ${params.n} is 3`},
		{name: "each over a number", text: `[{each: "${params.n}", do: [{log: x}]}]`, reason: "each needs a list, but got 3"},
		{name: "delay of a text", text: `[{delay: "${params.ref}"}]`, reason: `delay: "a:m?f" is not a duration; write milliseconds as a number, or a text such as "250ms", "30s", "10m" or "2d"`},
		{name: "delay of the past", text: `[{delay: "${0 - params.n}"}]`, reason: "delay: a duration cannot be negative (-3ms)"},
		{name: "task name", text: `[{task: "${params.n}"}]`, reason: "task: 3 cannot name a task"},

		{name: "return without outcome", text: `[["return"]]`,
			reason: "asked to return from a chain that does not have the outcome object defined. please use [set, outcome, ...] to fix this issue."},
		{name: "return", text: `[[set, outcome, {success: true, data: 4}], [return], {call: 'a:m?f'}]`, data: `4`},
		{name: "outcome", text: `[[outcome, {success: true, data: "${params.n}"}], {call: 'a:m?f'}]`, data: `3`},
		{name: "failing outcome", text: `[[outcome, {success: false, reason: no}], {call: 'a:m?f'}]`, reason: `no`},
		{name: "outcome is no object", text: `[[outcome, "${params.n}"]]`, reason: `outcome needs to be an object`},
		{name: "return from a group", text: `[{do: [[outcome, {success: true, data: 1}]]}, {call: 'a:m?f'}]`, data: `1`},
		{name: "ROF", text: `[[set, outcome, {success: false, reason: no}], [nop], [ROF], {call: 'a:m?f'}]`, reason: "no"},
		{name: "ROF of a good one", text: `[[set, outcome, {success: true}], [returnOnFail], {call: 'a:m?f', with: {a: 1}}]`, data: `{"a":1}`},
		{name: "newChain", text: `[[set, v, 1], [newChain, {chainItems: [{call: 'a:m?f', with: {v: "${vars.v}", w: "${vars.w}"}}], context: {w: 2}}]]`, data: `{"v":null,"w":2}`},
		{name: "newChain never fails", text: `[[newChain, {chainItems: [[outcome, {success: false, reason: inner}]]}], {call: 'a:m?f', with: {r: "${outcome.reason}"}}]`, data: `{"r":"inner"}`},
		{name: "newChain that says nothing", text: `[[newChain, {chainItems: [[nop]]}]]`,
			reason: `WARNING, returning from a chain that did not have the "outcome" property set.`},
		{name: "classic group", text: `[[[set, a, 1], [set, b, 2], [[nop], {call: 'a:m?f', with: "${vars}"}]]]`, data: `{"a":1,"b":2}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.reason == "parse" {
				_, err := chain.Parse("t", []byte(tt.text))
				require.ErrorContains(t, err, "outcome needs to be an object")
				return
			}
			res := execute(t, tt.text, `{"n": 3, "list": [1, 2.5, "x"], "big": 123456789012345678901234567890, "id": 9007199254740993, "ref": "a:m?f"}`)
			require.Equal(t, tt.reason, res.Outcome.Reason)
			require.Equal(t, tt.reason == "", res.Outcome.Success)
			switch tt.data {
			case "":
			case none:
				require.Nil(t, res.Outcome.Data)
			default:
				require.JSONEq(t, tt.data, string(res.Outcome.Data))
				if tt.name == "exact integers" { // JSONEq compares as float64
					require.Equal(t, tt.data, string(res.Outcome.Data))
				}
			}
		})
	}
}

func TestFailureHasCallStack(t *testing.T) {
	t.Parallel()
	doc := parse(t, `[[nop], {each: [1, 2], limit: 1, do: [{do: [{call: 'a:m?f', with: {i: "${index}"}}]}]}, {log: never}]`)
	c := &code{functions: map[string]func(context.Context, map[string]any) task.Outcome{
		"f": func(_ context.Context, in map[string]any) task.Outcome {
			if in["i"] == 1.0 {
				o := task.Fail("boom")
				o.CallStack = []task.Frame{{Module: "a:m", Source: "m.ts:3:1"}}
				o.Extra = map[string]json.RawMessage{"status": json.RawMessage("500")}
				return o
			}
			return task.Succeed(nil)
		},
	}}
	res, err := doc.Run(t.Context(), chain.Options{Run: chain.RunInfo{Task: "close"}, Invoker: c})
	require.NoError(t, err)
	require.Equal(t, "boom", res.Outcome.Reason)
	require.JSONEq(t, "500", string(res.Outcome.Extra["status"]))
	var places []string
	for _, f := range res.Outcome.CallStack {
		places = append(places, f.Module+" "+f.Index+f.Source)
	}
	require.Equal(t, []string{"a:m m.ts:3:1", "close 1[1].do.0.do.0", "close 1[1].do.0", "close 1"}, places)
	require.Len(t, res.Steps, 2)
	require.True(t, res.Steps[0].Outcome.Success)
	require.Equal(t, "boom", res.Steps[1].Outcome.Reason)
	require.Equal(t, "1[1].do.0.do.0", c.calls[1].Step)
}

func TestRunInfoIsVisible(t *testing.T) {
	t.Parallel()
	due := time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)
	id := uuid.New()
	res, err := parse(t, `[{call: 'a:m?f', with: "${run}"}]`).Run(t.Context(), chain.Options{
		Run: chain.RunInfo{ID: id, Task: "t", Attempt: 2, DueAt: &due, Readonly: true}, Invoker: &code{},
	})
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"`+id.String()+`","task":"t","attempt":2,"due_at":"2026-11-22T05:00:00Z","readonly":true}`, string(res.Outcome.Data))
	require.Equal(t, 2, res.Steps[0].Attempt)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, reason string }{
		"outcome":   {`[{call: 'a:m?f', with: {t: "${repeat('x', 2000)}"}}]`, "the step's outcome is too large: 2008 bytes, at most 1000 are kept"},
		"variables": {`[{set: {t: "${repeat('x', 2000)}"}}]`, "the variables that the step set are too large"},
		"no JSON":   {`[{call: 'a:m?broken'}]`, "a:m?broken returned an outcome whose data is not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &code{functions: map[string]func(context.Context, map[string]any) task.Outcome{
				"broken": func(context.Context, map[string]any) task.Outcome { return task.Succeed([]byte("{")) },
			}}
			res, err := parse(t, tt.text).Run(t.Context(), chain.Options{Invoker: c, MaxOutcome: 1000})
			require.NoError(t, err)
			require.False(t, res.Outcome.Success)
			require.Contains(t, res.Outcome.Reason, tt.reason)
			require.Len(t, res.Steps, 1)
			require.False(t, res.Steps[0].Outcome.Success)
		})
	}
}

func TestLogNamesTheItem(t *testing.T) {
	t.Parallel()
	var lines []string
	doc := parse(t, `[{log: {a: "${params.n}"}}, {each: [1], do: [[log, "one ${item}"]]}, {call: 'a:m?f', retry: {attempts: 2, backoff: 1ms}}]`)
	_, err := doc.Run(t.Context(), chain.Options{
		Params: json.RawMessage(`{"n":1}`),
		Log: func(level, step, message string) {
			lines = append(lines, level+" "+step+" "+strings.SplitN(message, ",", 2)[0])
		},
	})
	require.NoError(t, err)
	require.Equal(t, []string{`info 0 {"a":1}`, "info 1[0].do.0 one 1", "warn 2 attempt 1 of 2 failed"}, lines)
}

// TestLongChains runs 100,000 items in each of the shapes that could recurse.
func TestLongChains(t *testing.T) {
	t.Parallel()
	const n = 100_000
	flat := "[" + strings.TrimSuffix(strings.Repeat(`["nop"],`, n), ",") + "]"
	res := execute(t, flat, "")
	require.True(t, res.Outcome.Success)
	require.Len(t, res.Steps, n)
	res = execute(t, `[{"do": `+flat+`}]`, "")
	require.True(t, res.Outcome.Success)
	for _, limit := range []string{"1", "16"} {
		doc := parse(t, `[{"each": "${1..100000}", "limit": `+limit+`, "do": [{"call": "a:m?f", "with": {"i": "${item}"}}, ["nop"]]}]`)
		res, err := doc.Run(t.Context(), chain.Options{Invoker: &code{}, MaxOutcome: 4 << 20})
		require.NoError(t, err)
		require.True(t, res.Outcome.Success, res.Outcome.Reason)
		var data []struct{ I int }
		require.NoError(t, json.Unmarshal(res.Outcome.Data, &data))
		require.Len(t, data, n)
		require.Equal(t, n, data[n-1].I)
	}
}

func TestNestingIsLimited(t *testing.T) {
	t.Parallel()
	nest := func(n int) string { return strings.Repeat(`[{"do": `, n) + `[["nop"]]` + strings.Repeat(`}]`, n) }
	require.True(t, execute(t, nest(900), "").Outcome.Success)
	_, err := chain.Parse("deep.json", []byte(nest(1100)))
	require.ErrorContains(t, err, "items nest deeper than 1000 levels")
	_, err = chain.Parse("deep.json", []byte(strings.Repeat("[", 200_000)))
	require.Error(t, err)
	_, err = chain.Parse("deep.yaml", []byte("- log: "+strings.Repeat("[", 9_000)+strings.Repeat("]", 9_000)))
	require.ErrorContains(t, err, "nest deeper than 4000")
}

// TestExpressionCost tries expressions that would use up memory or time.
func TestExpressionCost(t *testing.T) {
	t.Parallel()
	double := func(op string) string {
		b := strings.Builder{}
		b.WriteString("let v0 = " + op + ";")
		for i := range 60 {
			b.WriteString(strings.NewReplacer("#", string(rune('0'+i/10))+string(rune('0'+i%10)), "@", string(rune('0'+(i+1)/10))+string(rune('0'+(i+1)%10))).Replace("let w@ = [w#, w#];"))
		}
		return strings.Replace(b.String(), "let v0", "let w00", 1)
	}
	for name, text := range map[string]string{
		"doubled text":      `reduce(1..60, #acc + #acc, "aaaaaaaa")`,
		"repeat":            `repeat(repeat("x", 1000000), 1000000)`,
		"replace":           `replace(repeat("x", 1000000), "x", repeat("y", 1000000))`,
		"join":              `join(map(1..100000, "x"), repeat("y", 1000000))`,
		"nested predicates": `map(1..10000, map(1..10000, #))`,
		"nested filters":    `count(params.list, count(params.list, count(params.list, # > 1) > 0) > 0)`,
		"shared lists":      double(`"x"`) + ` toJSON(w60)`,
		"shared result":     double(`"x"`) + ` w60`,
		"range":             `1..1000000000`,
		"searching":         `all(params.list, # in params.list)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			params := `{"list":[` + strings.TrimSuffix(strings.Repeat("2,", 20_000), ",") + `]}`
			quoted, err := json.Marshal("${" + text + "}")
			require.NoError(t, err)
			began := time.Now()
			res := execute(t, `[{"set": {"a": `+string(quoted)+`}}]`, params)
			require.False(t, res.Outcome.Success)
			require.Less(t, time.Since(began), 20*time.Second)
		})
	}
}

func TestCommitError(t *testing.T) {
	t.Parallel()
	broken := errors.New("database is gone")
	c := &code{}
	res, err := parse(t, `[{call: 'a:m?f'}, {call: 'a:m?f'}]`).Run(t.Context(), chain.Options{
		Invoker: c, Commit: func(context.Context, task.Step) error { return broken },
	})
	require.ErrorIs(t, err, broken)
	require.Len(t, c.calls, 1)
	require.Len(t, res.Steps, 1)
}
