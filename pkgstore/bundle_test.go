package pkgstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/dop251/goja"
	"github.com/dop251/goja/parser"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func made(t testing.TB, library library, pairs ...string) *bundled {
	t.Helper()
	b, err := bundle(t.Context(), contentOf(t, pairs...), library, 64*mebi)
	require.NoError(t, err)
	return b
}

func refused(t testing.TB, library library, pairs ...string) error {
	t.Helper()
	_, err := bundle(t.Context(), contentOf(t, pairs...), library, 64*mebi)
	require.Error(t, err)
	return err
}

// run executes a module as a worker does and calls one of its functions with no arguments.
// A promise is awaited.
func run(t testing.TB, m Module, function string) (goja.Value, error) {
	t.Helper()
	vm := goja.New()
	tree, err := goja.Parse("module.js", "(function (exports, require, module) {"+m.Code+"\n})\n//# sourceMappingURL=map",
		parser.WithSourceMapLoader(func(string) ([]byte, error) { return []byte(m.SourceMap), nil }))
	require.NoError(t, err)
	program, err := goja.CompileAST(tree, false)
	require.NoError(t, err)
	wrapper, err := vm.RunProgram(program)
	require.NoError(t, err)
	module := vm.NewObject()
	exports := vm.NewObject()
	require.NoError(t, module.Set("exports", exports))
	require.NoError(t, vm.Set("result", nil))
	requireFunction := func(name string) (map[string]any, error) {
		if name != "catena" {
			return nil, fmt.Errorf("no module %s", name)
		}
		return map[string]any{"host": "host of " + name}, nil
	}
	call, _ := goja.AssertFunction(wrapper)
	if _, err := call(goja.Undefined(), exports, vm.ToValue(requireFunction), module); err != nil {
		return nil, err
	}
	target, ok := goja.AssertFunction(module.Get("exports").ToObject(vm).Get(function))
	require.True(t, ok, "the module has no function %s:\n%s", function, m.Code)
	value, err := target(goja.Undefined())
	if err != nil {
		return nil, err
	}
	if promise, ok := value.Export().(*goja.Promise); ok {
		require.NotEqual(t, goja.PromiseStatePending, promise.State())
		if promise.State() == goja.PromiseStateRejected {
			return nil, fmt.Errorf("%s", promise.Result().ToObject(vm).Get("stack"))
		}
		return promise.Result(), nil
	}
	return value, nil
}

func TestBundleRunsOnGoja(t *testing.T) {
	t.Parallel()
	library := shelf{
		"money": contentOf(t, ManifestFile, `{name: money, exports: ["format?euro", "lib/tax?rate"]}`,
			"format.ts", `import { sign } from "./signs"; export const euro = (n: number): string => n + sign; export const hidden = 1`,
			"signs.ts", `export const sign = " EUR"`, "lib/tax.js", `exports.rate = () => 20`),
		"org/money": contentOf(t, ManifestFile, `{name: org/money, exports: ["format?euro"]}`, "format.ts", `export const euro = () => "org"`),
	}
	cases := []struct {
		name  string
		files []string
		want  any
	}{
		{"typescript", []string{"a.ts", `interface X { n: number } enum E { A = 2 } export function main(): number { const x: X = {n: 1}; return x.n + E.A }`}, int64(3)},
		{"async", []string{"a.ts", `export async function main() { let n = 0; for (const p of [1, 2]) n += await Promise.resolve(p); return n }`}, int64(3)},
		{"async generator", []string{"a.ts", `async function* g() { yield 1; yield 2 } export async function main() { let n = 0; for await (const x of g()) n += x; return n }`}, int64(3)},
		{"modern syntax", []string{"a.js", `class A { #x = 1; static s = 2; static { A.t = 3 } get x() { return this.#x } has(o) { return #x in o } }
			export function main() { const a = new A(), {x, ...rest} = {x: 1, y: {z: null}}; let q = null; q ??= 5; 
			return [a.x, A.s, A.t, a.has(a), rest?.y?.z ?? 4, q, 2 ** 3, 1_000, String(2n ** 64n), /(?<year>\d+)(?<=4)/u.exec("2024").groups.year].join() }`},
			"1,2,3,true,4,5,8,1000,18446744073709551616,2024"},
		{"decorators", []string{"a.ts", `function d(value: Function, _: unknown) { return function () { return value() + 1 } } class A { @d static f() { return 1 } } export const main = () => A.f()`}, int64(2)},
		{"relative", []string{"x/a.ts", `import { b } from "../lib/b"; import c from "./c.js"; import { i } from "../lib"; export const main = () => b + c + i`,
			"lib/b.ts", `export const b = "b"`, "x/c.ts", `export default "c"`, "lib/index.mjs", `export const i = "i"`}, "bci"},
		{"json", []string{"a.ts", `import data from "./data.json"; import { n } from "./data"; export const main = () => data.list.length + n`, "data.json", `{"list": [1, 2], "n": 5}`}, int64(7)},
		{"commonjs", []string{"a.js", `const b = require("./b"); module.exports = { main() { return b.two + 1 } }`, "b.js", `exports.two = 2`}, int64(3)},
		{"commonjs from esm", []string{"a.ts", `import b, { two } from "./b"; export const main = () => b.two + two`, "b.js", `module.exports = { two: 2 }`}, int64(4)},
		{"dynamic import", []string{"a.ts", `export const main = async () => (await import("./b")).b`, "b.ts", `export const b = 9`}, int64(9)},
		{"catena", []string{"a.ts", `import * as catena from "catena"; export const main = () => catena.host`}, "host of catena"},
		{"package", []string{"a.ts", `import { euro } from "pkg:money/format"; import { rate } from "pkg:money/lib/tax"; import type { X } from "pkg:none/such"; export const main = () => euro(rate())`}, "20 EUR"},
		{"package with a slash", []string{"a.ts", `import { euro } from "pkg:org/money/format"; export const main = () => euro()`}, "org"},
		{"package with a colon", []string{"a.ts", `import { euro } from "pkg:org/money:format"; export const main = () => euro()`}, "org"},
		{"shebang", []string{"a.js", "#!/usr/bin/env node\nexport const main = () => 1"}, int64(1)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := made(t, library, append([]string{ManifestFile, "name: mine"}, c.files...)...)
			module, _ := moduleName(c.files[0])
			got, err := run(t, b.modules[module], "main")
			require.NoError(t, err)
			require.Equal(t, c.want, got.Export())
		})
	}
}

