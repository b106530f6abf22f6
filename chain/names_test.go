package chain_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
)

// TestWhatAuthorsOfTaskFilesAreTold names each mistake at its place, in words of the file.
func TestWhatAuthorsOfTaskFilesAreTold(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"chain: [{set: {x: 1}, as: a}, {set: {x: 2}, as: a}]":                             "f.yaml:2:49: item 1 {\"set\":{\"x\":2},\"as\":\"a\"}: item 0 has the name a already; rename one of them",
		"chain: [{set: {x: 1}, as: a}, {set: {x: 2}, name: a}]":                           "item 0 has the name a already",
		"chain: [{set: {x: 1}, as: a, when: true}, {set: {x: 2}, as: a, when: params.x}]": "",
		"chain: [{set: {x: 1}, as: a}, {do: [{set: {x: 2}, as: a}]}]":                     "",
		"chain: [{set: {x: 1}, as: outcome}]":                                             "f.yaml:2:27: item 0 {\"set\":{\"x\":1},\"as\":\"outcome\"}: as: outcome stands for something else in expressions",
		"chain: [{set: {x: 1}, as: steps}]":                                               "as: steps stands for something else",
		"chain: [{set: {x: 1}, name: outcome}]":                                           "",
		"chain: [nop]\nschedule: [{every: 0s}]":                                           "f.yaml:3:20: schedule[0].every: 0s is no interval; write 1s at least",
		"chain: [nop]\nschedule: [{every: 99999999999h}]":                                 `schedule[0].every: the duration "99999999999h" is too long`,
		"chain: [nop]\ntimeout: 99999999999h":                                             `timeout: the duration "99999999999h" is too long; write a duration such as 10m`,
		"chain: [nop]\ntimeout: 200000d":                                                  `the duration "200000d" is too long`,
		"chain: [{delay: 99999999999h}]":                                                  `the duration "99999999999h" is too long`,
		"chain: [nop]\nretry: {attempts: x}":                                              "retry: a text does not fit retry.attempts; write {attempts: 3",
		"chain: [{call: 'a:b', retry: {attempts: x}}]":                                    "retry.attempts: a text does not fit attempts",
		"chain: [nop]\npriority: high":                                                    "priority: a text does not fit priority",
		"chain: [nop]\nrate: {limit: a, per: 1s}":                                         "rate: a text does not fit rate.limit",
	} {
		_, problems := chain.CheckFile("f.yaml", []byte("name: a\n"+text+"\n"))
		if want == "" {
			require.Empty(t, problems, text)
			continue
		}
		require.Len(t, problems, 1, text)
		require.Contains(t, problems[0].Error(), want)
		require.NotContains(t, fmt.Sprint(problems), "json:")
	}
	_, err := chain.Parse("chain", []byte(`[{"set":{"x":1},"as":"a"},{"set":{"x":2},"as":"a"}]`))
	require.NoError(t, err, "what is stored runs as it did")
}

// TestEveryMistakeOfADocumentIsNamed at once, each at its place.
func TestEveryMistakeOfADocumentIsNamed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		`name: a
timout: 5s
timeout: 5
priority: high
durable: maybe
queue:
tags: [gpu, 1, {}]
retry: {attempts: three, backoff: 2, tries: 3}
rate: {limit: a, per: 1}
schedule:
  - {cron: 5, jitter: 3, overlpa: skip}
  - nightly
  - {calendar: {times: "08:00", days: [x, 1.5]}}
chain: [{call: 5}]
`: {
			`f.yaml:2:1: unknown field "timout" of a task; did you mean timeout?`,
			"f.yaml:3:10: timeout: 5 is not a duration", "f.yaml:4:11: priority: a text does not fit", "f.yaml:5:10: durable: a text does not fit",
			"f.yaml:6:7: queue has no value", "f.yaml:7:13: tags[1]: a number does not fit here", "f.yaml:7:16: tags[2]: an object does not fit here",
			`f.yaml:8:38: unknown field "tries" of a retry`, "f.yaml:8:19: retry: a text does not fit retry.attempts", "f.yaml:8:35: retry: 2 is not a duration",
			"f.yaml:9:15: rate: a text does not fit rate.limit", "f.yaml:9:23: rate: 1 is not a duration",
			`f.yaml:11:26: unknown field "overlpa" of a schedule; did you mean overlap?`, "f.yaml:11:12: schedule[0].cron: a number", "f.yaml:11:23: schedule[0].jitter: a number",
			"f.yaml:12:5: a schedule must be an object", "f.yaml:13:24: schedule[2].calendar.times: a string", "schedule[2].calendar.days[0]: a string", "schedule[2].calendar.days[1]: 1.5 is not a whole number",
			"f.yaml:14:16: ",
		},
		"name: a b\nqueue: A\npriority: 10\nkeep: 1s\nretry: {attempts: -1}\nschedule: [{overlap: none}, {every: 1m, note: x}]\nchain: [nop]\n": {
			`f.yaml:1:7: name: "a b" cannot name a task`, "f.yaml:2:8: queue: ", "f.yaml:3:11: priority: ", "f.yaml:4:7: keep: ",
			"f.yaml:6:12: schedule[0]: schedule says no time", "f.yaml:6:47: schedule[1].note: ", "f.yaml:5:19: retry.attempts: ",
		},
		"source: due\nlimt: 5\nlimit: many\nevery: 5\nhttp: {url: 5, method: [GET], headers: {A: 1}}\n": {
			`f.yaml:2:1: unknown field "limt" of a source`, "f.yaml:3:8: source.limit: ", "f.yaml:4:8: source.every: ",
			"f.yaml:5:13: source.http.url: ", "f.yaml:5:24: source.http.method: ", "f.yaml:5:44: source.http.headers.A: ",
		},
		"source: due\nhttp: 'https://h/x'\n":     {`f.yaml:2:7: source.http: a string does not fit here; write an object: {url: "https://h/x"}, with method:`},
		"source: due\nhttp: {headers: [a: b]}\n": {`f.yaml:2:17: source.http.headers: a list does not fit here; write an object such as {Authorization: "${env.SOURCE_TOKEN}"}`},
		"calendar: A b\nical: /x\n":              {"f.yaml:1:11: \"A b\" cannot name a calendar", "f.yaml:2:7: \"/x\" does not name an .ics file"},
	} {
		_, problems := chain.CheckFile("f.yaml", []byte(text))
		all := make([]string, 0, len(problems))
		for _, p := range problems {
			all = append(all, p.Error())
		}
		for _, one := range want {
			require.Contains(t, strings.Join(all, "\n"), one)
		}
		require.Len(t, problems, len(want), strings.Join(all, "\n"))
	}
}

// TestAVariableThatNothingHasSetIsNull at run time; apply warns of it.
func TestAVariableThatNothingHasSetIsNull(t *testing.T) {
	t.Parallel()
	document, err := chain.Parse("chain", []byte(`[{"set":{"outcome":{"success":true,"data":["${vars.nothing}","${vars.nothing ?? 1}","<${vars.nothing}>"]}}}]`))
	require.NoError(t, err)
	result, err := document.Run(t.Context(), chain.Options{})
	require.NoError(t, err)
	require.JSONEq(t, `[null,1,"<null>"]`, string(result.Outcome.Data))
	warnings := document.Warnings(nil)
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0].Message, "${vars.nothing} is read, but no item sets it")
}
