package script

import (
	"context"
	"encoding/json"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evanw/esbuild/pkg/api"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// version bundles files the way a push does: CommonJS with a source map.
func version(t testing.TB, files map[string]string, manifest pkgstore.Manifest) *pkgstore.Version {
	t.Helper()
	v := &pkgstore.Version{Name: "billing", Digest: "sha256:" + t.Name(), Manifest: &manifest, Modules: map[string]pkgstore.Module{}}
	for file, source := range files {
		loader := api.LoaderJS
		if path.Ext(file) == ".ts" {
			loader = api.LoaderTS
		}
		built := api.Build(api.BuildOptions{
			Stdin:  &api.StdinOptions{Contents: source, Sourcefile: file, Loader: loader},
			Bundle: true, Format: api.FormatCommonJS, Target: api.ES2022, Sourcemap: api.SourceMapExternal,
			Outfile: "out.js", External: []string{"catena"}, Write: false,
		})
		require.Empty(t, built.Errors)
		module := pkgstore.Module{}
		for _, output := range built.OutputFiles {
			if strings.HasSuffix(output.Path, ".map") {
				module.SourceMap = string(output.Contents)
			} else {
				module.Code = string(output.Contents)
			}
		}
		v.Modules[trimExtension(file)] = module
	}
	return v
}

func engine(t testing.TB, config Config) *Engine {
	t.Helper()
	log, _ := test.NewNullLogger()
	log.SetLevel(logrus.ErrorLevel)
	e := New(config, log)
	t.Cleanup(e.Close)
	return e
}

// recorder keeps the lines of a run's log.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) log(level, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, level+": "+message)
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}

// call runs main of the source with an input and returns its outcome.
func call(t testing.TB, config Config, source, input string) task.Outcome {
	t.Helper()
	return engine(t, config).Call(t.Context(), Call{
		Version: version(t, map[string]string{"greet.ts": source}, pkgstore.Manifest{}),
		Module:  "greet", Input: json.RawMessage(input), Log: (&recorder{}).log,
	})
}

func toJSON(t testing.TB, o task.Outcome) string {
	t.Helper()
	text, err := json.Marshal(o)
	require.NoError(t, err)
	return string(text)
}

