package script

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// stoppable calls main of the source; the code asks for the stop by logging "stop".
func stoppable(t *testing.T, source, host string, cause error) (outcome task.Outcome, lines []string, listened int32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stop, ask := context.WithCancelCause(ctx)
	defer ask(nil)
	manifest := pkgstore.Manifest{}
	if host != "" {
		manifest.Permissions.HTTP = []string{strings.TrimPrefix(host, "http://")}
	}
	var heard atomic.Int32
	log := recorder{}
	outcome = engine(t, Config{}).Call(ctx, Call{
		Version: version(t, map[string]string{"m.ts": source}, manifest), Module: "m", Input: json.RawMessage(`{"url":"` + host + `"}`),
		Stop: stop, Listens: func() { heard.Add(1) },
		Log: func(level, message string) {
			if message == "stop" {
				ask(cause)
			}
			log.log(level, message)
		},
	})
	return outcome, log.all(), heard.Load()
}

func TestSignal(t *testing.T) {
	t.Parallel()
	cancelled := task.Errorf(task.CodeCancelled, "cancelled by ann")
	for name, tt := range map[string]struct {
		body  string
		cause error
		want  string // JSON of the outcome's data, or its reason
	}{
		"nothing happened": {`const s = ctx.signal; s.throwIfAborted(); return [s.aborted, s.reason === undefined, s === ctx.signal, ctx.cancelled]`,
			cancelled, `[false,true,true,false]`},
		"code that looks": {`const s = ctx.signal; log("stop"); while (!s.aborted) {} return [s.reason.name, s.reason.message, s.reason === s.reason, ctx.cancelled]`,
			cancelled, `["AbortError","cancelled by ann",true,true]`},
		"code that looks at ctx.cancelled": {`log("stop"); while (!ctx.cancelled) {} return 1`, cancelled, `1`},
		"an event": {`const e: any = await new Promise((done) => { ctx.signal.addEventListener("abort", done); setTimeout(() => log("stop")); setTimeout(() => {}, 9000) })
			return [e.type, e.target === ctx.signal]`, cancelled, `["abort",true]`},
		"onabort": {`return await new Promise((done) => { ctx.signal.onabort = () => done("heard"); setTimeout(() => log("stop")); setTimeout(() => {}, 9000) })`,
			cancelled, `"heard"`},
		"order, one time each, removed": {`const seen: string[] = []; const a = () => seen.push("a"), b = () => seen.push("b")
			const s = ctx.signal; s.addEventListener("abort", a); s.addEventListener("abort", b); s.addEventListener("abort", a, {once: true})
			s.addEventListener("abort", () => seen.push("c")); s.addEventListener("other", () => seen.push("other")); s.removeEventListener("abort", b); s.removeEventListener("abort", () => 0)
			log("stop"); await sleep(20); s.addEventListener("abort", () => seen.push("late")); await sleep(20); return seen`, cancelled, `["a","c"]`},
		"throwIfAborted": {`log("stop"); while (true) { ctx.signal.throwIfAborted() }`, cancelled, "cancelled by ann"},
		"a time limit":   {`log("stop"); while (!ctx.signal.aborted) {} return ctx.signal.reason.name`, task.Errorf(task.CodeTimeout, "timed out"), `"TimeoutError"`},
		"no cause":       {`log("stop"); while (!ctx.signal.aborted) {} return ctx.signal.reason.message`, nil, `"cancelled"`},
		"sleep": {`setTimeout(() => log("stop")); const t0 = now(); try { await sleep(9000, {signal: ctx.signal}) } catch (e: any) { return [e === ctx.signal.reason, now() - t0 < 5000] }`,
			cancelled, `[true,true]`},
		"sleep that ends before":    {`await sleep(5, {signal: ctx.signal}); log("stop"); await sleep(5); return "slept"`, cancelled, `"slept"`},
		"sleep when it is too late": {`const s = ctx.signal; log("stop"); while (!s.aborted) {} await sleep(9000, {signal: s})`, cancelled, "cancelled by ann"},
		"sleep for no time":         {`await sleep(NaN); await sleep(-1); await sleep(undefined); return 1`, cancelled, `1`},
		"code that does not look":   {`log("stop"); await sleep(5); return "done all the same"`, cancelled, `"done all the same"`},
		"a listener that throws":    {`ctx.signal.addEventListener("abort", () => { throw new Error("oops") }); log("stop"); await sleep(9000)`, cancelled, "oops"},
		"no function":               {`ctx.signal.addEventListener("abort", "x")`, cancelled, "addEventListener needs a function as its second argument"},
		"a foreign signal":          {`await sleep(1, {signal: {aborted: false}} as any)`, cancelled, "sleep: the signal must be ctx.signal"},
		"listeners alone keep nothing alive": {`await new Promise((done) => ctx.signal.addEventListener("abort", done))`,
			cancelled, "the promise of main never settled: nothing is left that could settle it"},
		"it cannot be faked": {`try { (ctx.signal as any).aborted = true } catch {} return ctx.signal.aborted`, cancelled, `false`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome, _, listened := stoppable(t, `import { log, now, sleep } from "catena"; export async function main(_: any, ctx: any) { `+tt.body+` }`, "", tt.cause)
			if outcome.Success {
				require.JSONEq(t, tt.want, string(outcome.Data))
			} else {
				require.Equal(t, tt.want, outcome.Reason)
			}
			require.LessOrEqual(t, listened, int32(1))
			if strings.Contains(tt.body, "ctx.") {
				require.EqualValues(t, 1, listened)
			} else {
				require.Zero(t, listened)
			}
		})
	}
}

