package chain

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestValues reads and writes values, which must keep every number to the digit.
func TestValues(t *testing.T) {
	t.Parallel()
	for in, out := range map[string]string{
		`null`: `null`, ` true `: `true`, `"a\u00e9\n\u0000<"`: `"aé\n\u0000<"`, `[ ]`: `[]`, `{ }`: `{}`,
		`[1, -2,3.5 ,1e3,1.0,-0]`: `[1,-2,3.5,1000,1,0]`, `{"b":{"c":[{}]},"a":1}`: `{"a":1,"b":{"c":[{}]}}`,
		`9007199254740993`: `9007199254740993`, `18446744073709551616`: `18446744073709551616`,
		`-123456789012345678901234567890`: `-123456789012345678901234567890`, `1e400000`: `1e400000`, `0.1`: `0.1`, `1e300`: `1e+300`,
	} {
		value, err := decode(json.RawMessage(in))
		require.NoError(t, err)
		got, err := appendValue(nil, value)
		require.NoError(t, err)
		require.Equal(t, out, string(got))
	}
	for _, bad := range []string{`{`, `nul`, `[1,]`, `01`} {
		_, err := decode(json.RawMessage(bad))
		require.Error(t, err)
	}
}

// FuzzDecode compares with the standard library.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{`{"a":[1,2.5,"x\n",null,true,{"b":-0}]}`, `"\ud800"`, `[[],{}]`, "\"\xff\""} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want any
		wantErr := json.Unmarshal(text, &want)
		got, err := decode(text)
		if len(text) == 0 {
			return
		}
		if !json.Valid(text) {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		if wantErr != nil {
			return // a number beyond float64
		}
		raw, err := appendValue(nil, got)
		require.NoError(t, err)
		var again any
		require.NoError(t, json.Unmarshal(raw, &again), "%s", raw)
		require.Equal(t, want, again)
	})
}

// TestYAMLSpellings: numbers that JSON does not know, aliases, timestamps.
func TestYAMLSpellings(t *testing.T) {
	t.Parallel()
	doc, err := Parse("t", []byte("- set:\n    a: [0x1f, 1_000, .5, +5, 1e3, 0o17, -0]\n    b: &x {k: 2026-11-22}\n    c: *x\n    d: |\n      two\n      lines\n    e: ~\n    f: True\n"))
	require.NoError(t, err)
	raw, err := doc.MarshalJSON()
	require.NoError(t, err)
	require.JSONEq(t, `[{"set":{"a":[31,1000,0.5,5,1e3,15,0],"b":{"k":"2026-11-22"},"c":{"k":"2026-11-22"},"d":"two\nlines\n","e":null,"f":true}}]`, string(raw))
	for text, reason := range map[string]string{
		"- set: {a: .inf}":                         "not a number that JSON knows",
		"- set: {a: !thing 5}":                     "tag !thing is not supported",
		"- set: {[a]: 5}":                          "a key must be text",
		"- log: &a [*a]":                           "t:",
		"- log: |\n    ${params.a\n":               "t:1:8",
		"- log: \"\\u00e9\\u00e9 ${1 +}\"":         "unexpected token EOF",
		"- log: \"${" + longText(20_000) + "}\"\n": "longer than 16 KiB",
		"- log: ${ }":                              "the expression is empty",
	} {
		_, err := Parse("t", []byte(text))
		require.ErrorContains(t, err, reason)
	}
}

// TestAliasesCannotExplode: a small text must not become a large document.
func TestAliasesCannotExplode(t *testing.T) {
	t.Parallel()
	text := "- set:\n    a0: &a0 [x, x]\n"
	for i := 1; i < 40; i++ {
		text += "    a" + string(rune('a'+i/10)) + string(rune('0'+i%10)) + ": &a" + name(i) + " [*a" + name(i-1) + ", *a" + name(i-1) + "]\n"
	}
	_, err := Parse("t", []byte(text))
	require.ErrorContains(t, err, "more than 2000000")
}

func name(i int) string {
	raw, _ := json.Marshal(i)
	return string(raw)
}

func longText(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a'
	}
	return string(b)
}

// TestNormalize turns what the expression language returns into JSON values.
func TestNormalize(t *testing.T) {
	t.Parallel()
	doc, err := Parse("t", []byte(`[{"set": {
		"range": "${1..3}", "float": "${2.0}", "map": "${map(1..2, ({n: #}))}", "group": "${groupBy([1,2,3], # % 2)}",
		"duration": "${duration('90s')}", "date": "${date('2026-11-22')}", "zone": "${timezone('UTC')}", "pairs": "${toPairs({a: 1})}",
		"split": "${split('a,b', ',')}", "uniq": "${uniq([1, 1, 2])}", "join": "${join(['a', 'b'], '-')}", "replace": "${replace('aXa', 'X', 'y')}",
		"repeat": "${repeat('ab', 2)}", "in": "${2 in [1, 2]}", "same": "${[1] == [1]}", "contains": "${'abc' contains 'b'}", "sum": "${1 + 2.5}"
	}}]`))
	require.NoError(t, err)
	res, err := doc.Run(t.Context(), Options{})
	require.NoError(t, err)
	require.Empty(t, res.Outcome.Reason)
	var state stepState
	require.NoError(t, json.Unmarshal(res.Steps[0].Vars, &state))
	require.JSONEq(t, `{"range":[1,2,3],"float":2,"map":[{"n":1},{"n":2}],"group":{"1":[1,3],"0":[2]},"duration":"1m30s",
		"date":"2026-11-22T00:00:00Z","zone":"UTC","pairs":[["a",1]],"split":["a","b"],"uniq":[1,2],"join":"a-b","replace":"aya",
		"repeat":"abab","in":true,"same":true,"contains":true,"sum":3.5}`, string(state.Set))

	for text, reason := range map[string]string{
		`1 / 0`: "not a number that JSON knows", `"a" + 1`: "invalid operation", `repeat(1, 2)`: "repeat takes a text",
		`replace("a")`: "replace takes", `uniq(1, 2)`: "uniq takes", `join()`: "join takes", `params.list[5]`: "index out of range",
		`fromJSON("{")`: "unexpected end", `timezone("nowhere")`: "unknown time zone",
	} {
		quoted, err := json.Marshal("${" + text + "}")
		require.NoError(t, err)
		doc, err := Parse("t", []byte(`[{"set": {"a": `+string(quoted)+`}}]`))
		if err != nil {
			continue // what the compiler finds need not wait for the run
		}
		res, err := doc.Run(t.Context(), Options{Params: json.RawMessage(`{"list":[]}`)})
		require.NoError(t, err)
		require.False(t, res.Outcome.Success, text)
		require.Contains(t, res.Outcome.Reason, reason, text)
	}
}
