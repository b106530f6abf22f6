package script

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

func TestTimersAndMicrotasksOrder(t *testing.T) {
	t.Parallel()
	outcome := call(t, Config{}, `export async function main() {
		const seen: unknown[] = []
		const note = (x: unknown) => { seen.push(x) }
		setTimeout(note, 30, "timeout 30")
		setTimeout(note, 10, "timeout 10")
		setTimeout(() => { note("timeout 1 a"); Promise.resolve().then(() => note("its microtask")) }, 1)
		setTimeout(note, 1, "timeout 1 b")
		setImmediate(note, "immediate")
		queueMicrotask(() => note("microtask"))
		Promise.resolve("then").then(note)
		const dropped = setTimeout(note, 5, "dropped")
		clearTimeout(dropped)
		clearImmediate(setImmediate(note, "dropped too"))
		clearTimeout(undefined as any); clearTimeout(99999)
		let ticks = 0
		const interval = setInterval(() => { if (++ticks === 3) clearInterval(interval) }, 1)
		note("sync")
		await new Promise((done) => setTimeout(done, 60))
		return {seen, ticks}
	}`, "")
	require.JSONEq(t, `{"ticks":3,"seen":["sync","microtask","then","immediate","timeout 1 a","its microtask","timeout 1 b","timeout 10","timeout 30"]}`,
		string(outcome.Data), outcome.Reason)
}

func TestUncaught(t *testing.T) {
	t.Parallel()
	for body, reason := range map[string]string{
		`Promise.reject(new Error("a")); return 1`:                                            "unhandled rejection: a",
		`setTimeout(() => { throw new Error("b") }); await new Promise(() => {})`:             "b",
		`queueMicrotask(() => { throw new Error("c") }); return 1`:                            "unhandled rejection: c",
		`setTimeout(() => { Promise.reject("d") }); await new Promise(() => {})`:              "unhandled rejection: d",
		`setImmediate(() => { throw "e" }); await new Promise(() => {})`:                      "e",
		`(async () => { await null; throw new Error("f") })(); await new Promise(() => {})`:   "unhandled rejection: f",
		`setTimeout("not a function" as any)`:                                                 "setTimeout needs a function as its first argument",
		`await Promise.all([Promise.reject(new Error("g")), Promise.reject(new Error("h"))])`: "g",
	} {
		outcome := call(t, Config{}, "export async function main() {"+body+"}", "")
		require.False(t, outcome.Success, body)
		require.Equal(t, reason, outcome.Reason)
	}
	outcome := call(t, Config{}, `export async function main() {
		const p = Promise.reject(new Error("handled in time")); 
		try { await p } catch {}
		return "fine"
	}`, "")
	require.Equal(t, `"fine"`, string(outcome.Data), outcome.Reason)
}

func TestLog(t *testing.T) {
	t.Parallel()
	var r recorder
	v := version(t, map[string]string{"m.ts": `import { log } from "catena"
		export function main() {
			console.log("a", 1, {b: [undefined, () => 1, 2n]}, null, undefined)
			console.error(new Error("broken").message); console.warn("w"); console.info("i"); console.debug("d")
			console.log("%s is %d%% %j", "x", 5, {y: 1}, "rest")
			log("plain"); log.debug("one"); log.info("two"); log.warn("three"); log.error("four")
			console.log("x".repeat(5000))
			console.log(new Map(), new Set(), Symbol("s"), new Date(0), Promise.resolve(), "\0")
			const all = require("catena")
			return [Object.isFrozen(all), Object.isFrozen(all.http), Object.isFrozen(log), all.log === log, typeof all.now()]
		}`}, pkgstore.Manifest{})
	outcome := engine(t, Config{MaxLogLine: 1000}).Call(t.Context(), Call{Version: v, Module: "m", Log: r.log})
	require.JSONEq(t, `[true,true,true,true,"number"]`, string(outcome.Data), outcome.Reason)
	lines := r.all()
	require.Equal(t, []string{
		`info: a 1 {"b":[null,[Function: ],2n]} null undefined`, "error: broken", "warn: w", "info: i", "debug: d",
		`info: x is 5%% {"y":1} rest`, "info: plain", "debug: one", "info: two", "warn: three", "error: four",
	}, lines[:11])
	require.Regexp(t, `^info: "?x{900,1000}.*more\)$`, lines[11])
	require.Equal(t, "info: [Map] [Set] Symbol(s) \"1970-01-01T00:00:00.000Z\" [Promise] \uFFFD", lines[12])
}