func TestReturnedValues(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, want string }{
		"nothing":           {`return`, `{"success":true}`},
		"null":              {`return null`, `{"success":true}`},
		"false":             {`return false`, `{"success":true,"data":false}`},
		"number":            {`return 0.1 + 1`, `{"success":true,"data":1.1}`},
		"large number":      {`return 1e21`, `{"success":true,"data":1e+21}`},
		"minus zero":        {`return -0`, `{"success":true,"data":0}`},
		"not a number":      {`return [NaN, Infinity]`, `{"success":true,"data":[null,null]}`},
		"string":            {`return "a\"\\\n<é🙂"`, `{"success":true,"data":"a\"\\\n<é🙂"}`},
		"lone surrogate":    {`return "x\ud800y"`, `{"success":true,"data":"x�y"}`},
		"NUL":               {`return "x\0y"`, `{"success":true,"data":"x\u0000y"}`},
		"object":            {`return {a: 1, b: undefined, c: [undefined, {d: null}]}`, `{"success":true,"data":{"a":1,"c":[null,{"d":null}]}}`},
		"date":              {`return {at: new Date(0)}`, `{"success":true,"data":{"at":"1970-01-01T00:00:00.000Z"}}`},
		"boxed":             {`return [new String("s"), new Number(2), new Boolean(true)]`, `{"success":true,"data":["s",2,true]}`},
		"error as data":     {`return {e: new RangeError("r")}`, `{"success":true,"data":{"e":{"name":"RangeError","message":"r"}}}`},
		"same object twice": {`const o = {}; return [o, o]`, `{"success":true,"data":[{},{}]}`},
		"input echoed":      {`return input`, `{"success":true,"data":{"n":[1,"é"],"__proto__":1}}`},
		"success as number": {`return {success: 1}`, `{"success":true,"data":{"success":1}}`},
		"outcome":           {`return {success: true, data: 3, extra: "e"}`, `{"success":true,"data":3,"extra":"e"}`},
		"failing outcome":   {`return {success: false, reason: "no"}`, `{"success":false,"reason":"no","call_stack":[{"module":"billing:greet"}]}`},
		"odd reason":        {`return {success: false, reason: {a: 1}}`, `{"success":false,"reason":"{\"a\":1}","call_stack":[{"module":"billing:greet"}]}`},
		"no reason":         {`return {success: false}`, `{"success":false,"reason":"billing:greet?main returned success: false without a reason","call_stack":[{"module":"billing:greet"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			input := `{"n":[1,"é"],"__proto__":1}`
			require.JSONEq(t, c.want, toJSON(t, call(t, Config{}, "export function main(input) {"+c.body+"}", input)))
			require.JSONEq(t, c.want, toJSON(t, call(t, Config{}, "export async function main(input) { await null; "+c.body+"}", input)))
		})
	}
}

func TestInput(t *testing.T) {
	t.Parallel()
	for input, want := range map[string]string{``: `{}`, `{}`: `{}`, `null`: `null`, `1`: `1`, `""`: `""`, `[1]`: `[1]`} {
		outcome := call(t, Config{}, `export const main = (input) => ({got: input})`, input)
		require.JSONEq(t, `{"got":`+want+`}`, string(outcome.Data), input)
	}
	outcome := call(t, Config{}, `export const main = (input) => input`, `{"a":`)
	require.False(t, outcome.Success)
	require.Contains(t, outcome.Reason, "the input is not JSON")
}

func TestThrown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, reason string }{
		"error":             {`throw new Error("boom")`, "boom"},
		"type error":        {`null.x`, "Cannot read property 'x' of undefined"},
		"without message":   {`throw new RangeError()`, "RangeError"},
		"string":            {`throw "just text"`, "just text"},
		"number":            {`throw 42`, "42"},
		"undefined":         {`throw undefined`, "undefined"},
		"null":              {`throw null`, "null"},
		"object":            {`throw {a: [1]}`, `{"a":[1]}`},
		"object, message":   {`throw {message: "in an object"}`, "in an object"},
		"object, reason":    {`throw {reason: "because"}`, "because"},
		"function":          {`throw function f() {}`, "[Function: f]"},
		"cycle":             {`const a = {}; a.a = a; throw a`, `{"a":[Circular]}`},
		"symbol":            {`throw Symbol("s")`, "Symbol(s)"},
		"empty string":      {`throw ""`, "an empty string was thrown"},
		"NUL in message":    {`throw new Error("a\0b")`, "a\uFFFDb"},
		"hostile message":   {`throw {get message() { throw new Error("again") }}`, "the thrown value cannot be described: Error: again"},
		"hostile toString":  {`const e = new Error(); e.message = {toString() { throw 1 }}; throw e`, "the thrown value cannot be described: 1"},
		"function returned": {`return {f: () => 1}`, "value.f of main is a function, which JSON cannot hold"},
		"bigint returned":   {`return [1, {b: 10n}]`, "value[1].b of main is a BigInt, which JSON cannot hold; use Number(x) or String(x)"},
		"symbol returned":   {`return Symbol("x")`, "the returned value of main is a symbol, which JSON cannot hold"},
		"promise inside":    {`return {p: Promise.resolve(1)}`, "value.p of main is a promise, which JSON cannot hold; await it first"},
		"map returned":      {`return new Map()`, "the returned value of main is a Map, which JSON cannot hold; use Object.fromEntries(x)"},
		"set returned":      {`return [new Set()]`, "value[0] of main is a Set, which JSON cannot hold; use Array.from(x)"},
		"bytes returned":    {`return new Uint8Array(5e7)`, "the returned value of main is binary data, which JSON cannot hold; use Array.from(x) or encode it as text"},
		"cycle returned":    {`const a = {b: []}; a.b.push(a); return a`, "value.b[0] of main contains itself, which JSON cannot hold"},
		"deep value":        {`let a = []; for (let i = 0; i < 5000; i++) a = [a]; return a`, "nests deeper than 1000 levels"},
		"getter throws":     {`return {get x() { throw new Error("from a getter") }}`, "from a getter"},
		"toJSON throws":     {`return {toJSON() { throw new Error("from toJSON") }}`, "from toJSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, kind := range []string{"", "async "} {
				outcome := call(t, Config{}, "export "+kind+"function main() {\n  "+c.body+"\n}", "")
				require.False(t, outcome.Success)
				require.Contains(t, outcome.Reason, c.reason)
				require.NotEmpty(t, outcome.CallStack)
				require.Equal(t, "billing:greet", outcome.CallStack[0].Module)
			}
		})
	}
}

func TestPositionsAreTheAuthors(t *testing.T) {
	t.Parallel()
	source := `interface Invoice { total: number }

export async function main(input: Invoice, ctx: unknown) {
  const limit: number = 1
  if (limit) {
        throw new Error("boom")
  }
}
export function nested() { return outer() }
function outer() {
    const f = (x: Invoice) => x.total.toFixed()
    return f(null as any)
}
export async function later() {
  await null
  await new Promise((done) => setTimeout(done, 1))
  throw new TypeError("late")
}
export function timer() { return new Promise(() => {
  setTimeout(() => {
    throw new Error("in a timer")
  })
}) }
`
	e := engine(t, Config{})
	v := version(t, map[string]string{"lib/greet.ts": source}, pkgstore.Manifest{})
	for function, want := range map[string][]string{
		"main":   {"lib/greet.ts:6:15"},
		"nested": {"lib/greet.ts:11:33", "lib/greet.ts:12:12", "lib/greet.ts:9:35"},
		"later":  {"lib/greet.ts:17:9"},
		"timer":  {"lib/greet.ts:21:11"},
	} {
		outcome := e.Call(t.Context(), Call{Version: v, Module: "lib/greet", Function: function})
		require.False(t, outcome.Success)
		var got []string
		for _, frame := range outcome.CallStack {
			require.Equal(t, "billing:lib/greet", frame.Module)
			got = append(got, frame.Source)
		}
		require.Equal(t, want, got, function)
		require.Contains(t, toJSON(t, outcome), "greet.ts")
	}
}

func TestStackSeenByTheCode(t *testing.T) {
	t.Parallel()
	outcome := call(t, Config{}, "\n\nexport function main() {\n  return new Error('x').stack\n}", "")
	require.Contains(t, string(outcome.Data), "greet.ts:4:10")
}

func TestEvalReadsNoFile(t *testing.T) {
	t.Parallel()
	// A map that would rename the source if it were read from the disk.
	file := t.TempDir() + "/leak.map"
	writeFile(t, file, `{"version":3,"sources":["leaked.ts"],"names":[],"mappings":"AAAA"}`)
	outcome := call(t, Config{}, `export function main(input) {
		return eval("(function(){ return new Error('x').stack })()\n//# sourceMappingURL=" + input.file)
	}`, `{"file":"`+file+`"}`)
	require.True(t, outcome.Success, outcome.Reason)
	require.NotContains(t, string(outcome.Data), "leaked.ts")
}

func TestWhatIsCallable(t *testing.T) {
	t.Parallel()
	e := engine(t, Config{})
	v := version(t, map[string]string{
		"a.ts": `export function main() { return "main" } export function hidden() { return "hidden" } export const n = 1`,
		"b.js": `module.exports = function () { return "the module itself" }`,
		"c.js": `export default () => "default"`,
		"d.js": `exports.plain = () => "classic"`,
		"e.js": `module.exports = 5`,
	}, pkgstore.Manifest{Exports: []string{"a?main", "b?main"}})
	for _, c := range []struct {
		module, function string
		external         bool
		want             string
	}{
		{"a", "", false, `{"success":true,"data":"main"}`},
		{"a", "hidden", false, `{"success":true,"data":"hidden"}`},
		{"b", "main", true, `{"success":true,"data":"the module itself"}`},
		{"c", "main", false, `{"success":true,"data":"default"}`},
		{"d", "plain", false, `{"success":true,"data":"classic"}`},
		{"a", "main", true, `{"success":true,"data":"main"}`},
		{"a", "hidden", true, `{"success":false,"code":"forbidden","reason":"package billing does not export a?hidden; add it to exports in catena.yaml (it exports a?main, b?main)"}`},
		{"zzz", "main", true, `{"success":false,"code":"forbidden","reason":"package billing does not export zzz?main; add it to exports in catena.yaml (it exports a?main, b?main)"}`},
		{"zzz", "main", false, `{"success":false,"code":"not_found","reason":"package billing has no module \"zzz\"; it has a, b, c, d, e"}`},
		{"a", "n", false, `{"success":false,"code":"not_found","reason":"billing:a has no function \"n\"; it has hidden, main","call_stack":[{"module":"billing:a"}]}`},
		{"a", "toString", false, `{"success":false,"code":"not_found","reason":"billing:a has no function \"toString\"; it has hidden, main","call_stack":[{"module":"billing:a"}]}`},
		{"a", "constructor", false, `{"success":false,"code":"not_found","reason":"billing:a has no function \"constructor\"; it has hidden, main","call_stack":[{"module":"billing:a"}]}`},
		{"e", "main", false, `{"success":false,"code":"not_found","reason":"billing:e has no function \"main\"; it has no functions","call_stack":[{"module":"billing:e"}]}`},
	} {
		got := e.Call(t.Context(), Call{Version: v, Module: c.module, Function: c.function, External: c.external})
		require.JSONEq(t, c.want, toJSON(t, got), c.module+"?"+c.function)
	}
	require.False(t, e.Call(t.Context(), Call{Module: "a"}).Success)
}

func TestBrokenModules(t *testing.T) {
	t.Parallel()
	e := engine(t, Config{})
	v := &pkgstore.Version{Name: "billing", Digest: "d", Modules: map[string]pkgstore.Module{
		"syntax":  {Code: "function ("},
		"throws":  {Code: "throw new Error('at load')"},
		"require": {Code: "require('fs')"},
		"badmap":  {Code: "exports.main = () => 1", SourceMap: `{"mappings": 5}`},
		"escape":  {Code: "}); (function () { throw new Error('out') })(function () {"},
	}}
	for module, reason := range map[string]string{
		"syntax": "does not compile", "throws": "at load", "require": `cannot require "fs"`, "escape": "out",
	} {
		outcome := e.Call(t.Context(), Call{Version: v, Module: module})
		require.False(t, outcome.Success)
		require.Contains(t, outcome.Reason, reason)
	}
	require.True(t, e.Call(t.Context(), Call{Version: v, Module: "badmap"}).Success)
}

func TestFreshMachinePerCall(t *testing.T) {
	t.Parallel()
	e := engine(t, Config{})
	v := version(t, map[string]string{"m.js": `let n = 0; export const main = () => { globalThis.x = (globalThis.x ?? 0) + 1; return [++n, x] }`}, pkgstore.Manifest{})
	for range 3 {
		require.Equal(t, `[1,1]`, string(e.Call(t.Context(), Call{Version: v, Module: "m"}).Data))
	}
}

func TestContextArgument(t *testing.T) {
	t.Parallel()
	e := engine(t, Config{})
	v := version(t, map[string]string{"m.js": `export const main = (input, ctx) => {
		"use strict"
		let frozen = 0
		for (const change of [() => ctx.step = "x", () => ctx.run.id = "x", () => { ctx.cancelled = true }]) {
			try { change() } catch { frozen++ }
		}
		return {...ctx, frozen}
	}`}, pkgstore.Manifest{})
	outcome := e.Call(t.Context(), Call{Version: v, Module: "m",
		Context: CallContext{RunID: "r1", Task: "t1", Attempt: 2, Step: "s1", Readonly: true}})
	require.JSONEq(t, `{"run":{"id":"r1","task":"t1","attempt":2},"step":"s1","readonly":true,"cancelled":false,"frozen":3}`, string(outcome.Data), outcome.Reason)
}

func TestManyCallsAtOnce(t *testing.T) {
	t.Parallel()
	e := engine(t, Config{})
	v := version(t, map[string]string{"m.ts": `export async function main(input: {n: number}) {
		let sum = 0
		for (let i = 0; i < 5; i++) { await new Promise((done) => setTimeout(done, 1)); sum += input.n }
		if (input.n % 10 === 0) throw new Error("tenth")
		return sum
	}`}, pkgstore.Manifest{})
	outcomes := make([]task.Outcome, 100)
	var calls sync.WaitGroup
	for i := range outcomes {
		calls.Go(func() {
			input, _ := json.Marshal(map[string]int{"n": i})
			outcomes[i] = e.Call(context.Background(), Call{Version: v, Module: "m", Input: input})
		})
	}
	calls.Wait()
	for i, outcome := range outcomes {
		if i%10 == 0 {
			require.Equal(t, "tenth", outcome.Reason)
			require.Equal(t, "m.ts:4:33", outcome.CallStack[0].Source)
			continue
		}
		want, _ := json.Marshal(5 * i)
		require.Equal(t, string(want), string(outcome.Data))
	}
	require.Equal(t, 1, e.programs.order.Len())
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newCache(100)
	code := "exports.main = 1 // " + strings.Repeat("x", 30)
	for i := range 20 {
		_, _, err := c.get(cacheKey{"p", string(rune('a' + i)), "m"}, code, "")
		require.NoError(t, err)
	}
	require.Equal(t, 2, c.order.Len())
	first, hit, err := c.get(cacheKey{"p", "t", "m"}, code, "")
	require.NoError(t, err)
	require.True(t, hit)
	again, _, err := c.get(cacheKey{"p", "t", "m"}, code, "")
	require.NoError(t, err)
	require.Same(t, first, again)
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	require.NoError(t, Config{}.Validate())
	require.NoError(t, Config{}.Normalize().Validate())
	for _, broken := range []Config{
		{Timeout: -1}, {StackDepth: -1}, {StackDepth: 1e6}, {MaxOutput: -1}, {MaxLogLine: -1},
		{HTTPTimeout: -time.Second}, {HTTPProxy: "no proxy"},
	} {
		require.Error(t, broken.Validate(), "%+v", broken)
	}
}
