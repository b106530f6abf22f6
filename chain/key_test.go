package chain_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/task"
)

func TestKeysOfLimits(t *testing.T) {
	t.Parallel()
	base, err := chain.Params(nil, json.RawMessage(`{"customer":"acme","n":1,"nested":{"region":"eu"}}`))
	require.NoError(t, err)
	for text, want := range map[string]string{
		"fixed":                               "fixed",
		"${params.customer}":                  "acme",
		"${params.nested.region}-${params.n}": "eu-7",
		"${params.n * 2}":                     "14",
		"${params.customer == 'acme'}":        "true",
		"$${params.customer}":                 "${params.customer}",
	} {
		key, err := chain.ParseKey("rate.key", text)
		require.NoError(t, err, text)
		params, err := chain.Params(base, json.RawMessage(`{"n":7}`))
		require.NoError(t, err)
		got, err := key.Eval(params)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
	}
	require.EqualValues(t, 1, base["n"], "the task's params are not changed")
}

func TestKeysThatCannotBe(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{ // refused when the task is applied
		"${params.}":          "rate.key",
		"${nobody.knows}":     "unknown name nobody",
		"${vars.x}":           "only params",
		"${run.id}":           "only params",
		"${params.a":          "not closed",
		"${[1, 2]}":           "is a list",
		"${nil}":              "is null",
		"${ {'a': 1} }":       "is an object",
		"${1 % 0}":            "rate.key",
		"${'x' * 3}":          "rate.key",
		`${"a\u0000b"}`:       "control characters",
		"${repeat('a', 201)}": "201 characters",
		"":                    "empty",
	} {
		_, err := chain.ParseKey("rate.key", text)
		require.Equal(t, task.CodeInvalid, task.CodeOf(err), text)
		require.ErrorContains(t, err, "rate.key", text)
		require.ErrorContains(t, err, want, text)
	}
	for text, params := range map[string]string{ // refused with the run
		"${params.customer}":      `{}`,
		"${params.list}":          `{"list":[1]}`,
		"${params.object}":        `{"object":{}}`,
		"${params.text}":          `{"text":""}`,
		"${params.text} ":         `{"text":"a\nb"}`,
		"${params.long}":          `{"long":"` + strings.Repeat("x", 201) + `"}`,
		"${params.a.b.c}":         `{"a":{}}`,
		"${params.n / params.m}x": `{"n":"text","m":2}`,
	} {
		key, err := chain.ParseKey("concurrency.key", text)
		require.NoError(t, err, text)
		values, err := chain.Params(nil, json.RawMessage(params))
		require.NoError(t, err)
		_, err = key.Eval(values)
		require.Equal(t, task.CodeInvalid, task.CodeOf(err), text)
		require.ErrorContains(t, err, "concurrency.key", text)
	}
	_, err := chain.Params(nil, json.RawMessage(`[1]`))
	require.Error(t, err)
}

func TestLimitsInTaskFiles(t *testing.T) {
	t.Parallel()
	read, err := chain.ParseTasks("t.yaml", []byte(`
name: a
chain: [nop]
tags: [gpu, eu]
rate: {limit: 20, per: 1s, key: "${params.customer}"}
concurrency: {limit: 3, key: "${params.customer}", strategy: reject-new}
dedupe: {key: "${params.order}", window: 10m}
`))
	require.NoError(t, err)
	d := read[0].Definition
	require.Equal(t, []string{"gpu", "eu"}, d.Tags)
	require.Equal(t, 20, d.Rate.Limit)
	require.Equal(t, task.StrategyRejectNew, d.Concurrency.Strategy)
	require.Equal(t, "10m0s", d.Dedupe.Window.String())
	for text, want := range map[string]string{
		`rate: {limit: 0, per: 1s}`:                  "t.yaml:3:15: rate.limit: a limit of 0 would never start a run; to start none for a while, pause the task",
		`rate: {limit: 5}`:                           "rate.per: a window of 0s is out of range; use 1s to 24h",
		`rate: {limit: 5, per: 25h}`:                 "rate.per",
		`rate: {limit: 5, per: 10ms}`:                "rate.per",
		`rate: {limit: -1, per: 1s}`:                 "rate.limit",
		`rate: {limit: many, per: 1s}`:               "t.yaml:3:15",
		`rate: {limit: 5, each: 1s}`:                 `unknown field "each" of a rate`,
		`rate: 5`:                                    "write {limit: 20, per: 1s}",
		`concurrency: {limit: 0}`:                    "concurrency.limit: a limit of 0",
		`concurrency: {limit: 1, strategy: maybe}`:   "concurrency.strategy: unknown strategy",
		`concurrency: {limit: 1, key: 5}`:            "t.yaml:3:30",
		`concurrency: {limit: 1, key: "${parms.a}"}`: "t.yaml:3:30: concurrency.key",
		`concurrency: {limit: 1, key: "${[params.a][0:0]}", strategy: reject}`: "concurrency.strategy",
		`concurrency: {limit: 1, key: "${vars.a}"}`:                            "only params",
		`dedupe: {window: 1m}`:                                                 "dedupe.key: dedupe has no key",
		`dedupe: {key: x}`:                                                     "dedupe.window",
		`dedupe: {key: "${{}}", window: 1m}`:                                   "is an object",
		`tags: [A B]`:                                                          `tags[0]: "A B" cannot be a tag`,
		`tags: gpu`:                                                            "write a list of words",
		`tags: [a, b, c, d, e, f, g, h, i, j, k]`:                              "11 tags are too many",
	} {
		_, err := chain.ParseTasks("t.yaml", []byte("name: a\nchain: [nop]\n"+text+"\n"))
		require.Error(t, err, text)
		require.ErrorContains(t, err, want, text)
		require.ErrorContains(t, err, "t.yaml:", text)
	}
}

func FuzzKey(f *testing.F) {
	for _, seed := range []string{"${params.a}", "x${params.a + 1}y", "$${", "${", "${repeat(params.a, 9999999)}"} {
		f.Add(seed, `{"a":"b"}`)
	}
	f.Fuzz(func(t *testing.T, text, params string) {
		key, err := chain.ParseKey("rate.key", text)
		if err != nil {
			require.Equal(t, task.CodeInvalid, task.CodeOf(err))
			return
		}
		values, err := chain.Params(nil, json.RawMessage(params))
		if err != nil {
			return
		}
		if got, err := key.Eval(values); err == nil {
			require.NotEmpty(t, got)
		} else {
			require.Equal(t, task.CodeInvalid, task.CodeOf(err))
		}
	})
}