func TestForgottenAwaitIsMentioned(t *testing.T) {
	t.Parallel()
	var r recorder
	v := version(t, map[string]string{"m.ts": `export function main() { setTimeout(() => {}, 1e6); return 1 }`}, pkgstore.Manifest{})
	require.True(t, engine(t, Config{}).Call(t.Context(), Call{Version: v, Module: "m", Log: r.log}).Success)
	require.Equal(t, []string{"warn: main ended and left 1 timer behind, now dropped; await what must be done"}, r.all())
}

// site is a server that package code talks to.
func site(t *testing.T) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Reply", "yes")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]string{
			"method": r.Method, "body": string(body), "type": r.Header.Get("Content-Type"), "mine": r.Header.Get("X-Mine")})
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 3000)) })
	mux.Handle("/loop", http.RedirectHandler("/loop", http.StatusFound))
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("url"), http.StatusFound)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

// callHTTP runs main with the site's address; hosts are what may be reached.
func callHTTP(t *testing.T, config Config, readonly bool, body, base string, hosts ...string) (task.Outcome, []string) {
	t.Helper()
	var r recorder
	v := version(t, map[string]string{"m.ts": "import { http } from \"catena\"\nexport async function main({base, other}: any) {\n  " + body + "\n}"},
		pkgstore.Manifest{Permissions: pkgstore.Permissions{HTTP: hosts}})
	input, _ := json.Marshal(map[string]string{"base": base, "other": strings.Replace(base, "127.0.0.1", "localhost", 1)})
	outcome := engine(t, config).Call(t.Context(), Call{Version: v, Module: "m", Input: input, Log: r.log, Context: CallContext{Readonly: readonly}})
	return outcome, r.all()
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	base := site(t).URL
	outcome, _ := callHTTP(t, Config{}, false, `
		const a = await http.get(base + "/echo", {headers: {"X-Mine": "m"}})
		const b = await http.post(base + "/echo", {json: {n: 1}})
		const c = await http.request(base + "/echo", {method: "put", body: "raw", headers: {"content-type": "text/plain"}})
		const d = await http.get(base + "/to?url=/echo")
		return {status: a.status, ok: a.ok, reply: a.headers["x-reply"], text: typeof a.text, a: a.json(), b: b.json(), c: c.json(), d: d.url.endsWith("/echo")}`,
		base, "127.0.0.1")
	require.JSONEq(t, `{"status":201,"ok":true,"reply":"yes","text":"string","d":true,
		"a":{"method":"GET","body":"","type":"","mine":"m"},
		"b":{"method":"POST","body":"{\"n\":1}","type":"application/json","mine":""},
		"c":{"method":"PUT","body":"raw","type":"text/plain","mine":""}}`, string(outcome.Data), outcome.Reason)
}

func TestHTTPInParallel(t *testing.T) {
	t.Parallel()
	base := site(t).URL
	outcome, _ := callHTTP(t, Config{}, false, `
		const all = await Promise.all(Array.from({length: 20}, (_, i) => http.post(base + "/echo", {body: "" + i})))
		return all.map((r) => +r.json().body)`, base, "127.0.0.1")
	require.JSONEq(t, `[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19]`, string(outcome.Data), outcome.Reason)
}

