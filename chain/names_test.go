package chain_test

import (
	"fmt"
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
