package script

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
}

// requireFailure checks reason, code and that a frame names the author's file.
func requireFailure(t *testing.T, outcome task.Outcome, code, reason string) {
	t.Helper()
	require.False(t, outcome.Success)
	require.Regexp(t, reason, outcome.Reason)
	if code != "" {
		require.Equal(t, `"`+code+`"`, string(outcome.Extra["code"]))
	}
	require.NotEmpty(t, outcome.CallStack)
}

func TestLoopsForEver(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"plain":         `for (;;);`,
		"caught":        `for (;;) { try { for (;;); } catch {} finally { for (;;); } }`,
		"microtasks":    `const again = () => Promise.resolve().then(again); return again()`,
		"async":         `return (async () => { for (;;) await null })()`,
		"queued":        `const again = () => queueMicrotask(again); again(); return new Promise(() => {})`,
		"timers":        `const again = () => setTimeout(again); again(); return new Promise(() => {})`,
		"immediates":    `const again = () => setImmediate(again); again(); return new Promise(() => {})`,
		"interval":      `setInterval(() => {}, 0); return new Promise(() => {})`,
		"in a getter":   `return {get x() { for (;;); }}`,
		"in toJSON":     `return {toJSON() { for (;;); }}`,
		"in then":       `return {then() { for (;;); }}`,
		"thrown getter": `throw {get message() { for (;;); }}`,
		"sort callback": `return [3, 2, 1].sort(() => { for (;;); })`,
		"generator":     `function* g() { for (;;) yield 1 } return [...g()].length`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			outcome := call(t, Config{Timeout: 100 * time.Millisecond}, "export function main() {\n"+body+"\n}", "")
			requireFailure(t, outcome, "timeout", "^timed out after 100ms")
			require.Less(t, time.Since(start), 10*time.Second)
		})
	}
}

func TestTimeoutSaysWhere(t *testing.T) {
	t.Parallel()
	short := Config{Timeout: 50 * time.Millisecond}
	outcome := call(t, short, "export function main(input) {\n\n  for (;;) input.x = 1;\n}", "")
	requireFailure(t, outcome, "timeout", `^timed out after 50ms at greet\.ts:3:\d+$`)
	outcome = call(t, short, `export const main = () => new Promise((done) => setTimeout(done, 1e6))`, "")
	requireFailure(t, outcome, "timeout", `^timed out after 50ms while it waited for 1 timer$`)
	// A module that never finishes loading.
	outcome = call(t, short, "const o: any = {};\nfor (;;) o.x = 1;\nexport const main = 1", "")
	requireFailure(t, outcome, "timeout", `^timed out after 50ms at greet\.ts:2:`)
}

func TestDeadlineOfTheCaller(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	outcome := engine(t, Config{}).Call(ctx, Call{Module: "m",
		Version: version(t, map[string]string{"m.ts": `export function main() { for (;;); }`}, pkgstore.Manifest{})})
	requireFailure(t, outcome, "timeout", `^timed out after \d+ms at m\.ts`)
}