func TestBundleKeepsDependenciesAndPlaces(t *testing.T) {
	t.Parallel()
	base := contentOf(t, ManifestFile, `{name: base, exports: ["sum?add"]}`, "sum.ts", "// one\n// two\nexport function add(): number {\n  throw new Error('deep')\n}\n")
	library := shelf{"base": base, "base@" + base.Digest(): base}
	middle := contentOf(t, ManifestFile, `{name: middle, exports: ["m?twice"]}`, "m.ts", `import { add } from "pkg:base/sum"; export const twice = () => add()`)
	library["middle@beta"] = middle
	b := made(t, library, ManifestFile, "name: top\ndependencies: [middle@beta]", "a.ts",
		"import { twice } from 'pkg:middle/m';\n\ninterface Long {\n  a: number;\n}\nexport async function main(x: Long) {\n  return twice();\n}\nexport function own() {\n\n  throw new TypeError('here')\n}\n")
	require.Equal(t, []Dependency{{Name: "middle", Want: "beta", Digest: middle.Digest()}}, b.manifest.Dependencies)

	_, err := run(t, b.modules["a"], "main")
	require.ErrorContains(t, err, "pkg:base@"+Short(base.Digest())+"/sum.ts:4:")
	require.ErrorContains(t, err, "a.ts:7:")
	_, err = run(t, b.modules["a"], "own")
	exception, ok := errors.AsType[*goja.Exception](err)
	require.True(t, ok)
	require.Contains(t, exception.String(), "a.ts:11:")
	require.NotContains(t, b.modules["a"].SourceMap, "sourcesContent")
}

