package chain_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/task"
)

func TestWarningsOfAText(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		chain string
		want  []string // begins of "where message; remedy"
	}{
		"nothing to say": {`[{set: {n: 1}}, {call: "a:b", as: out}, {log: "${vars.n} ${vars.out} ${steps.out.data} ${params.month} ${run.id} ${outcome}"}]`, nil},
		"a step that no item makes": {"- {call: \"a:b\", name: fetch}\n- log: hello ${steps.fetsh.data}",
			[]string{"c.yaml:2:16 item 1: ${steps.fetsh} is read, but no item has that name; did you mean fetch?"}},
		"a variable that no item sets": {`[{log: "${vars.total}"}]`, []string{"c.yaml:1:11 item 0: ${vars.total} is read, but no item sets it; set it first"}},
		"a parameter without a value":  {`[{log: "${params.mont}"}]`, []string{"c.yaml:1:11 item 0: ${params.mont} is read, but the task's params do not have it: a run that is not given one has none; did you mean month?"}},
		"each name once":               {`[{log: "${vars.x}"}, {log: "${vars.x} ${vars[\"x\"]}"}]`, []string{"c.yaml:1:11 item 0: ${vars.x}"}},
		"an absent one is foreseen":    {`[{log: "${vars.x ?? 1} ${params.y ?? vars.z ?? 2} ${steps?.a} ${params?.b}"}]`, nil},
		"beside a foreseen one":        {`[{log: "${(vars.x ?? 1) + vars.y}"}]`, []string{"c.yaml:1:11 item 0: ${vars.y}"}},
		"named within":                 {`[{each: [1], do: [{call: "a:b", as: inner}]}, {log: "${steps.inner} ${vars.inner}"}]`, nil},
		"of a new chain":               {`[["newChain", {chainItems: [["log", "${vars.a}"]], context: {a: "${params.month}"}}]]`, nil},
		"of any new chain":             {`[["newChain", {chainItems: [["log", "${vars.a}"]], context: "${params.month}"}]]`, nil},
		"behind return": {`[["set", "outcome", {success: true}], ["return"], ["nop"], ["nop"]]`,
			[]string{"c.yaml:1:51 item 2: is never reached: item 1 always leaves this list before it (nor is the item behind it)"}},
		"behind a group that returns":  {`[[["outcome", {success: true}]], ["nop"]]`, []string{"c.yaml:1:34 item 1: is never reached"}},
		"behind a return that may not": {`[{when: "params.month > 1", do: [["outcome", {success: true}]]}, ["nop"]]`, nil},
		"behind a replay":              {`[["replay"], ["nop"]]`, []string{"c.yaml:1:14 item 1: is never reached"}},
		"within a group":               {`[{do: [["replay"], ["nop"]], catch: [["nop"]]}]`, []string{"c.yaml:1:20 item 0.do.1: is never reached"}},
		"a condition that is false":    {`[{when: false, log: x}, {when: "false", log: x}]`, []string{"c.yaml:1:2 item 0: never runs", "c.yaml:1:25 item 1: never runs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := chain.Parse("c.yaml", []byte(c.chain))
			require.NoError(t, err)
			found := d.Warnings(json.RawMessage(`{"month": 1}`))
			require.Len(t, found, len(c.want), "%v", found)
			for i, f := range found {
				require.Equal(t, task.SeverityWarning, f.Severity)
				require.True(t, strings.HasPrefix(f.Where+" "+f.Message+"; "+f.Remedy, c.want[i]), "%s %s; %s", f.Where, f.Message, f.Remedy)
			}
		})
	}
}