func TestHTTPFailures(t *testing.T) {
	t.Parallel()
	base := site(t).URL
	host := strings.TrimPrefix(base, "http://")
	for name, c := range map[string]struct {
		body, hosts, reason string
	}{
		"no permission":     {`await http.get(base + "/echo")`, "", fmt.Sprintf(`^package billing may not connect to %s; add this to catena\.yaml to permit it: permissions: \{http: \["%s"\]\}$`, host, host)},
		"other port":        {`await http.get(base + "/echo")`, "127.0.0.1:1", `^package billing may not connect to`},
		"other host":        {`await http.get(other + "/echo")`, "127.0.0.1", `may not connect to localhost`},
		"redirect away":     {`await http.get(base + "/to?url=" + other + "/echo")`, host, `^http GET .*: package billing may not connect to localhost:.*permissions: \{http: \["localhost:`},
		"redirect loop":     {`await http.get(base + "/loop")`, host, `^http GET .*/loop: stopped after 10 redirects$`},
		"no URL":            {`await http.get("not a url")`, host, `is not the URL of a web page`},
		"file":              {`await http.get("file:///etc/passwd")`, host, `is not the URL of a web page`},
		"credentials":       {`await http.get("http://u:secret@127.0.0.1:1/")`, "127.0.0.1", `^http GET http://127\.0\.0\.1:1/: .*connect`},
		"nobody listens":    {`await http.get("http://127.0.0.1:1/")`, "127.0.0.1", `^http GET http://127\.0\.0\.1:1/: dial tcp`},
		"timeout":           {`await http.get(base + "/slow", {timeout: 30})`, host, `^http GET .*/slow: no answer within 30ms$`},
		"large response":    {`await http.get(base + "/big")`, host, `^http GET .*/big: the response is larger than 2 KiB$`},
		"not JSON":          {`(await http.get(base + "/to?url=/none")).json()`, host, `^the response of .*/none is not JSON$`},
		"body of no string": {`await http.post(base + "/echo", {body: {}})`, host, `must be a string`},
		"json of no JSON":   {`await http.post(base + "/echo", {json: {f() {}}})`, host, `which JSON cannot hold`},
		"bad method":        {`await http.request(base + "/echo", {method: "B A D"})`, host, `^http B A D .*invalid method`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome, _ := callHTTP(t, Config{HTTPMaxBody: 2048}, false, c.body, base, strings.Fields(c.hosts)...)
			require.False(t, outcome.Success)
			require.Regexp(t, c.reason, outcome.Reason)
			require.NotEmpty(t, outcome.CallStack)
			require.Contains(t, outcome.CallStack[0].Source, "m.ts:3:")
		})
	}
}

func TestHTTPWildcardAndCase(t *testing.T) {
	t.Parallel()
	base := site(t).URL
	outcome, _ := callHTTP(t, Config{}, false, `return (await http.get(other.replace("localhost", "LocalHost") + "/echo")).status`, base, "localhost")
	require.Equal(t, "201", string(outcome.Data), outcome.Reason)
	outcome, _ = callHTTP(t, Config{}, false, `await http.get("http://evil-example.com/")`, base, "*.example.com")
	require.Contains(t, outcome.Reason, "may not connect to evil-example.com")
}

func TestHTTPEndsWithTheCall(t *testing.T) {
	t.Parallel()
	base := site(t).URL
	start := time.Now()
	outcome, _ := callHTTP(t, Config{Timeout: 50 * time.Millisecond}, false, `await http.get(base + "/slow")`, base, "127.0.0.1")
	require.Regexp(t, `^timed out after 50ms while it waited for 1 request$`, outcome.Reason)
	outcome, lines := callHTTP(t, Config{}, false, `http.get(base + "/slow"); return 1`, base, "127.0.0.1")
	require.True(t, outcome.Success)
	require.Equal(t, []string{"warn: main ended and left 1 request behind, now dropped; await what must be done"}, lines)
	require.Less(t, time.Since(start), 20*time.Second)
}

func TestHTTPReadonly(t *testing.T) {
	t.Parallel()
	base := site(t).URL
	outcome, lines := callHTTP(t, Config{}, true, `
		const r = await http.post(base + "/echo", {json: {}})
		const g = await http.get(base + "/echo")
		return {status: r.status, wouldDo: r.wouldDo, json: r.json(), get: g.status}`, base, "127.0.0.1")
	require.JSONEq(t, `{"status":0,"wouldDo":true,"json":null,"get":0}`, string(outcome.Data), outcome.Reason)
	require.Equal(t, []string{"info: would do: POST " + base + "/echo", "info: would do: GET " + base + "/echo"}, lines, "nothing leaves")
	outcome, _ = callHTTP(t, Config{}, true, `await http.post(base + "/echo")`, base)
	require.Contains(t, outcome.Reason, "may not connect to", "a dry run tells about permissions too")
}