func TestBundleRefuses(t *testing.T) {
	t.Parallel()
	library := shelf{"money": contentOf(t, ManifestFile, `{name: money, exports: ["format?euro"]}`, "format.ts", "export const euro = 1, hidden = 2", "secret.ts", "export const x = 1")}
	manifest := "name: mine"
	cases := []struct {
		name  string
		files []string
		where string
		parts []string
	}{
		{"syntax", []string{"lib/a.ts", "export const x = 1\nexport const y = = 2"}, "lib/a.ts:2:18", []string{`Unexpected "="`}},
		{"two errors", []string{"a.ts", "let = = 1", "b.ts", "\n)"}, "a.ts:1:7", []string{"b.ts:2:1"}},
		{"outside", []string{"lib/a.ts", `import "../../etc/passwd"`}, "lib/a.ts:1:8", []string{"outside the package"}},
		{"absolute", []string{"a.ts", `import "/etc/passwd"`}, "a.ts:1:8", []string{"not part of the package"}},
		{"node", []string{"a.ts", `import fs from "fs"; fs()`}, "a.ts:1:16", []string{`"fs" is not part of the package`}},
		{"url", []string{"a.ts", `import "https://example.com/x.js"`}, "a.ts:1:8", []string{"not part of the package"}},
		{"missing file", []string{"a.ts", `import { b } from "./lib/utl"; b()`, "lib/util.ts", ""}, "a.ts:1:19", []string{"no file", "did you mean lib/util?"}},
		{"text file", []string{"a.ts", `import b from "./b.txt"; b()`, "b.txt", ""}, "a.ts:1:15", []string{"neither a module nor JSON"}},
		{"missing name", []string{"a.ts", `import { c } from "./b"; export const d = c`, "b.ts", "export const b = 1"}, "a.ts:1:10", []string{"No matching export", `"c"`}},
		{"missing package", []string{"a.ts", `import { x } from "pkg:nothing/at-all"; x()`}, "a.ts:1:19", []string{"no package"}},
		{"missing module", []string{"a.ts", `import { x } from "pkg:money/formt"; x()`}, "a.ts:1:19", []string{"exports nothing of a module formt", "format?euro"}},
		{"not exported module", []string{"a.ts", `import { x } from "pkg:money/secret"; x()`}, "a.ts:1:19", []string{"exports nothing"}},
		{"not exported function", []string{"a.ts", `import { hidden } from "pkg:money/format"; hidden()`}, "a.ts:1:10", []string{"No matching export"}},
		{"itself", []string{"a.ts", `import { x } from "pkg:mine/b"; x()`, "b.ts", "export const x = 1"}, "a.ts:1:19", []string{"this package itself"}},
		{"top-level await", []string{"a.ts", "export const x = 1\nawait x"}, "a.ts:2:1", []string{"Top-level await"}},
		{"bad json", []string{"a.ts", `import x from "./x.json"; x()`, "x.json", "{\n1}"}, "x.json:2:1", nil},
		{"one module twice", []string{"a.ts", "", "a.js", ""}, "a.ts", []string{"a.js and a.ts are both the module a"}},
		{"deep", []string{"a.ts", "export const x =\n" + strings.Repeat("(", 20000) + "1" + strings.Repeat(")", 20000)}, "a.ts:2:1", []string{"nested too deeply"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := refused(t, library, append([]string{ManifestFile, manifest}, c.files...)...)
			requireError(t, err, task.CodeInvalid, c.where, c.parts...)
		})
	}
}

func TestBundleChecksExports(t *testing.T) {
	t.Parallel()
	manifest := "name: mine\nexports:\n  - invoice?close\n"
	for name, source := range map[string]string{
		"function": "export function close() {}", "constant": "export const close = () => 1", "renamed": "function x() {}; export { x as close }",
		"star": `export * from "./other"`, "commonjs": "exports.close = () => 1", "star of commonjs": `export * from "./classic"`,
	} {
		made(t, shelf{}, ManifestFile, manifest, "invoice.ts", source, "other.ts", "export const close = 1", "classic.js", "exports.close = 1; "+"// "+name)
	}
	err := refused(t, shelf{}, ManifestFile, manifest, "invoice.ts", "export function closed() {}\nexport const b = 1")
	requireError(t, err, task.CodeInvalid, "invoice.ts", "invoice?close", "exports no close", "did you mean closed?")
}

func TestBundleIsBounded(t *testing.T) {
	t.Parallel()
	pairs := []string{ManifestFile, "name: big", "lib.ts", "export const data = '" + strings.Repeat("x", 100_000) + "'"}
	for i := range 20 {
		pairs = append(pairs, fmt.Sprintf("m%d.ts", i), `import { data } from "./lib"; export const main = () => data`)
	}
	_, err := bundle(t.Context(), contentOf(t, pairs...), shelf{}, 1_000_000)
	requireError(t, err, task.CodeTooLarge, "big", "the limit is 1000000")
	_, err = bundle(t.Context(), contentOf(t, pairs...), shelf{}, 4_000_000)
	require.NoError(t, err)
}

func TestTooDeep(t *testing.T) {
	t.Parallel()
	deep := map[string]string{
		"not": strings.Repeat("!", 20_000) + "a", "plus": "a" + strings.Repeat("+a", 20_000), "arrow": strings.Repeat("a=>", 600),
		"function": strings.Repeat("function(){return ", 1001), "template": strings.Repeat("`${", 1001), "typeof": strings.Repeat("typeof ", 20_000) + "a",
		"brackets across lines": strings.Repeat("[\n", 1001),
	}
	for name, source := range deep {
		require.NotZero(t, tooDeep(source), name)
	}
	flat := map[string]string{
		"statements": strings.Repeat("const a = b + c;\n", 50_000), "no semicolons": strings.Repeat("const a = b + c\nf(a)\n", 50_000),
		"list": "[" + strings.Repeat("1 + 2,\n", 50_000) + "]", "string": `"` + strings.Repeat("(", 50_000) + `"`,
		"comment": "/*" + strings.Repeat("(", 50_000) + "*/ //" + strings.Repeat("(", 50_000), "template": "`" + strings.Repeat("(${a}", 50_000) + "`",
		"regexp": strings.Repeat("x = /[/(\"]\\//; ", 50_000), "else": strings.Repeat("if (a) { b } else ", 5_000), "division": strings.Repeat("x = (a) / b;\n", 50_000),
	}
	for name, source := range flat {
		require.Zero(t, tooDeep(source), name)
	}
	require.Equal(t, 3, tooDeep("\n\n"+strings.Repeat("(", 1001)))
}