// TestEveryErrorOfAFile: none hides another one.
func TestEveryErrorOfAFile(t *testing.T) {
	t.Parallel()
	text := `name: one
chain:
  - {call: "a"}
  - {log: "${nope}", colour: red}
  - {each: "${params.list}", do: [{delay: soon}, {log: "${itm}"}]}
  - {call: "a:b", with: {x: "${alpha}", y: "${beta}"}, when: "1 +"}
  - {log: fine}
---
name: two
chain: [{log: fine}]
---
name: three
priority: 17
chain: [{log: "${x"}]
---
name: four
prioritee: 1
timeout: long
chain: [["nop"]]
---
name: two
chain: [["nop"]]
`
	read, problems := chain.CheckFile("f.yaml", []byte(text))
	tasks := read.Tasks
	require.Len(t, tasks, 1)
	require.Equal(t, "two", tasks[0].Definition.Name)
	require.Equal(t, "f.yaml:10:8", tasks[0].At("chain"))
	require.Equal(t, "f.yaml:10:9", tasks[0].At("chain[0].nothing"))
	var all []string
	for _, p := range problems {
		all = append(all, p.Error())
	}
	for _, want := range []string{"f.yaml:3:12", `f.yaml:4:22: item 1`, `f.yaml:5:43: item 2.do.0`, "f.yaml:5:59: item 2.do.1", `"alpha"`, `"beta"`, "f.yaml:6:65",
		"priority 17", "${ is not closed", `unknown field "prioritee"`, `timeout: "long"`, "task two is on line 9 and again on line"} {
		require.Contains(t, strings.Join(all, "\n"), want)
	}
	require.Len(t, problems, 12, strings.Join(all, "\n"))
	_, err := chain.ParseTasks("f.yaml", []byte(text))
	require.EqualError(t, err, all[0], "the first is what a plain reading answers")

	for _, broken := range []string{"", "name: [", "[1]", "name: x\nchain: 5"} {
		_, problems := chain.CheckFile("f.yaml", []byte(broken))
		require.NotEmpty(t, problems, broken)
	}
}

// shelf is a catalogue of packages and tasks.
type shelf struct {
	packages map[string][]string
	tasks    []string
	err      error
}

func (s shelf) Package(_ context.Context, name string) (*chain.PackageFacts, error) {
	exports, there := s.packages[name]
	if !there {
		return nil, s.err
	}
	return &chain.PackageFacts{Name: name, Exports: exports, Unknown: exports == nil}, s.err
}

func (s shelf) PackageNames(context.Context) (names []string, err error) {
	for name := range s.packages {
		names = append(names, name)
	}
	return names, nil
}

func (s shelf) HasTask(_ context.Context, name string) (bool, error) {
	return strings.Contains(" "+strings.Join(s.tasks, " ")+" ", " "+name+" "), nil
}

func (s shelf) TaskNames(context.Context) ([]string, error) { return s.tasks, nil }

func TestResolve(t *testing.T) {
	t.Parallel()
	known := shelf{packages: map[string][]string{"billing": {"invoice?close", "invoice?open"}, "empty": {}, "dark": nil}, tasks: []string{"mail/send"}}
	for call, want := range map[string]string{
		`{call: "billing:invoice?close"}`: "",
		`{call: "dark:any?thing"}`:        "",
		`{task: mail/send}`:               "",
		`{call: "${params.what}"}`:        "",
		`{call: "biling:invoice?close"}`:  "error item 0: there is no package biling; did you mean billing?",
		`{call: "zzz:x?y"}`:               "error item 0: there is no package zzz; push it",
		`{call: "billing:invoice?clos"}`:  "error item 0: module invoice of package billing exports no function clos; it exports invoice?close, invoice?open; did you mean invoice?close?",
		`{call: "billing:invoise?close"}`: "error item 0: package billing exports nothing of a module invoise; it exports invoice?close, invoice?open; did you mean invoice?close?",
		`{call: "empty:a"}`:               "error item 0: package empty exports nothing of a module a; it exports nothing; add it to exports",
		`{task: mail/sent}`:               "warning item 0: there is no task mail/sent; did you mean mail/send?",
	} {
		d, err := chain.Parse("c", []byte("["+call+", "+call+"]"))
		require.NoError(t, err)
		found, err := d.Resolve(t.Context(), known)
		require.NoError(t, err)
		if want == "" {
			require.Empty(t, found, call)
			continue
		}
		require.Len(t, found, 1, call)
		require.True(t, strings.HasPrefix(fmt.Sprintf("%s %s; %s", found[0].Severity, found[0].Message, found[0].Remedy), want), "%v", found[0])
		require.Equal(t, "c:1:2", found[0].Where)
	}
	d, err := chain.Parse("c", []byte(`[{call: "gone:a"}]`))
	require.NoError(t, err)
	_, err = d.Resolve(t.Context(), shelf{err: context.DeadlineExceeded})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