func TestHTTPThroughAProxyOnlyWhenConfigured(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "proxied "+r.URL.Host) }))
	defer proxy.Close()
	outcome, _ := callHTTP(t, Config{HTTPProxy: proxy.URL}, false, `return (await http.get("http://example.test/")).text`, "", "example.test")
	require.Equal(t, `"proxied example.test"`, string(outcome.Data), outcome.Reason)
	e := engine(t, Config{})
	require.Nil(t, e.client.Proxy)
}

func BenchmarkCall(b *testing.B) {
	for name, source := range map[string]string{
		"sync":   `export function main(input) { return {n: input.n + 1} }`,
		"async":  `export async function main(input, ctx) { const n = await Promise.resolve(input.n); return {n: n + 1} }`,
		"log":    `import { log } from "catena"; export function main(input) { log("n is", input.n); return input }`,
		"timer":  `export async function main(input) { const t = setTimeout(() => {}, 1000); clearTimeout(t); await null; return input }`,
		"sleep1": `export async function main(input) { await new Promise((done) => setTimeout(done, 1)); return input }`,
		"empty":  `export function main() {}`,
	} {
		b.Run(name, func(b *testing.B) {
			e := engine(b, Config{})
			v := version(b, map[string]string{"m.ts": source}, pkgstore.Manifest{})
			c := Call{Version: v, Module: "m", Input: json.RawMessage(`{"n":1,"name":"x"}`), Log: func(string, string) {}}
			b.ReportAllocs()
			for b.Loop() {
				if o := e.Call(context.Background(), c); !o.Success {
					b.Fatal(o.Reason)
				}
			}
		})
	}
}

func TestHTTPReadonlyReadsWhereTheAuthorPermitsIt(t *testing.T) {
	t.Parallel()
	base := site(t).URL
	v := version(t, map[string]string{"m.ts": `import { http } from "catena"
		export async function main({base, other}: any) {
			const tell = (p: any) => p.then((r: any) => r.status, (e: any) => e.message)
			return [await tell(http.get(base + "/echo")), await tell(http.get(base + "/echo", {body: "x"})), await tell(http.put(base + "/echo")),
				await tell(http.get(other + "/echo")), await tell(http.get(base + "/to?url=" + encodeURIComponent(other + "/echo")))]
		}`}, pkgstore.Manifest{Permissions: pkgstore.Permissions{HTTP: []string{"127.0.0.1", "localhost"}, ReadonlyHTTP: []string{"127.0.0.1"}}})
	input, _ := json.Marshal(map[string]string{"base": base, "other": strings.Replace(base, "127.0.0.1", "localhost", 1)})
	var noted []string
	outcome := engine(t, Config{}).Call(t.Context(), Call{Version: v, Module: "m", Input: input, Log: func(string, string) {},
		Context: CallContext{Readonly: true}, WouldDo: func(kind, what string) { noted = append(noted, kind+" "+what) }})
	var got []any
	require.NoError(t, json.Unmarshal(outcome.Data, &got), outcome.Reason)
	require.EqualValues(t, 201, got[0])
	require.Equal(t, []any{0.0, 0.0, 0.0}, got[1:4])
	require.Contains(t, got[4], "which a dry run may not read from")
	require.Len(t, noted, 3)
	require.Equal(t, "http GET "+base+"/echo", noted[0])
}

// TestTheHostAPIHasTheNamesThatAPushKnows keeps the two lists the same.
func TestTheHostAPIHasTheNamesThatAPushKnows(t *testing.T) {
	t.Parallel()
	outcome := call(t, Config{}, `import * as catena from "catena"; export const main = () => Object.keys(catena).filter((name) => name !== "default").sort().join()`, "")
	require.True(t, outcome.Success, outcome.Reason)
	require.JSONEq(t, `"`+strings.Join(pkgstore.HostNames(), ",")+`"`, string(outcome.Data))
}