func TestCancel(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]string{
		"busy":    `import {log} from "catena"; export function main() { log("here"); for (;;); }`,
		"waiting": `import {log} from "catena"; export function main() { log("here"); return new Promise((d) => setTimeout(d, 1e6)) }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			outcome := engine(t, Config{}).Call(ctx, Call{Module: "m",
				Version: version(t, map[string]string{"m.ts": source}, pkgstore.Manifest{}),
				Log:     func(string, string) { cancel(errors.New("an operator asked for it")) }})
			requireFailure(t, outcome, "cancelled", "^cancelled$")
			require.Equal(t, `"an operator asked for it"`, string(outcome.Extra["cause"]))
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	outcome := engine(t, Config{}).Call(ctx, Call{Module: "m",
		Version: version(t, map[string]string{"m.ts": `export function main() { for (;;); }`}, pkgstore.Manifest{})})
	requireFailure(t, outcome, "cancelled", "^cancelled$")
}

func TestRecursesForEver(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"plain":       `const f = (n) => f(n + 1) + 1; return f(0)`,
		"caught":      `const f = () => { try { f() } catch { f() } }; f(); return 1`,
		"through map": `const f = () => [1].map(f); return f()`,
		"getter":      `const o = {get x() { return this.x }}; return o.x`,
		"toString":    `const o = {toString() { return "" + this }}; return "" + o`,
		"proxy":       `const p = new Proxy({}, {get: (t, k, r) => r[k]}); return p.x`,
		"toJSON":      `const o = {toJSON() { return JSON.stringify(o) }}; return o`,
		"async":       `const f = async () => { await f() }; await f()`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome := call(t, Config{Timeout: 2 * time.Minute}, "export async function main() {\n"+body+"\n}", "")
			requireFailure(t, outcome, "too_large", `^recursion limit: more than 2000 nested function calls$`)
			require.LessOrEqual(t, len(outcome.CallStack), maxFrames)
			require.Contains(t, toJSON(t, outcome), "greet.ts:")
		})
	}
}

func TestNeverSettles(t *testing.T) {
	t.Parallel()
	for _, source := range []string{
		`export const main = () => new Promise(() => {})`,
		`export async function main() { await new Promise(() => {}) }`,
		`export const main = () => ({then() {}})`,
		`export async function main() { const t = setTimeout(() => {}, 1e6); clearTimeout(t); await new Promise(() => {}) }`,
	} {
		start := time.Now()
		outcome := call(t, Config{}, source, "")
		requireFailure(t, outcome, "", `^the promise of main never settled: nothing is left that could settle it$`)
		require.Less(t, time.Since(start), 10*time.Second)
	}
}

func TestReturnsTooMuch(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, reason string }{
		"one string": {`const half = "x".repeat(5e7); return half + half`,
			`^the value that main returned is too large: about 95\.4 MiB of JSON, the limit is 1 MiB; return less`},
		"many strings": {`const s = "x".repeat(1e6); return Array.from({length: 100}, () => s)`,
			`^the value that main returned is too large: about 95\.4 MiB of JSON, the limit is 1 MiB;`},
		"many numbers": {`const a = []; for (let i = 0; i < 1e6; i++) a.push(i); return a`,
			`^the value that main returned is too large: more than .* of JSON, the limit is 1 MiB;`},
		"sparse array": {`return new Array(4e9)`, `too large: more than .* GiB of JSON`},
		"wide object":  {`const o = {}; for (let i = 0; i < 2e5; i++) o["key" + i] = i; return o`, `too large: about 3\.\d MiB`},
		"shared":       {`let a = ["x".repeat(1000)]; for (let i = 0; i < 40; i++) a = [a, a]; return a`, `too large: more than`},
		"outcome":      {`return {success: true, data: "x".repeat(2e6)}`, `too large: about 1\.9 MiB`},
		"in a getter":  {`return {get data() { return "x".repeat(2e6) }}`, `too large: about 1\.9 MiB`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome := call(t, Config{HeapLimit: 512 << 20}, "export function main() {\n"+c.body+"\n}", "")
			requireFailure(t, outcome, "too_large", c.reason)
			require.Less(t, len(toJSON(t, outcome)), 1000)
		})
	}
	outcome := call(t, Config{}, `export const main = () => "x".repeat(1024 * 1024 - 2)`, "")
	require.True(t, outcome.Success, "exactly the limit: %s", outcome.Reason)
}

// The heap is that of the process, so this test runs alone.
func TestAllocatesForEver(t *testing.T) {
	for name, body := range map[string]string{
		"array":   `const a = []; for (;;) a.push({n: a.length})`,
		"strings": `const a = []; for (let i = 0;; i++) a.push(("x" + i).repeat(1000))`,
		"double":  `let s = "x"; for (;;) s += s`,
		"caught":  `const a = []; for (;;) { try { for (;;) a.push([1, 2, 3]) } catch {} }`,
		"async":   `const a = []; return (async () => { for (;;) { a.push("y".repeat(10000) + a.length); await null } })()`,
		"timers":  `const a = []; return new Promise(() => setInterval(() => { for (let i = 0; i < 1e5; i++) a.push({i}) }, 1))`,
	} {
		t.Run(name, func(t *testing.T) {
			e := engine(t, Config{HeapLimit: 96 << 20, Timeout: time.Minute})
			v := version(t, map[string]string{
				"m.ts":    "export function main() {\n" + body + "\n}",
				"calm.ts": `export const main = () => new Promise((done) => setTimeout(() => done("calm"), 400))`,
			}, pkgstore.Manifest{})
			calm := make(chan task.Outcome, 1)
			go func() { calm <- e.Call(context.Background(), Call{Version: v, Module: "calm"}) }()
			outcome := e.Call(t.Context(), Call{Version: v, Module: "m"})
			requireFailure(t, outcome, "too_large", `^memory limit: the process passed 96 MiB while this call ran$`)
			require.Equal(t, `"calm"`, string((<-calm).Data), "a neighbour that waits is spared")
		})
	}
}

func TestHugeSingleAllocations(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"repeat":     `return "x".repeat(3e9)`,
		"padStart":   `return "x".padStart(2e9)`,
		"padEnd":     `return "x".padEnd(2e9)`,
		"fill":       `return new Array(3e7).fill(0)`,
		"Array.from": `return Array.from({length: 1e9})`,
		"join":       `return new Array(1e9).join("xx")`,
		"JSON":       `let s = "["; for (let i = 0; i < 14; i++) s += s; return JSON.parse(s)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome := call(t, Config{}, "export function main() {\n"+body+"\n}", "")
			requireFailure(t, outcome, "", `limit of one operation|nests deeper than 10000 levels`)
			require.Contains(t, outcome.CallStack[0].Source, "greet.ts:2:")
		})
	}
	outcome := call(t, Config{}, `export const main = () => ["ab".repeat(2), "x".padStart(3, "-"), [1, 2].fill(0).join("+"),
		Array.from({length: 2}, (_, i) => i), Array.from("hi"), JSON.parse("[{\"a\":1}]", (k, v) => v === 1 ? 2 : v)]`, "")
	require.JSONEq(t, `["abab","--x","0+0",[0,1],["h","i"],[{"a":2}]]`, string(outcome.Data), outcome.Reason)
}