// A request with the signal ends at once, on the server's side too; one without it goes on.
func TestSignalOfARequest(t *testing.T) {
	t.Parallel()
	came, left, release := make(chan string, 10), make(chan string, 10), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		came <- r.URL.Path
		select {
		case <-r.Context().Done():
			left <- r.URL.Path
		case <-release:
		}
	}))
	defer server.Close()
	defer close(release)
	outcome, _, _ := stoppable(t, `import { http, log, sleep } from "catena"
		export async function main(input: any, ctx: any) {
			const deaf = http.get(input.url + "/deaf")
			const pending = http.get(input.url + "/slow", {signal: ctx.signal})
			setTimeout(() => log("stop"), 50)
			const seen = []
			try { await pending } catch (e: any) { seen.push(e.name, e === ctx.signal.reason) }
			try { await http.get(input.url + "/late", {signal: ctx.signal}) } catch (e: any) { seen.push(e.name) }
			try { await http.get(input.url + "/bad", {signal: 1}) } catch (e: any) { seen.push(e.message) }
			return [...seen, await Promise.race([deaf.then(() => "answered"), sleep(30).then(() => "goes on")])]
		}`, server.URL, task.Errorf(task.CodeCancelled, "enough"))
	require.True(t, outcome.Success, outcome.Reason)
	require.JSONEq(t, `["AbortError",true,"AbortError","the signal must be ctx.signal","goes on"]`, string(outcome.Data))
	require.Equal(t, "/slow", <-left)
	require.Len(t, came, 2, "a request was sent after the signal")
}

// The end of ctx stops the code whether it listens or not.
func TestSignalAndTheEndOfTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	stop, ask := context.WithCancelCause(ctx)
	defer ask(nil)
	began := make(chan struct{})
	go func() {
		<-began
		ask(task.Errorf(task.CodeCancelled, "please"))
		time.AfterFunc(50*time.Millisecond, cancel)
	}()
	outcome := engine(t, Config{}).Call(ctx, Call{
		Version: version(t, map[string]string{"m.ts": `import { log } from "catena"; export function main(_: any, ctx: any) { log("began"); ctx.signal; while (true) {} }`}, pkgstore.Manifest{}),
		Module:  "m", Stop: stop, Log: func(string, string) { close(began) },
	})
	require.False(t, outcome.Success)
	require.JSONEq(t, `"cancelled"`, string(outcome.Extra["code"]))
}