func TestOverdueNamesCallsThatIgnoreTheirLimit(t *testing.T) {
	t.Parallel()
	e := engine(t, Config{Timeout: 20 * time.Millisecond})
	// A log function that blocks stands for a native operation: no interrupt reaches it.
	blocked, release := make(chan struct{}), make(chan struct{})
	done := make(chan task.Outcome, 1)
	v := version(t, map[string]string{"m.ts": `export function main() { console.log("in"); for (;;); }`}, pkgstore.Manifest{})
	go func() {
		done <- e.Call(context.Background(), Call{Version: v, Module: "m", Context: CallContext{RunID: "r"},
			Log: func(string, string) { close(blocked); <-release }})
	}()
	<-blocked
	require.Eventually(t, func() bool { return len(e.Overdue(30*time.Millisecond)) == 1 }, 5*time.Second, 5*time.Millisecond)
	late := e.Overdue(0)[0]
	require.Equal(t, "billing:m?main", late.Ref.String())
	require.Equal(t, "r", late.RunID)
	close(release)
	requireFailure(t, <-done, "timeout", "^timed out after 20ms")
	require.Empty(t, e.Overdue(0))
}

func TestPanicBecomesAnOutcome(t *testing.T) {
	t.Parallel()
	outcome := engine(t, Config{}).Call(t.Context(), Call{Module: "m",
		Version: version(t, map[string]string{"m.ts": `export function main() { console.log("x") }`}, pkgstore.Manifest{}),
		Log:     func(string, string) { panic("a fault of ours") }})
	require.False(t, outcome.Success)
	require.True(t, strings.HasPrefix(outcome.Reason, "the script engine failed while it ran billing:m?main: a fault of ours"), outcome.Reason)
	require.Equal(t, `"internal"`, string(outcome.Extra["code"]))
}
