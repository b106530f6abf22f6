package chain_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/task"
)

// parking runs a document as the cluster does: parked, and run again with what
// was committed and with the outcomes of its waits.
type parking struct {
	t       *testing.T
	doc     *chain.Document
	options chain.Options
	mu      sync.Mutex
	spawned []chain.Spawn
	started []chain.Start
}

func park(t *testing.T, text, params string) *parking {
	p := &parking{t: t, doc: parse(t, text)}
	p.options = chain.Options{Run: chain.RunInfo{Task: "test"}, Params: json.RawMessage(params), Invoker: &code{}, Starter: p, Spawner: p,
		Park: true, Waits: map[chain.WaitKey]chain.Waited{}, Commit: func(_ context.Context, step task.Step) error {
			p.options.Done = append(p.options.Done, step)
			return nil
		}}
	return p
}

func (p *parking) StartTask(_ context.Context, s chain.Start) (uuid.UUID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = append(p.started, s)
	return uuid.NewSHA1(uuid.Nil, []byte(s.Path)), nil
}

func (p *parking) Spawn(_ context.Context, s chain.Spawn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spawned = append(p.spawned, s)
	return nil
}

func (p *parking) run() chain.Result {
	p.t.Helper()
	res, err := p.doc.Run(p.t.Context(), p.options)
	require.NoError(p.t, err)
	return res
}

// parks runs until the document parks.
func (p *parking) parks() chain.Parked {
	p.t.Helper()
	res := p.run()
	require.NotNil(p.t, res.Parked, "%+v", res.Outcome)
	return *res.Parked
}

// answer ends a wait.
func (p *parking) answer(w chain.Parked, o task.Outcome) {
	p.options.Waits[chain.WaitKey{Iteration: w.Iteration, Path: w.Path}] = chain.Waited{Outcome: o, Since: time.Now().Add(-time.Hour)}
}

func TestAWaitParksAndGoesOnWithItsOutcome(t *testing.T) {
	t.Parallel()
	p := park(t, `[{call: 'a:m?f', with: {n: 1}}, {wait: {event: paid, key: "${params.order}", timeout: 2d}, as: payment}, {call: 'a:m?g', with: {sum: "${vars.payment.sum}", by: "${steps.payment.sent_by}"}}]`, `{"order":17}`)
	w := p.parks()
	require.Equal(t, chain.Parked{Kind: task.WaitEvent, Path: "1", Name: "paid", Key: "17", For: 48 * time.Hour,
		Late: `timed out after 48h0m0s: no event paid with the key "17" was sent`}, w)
	require.Len(t, p.options.Done, 1, "the step before it is committed")
	o := task.Succeed(json.RawMessage(`{"sum":5}`))
	o.Extra = map[string]json.RawMessage{"sent_by": json.RawMessage(`"shop"`)}
	p.answer(w, o)
	res := p.run()
	require.JSONEq(t, `{"sum":5,"by":"shop"}`, string(res.Outcome.Data))
	require.Len(t, p.options.Done, 2)
	require.Greater(t, p.options.Done[1].FinishedAt.Sub(p.options.Done[1].StartedAt), 59*time.Minute, "the step shows how long it waited")
	require.Len(t, p.options.Invoker.(*code).calls, 2)
}

func TestModifiersAroundAWait(t *testing.T) {
	t.Parallel()
	p := park(t, `[{wait: {approval: operator}, timeout: 1d, retry: {attempts: 2, backoff: 1h}, catch: [{call: 'a:m?f', with: {why: "${error.reason}"}}]}, {when: "1 > 2", wait: {event: never}}]`, "")
	w := p.parks()
	require.Equal(t, chain.Parked{Kind: task.WaitApproval, Path: "0", Name: "operator", For: 24 * time.Hour, Late: "timed out after 24h0m0s"}, w)
	p.answer(w, task.Fail(w.Late))
	// The retry's pause holds the slot; the second attempt is a wait of its own.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := p.doc.Run(ctx, p.options)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	second := w
	second.Path = "0#2"
	p.answer(second, task.Fail("rejected by anna"))
	res := p.run()
	require.True(t, res.Outcome.Success)
	require.JSONEq(t, `{"why":"rejected by anna"}`, string(res.Outcome.Data))
}

func TestReplaysWaitAgain(t *testing.T) {
	t.Parallel()
	p := park(t, `[{wait: {event: turn}}, {when: "outcome.data > 1", do: [["outcome", {success: true, data: done}]]}, ["replay"]]`, "")
	for i := range 2 {
		w := p.parks()
		require.Equal(t, i, w.Iteration)
		p.answer(w, task.Succeed(json.RawMessage([]string{"1", "2"}[i])))
	}
	require.Equal(t, `"done"`, string(p.run().Outcome.Data))
}

func TestLongDelaysPark(t *testing.T) {
	t.Parallel()
	p := park(t, `[{delay: 10ms}, [delay, 5001], {delay: 3d, timeout: 1s}]`, "")
	w := p.parks()
	require.Equal(t, chain.Parked{Kind: task.WaitDelay, Path: "1", For: 5001 * time.Millisecond}, w)
	p.answer(w, task.Succeed(nil))
	w = p.parks()
	require.Equal(t, chain.Parked{Kind: task.WaitDelay, Path: "2", For: time.Second, Late: "timed out after 1s"}, w)
	p.answer(w, task.Fail(w.Late))
	require.Equal(t, "timed out after 1s", p.run().Outcome.Reason)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	p.options.Done = nil
	_, err := parse(t, `[{each: [1], do: [{delay: 3d}]}]`).Run(ctx, p.options)
	require.ErrorIs(t, err, context.DeadlineExceeded, "a delay below the top level holds its slot")
}

func TestWaitsThatCannotBegin(t *testing.T) {
	t.Parallel()
	for text, reason := range map[string]string{
		`[{wait: {event: "${params.none}"}}]`:                                                                 "wait: event is null",
		`[{wait: {event: "${params.empty}"}}]`:                                                                "wait: the name of the event is empty",
		`[{wait: {event: a, key: "${params.none}"}}]`:                                                         "wait: key is null",
		`[{wait: {event: a, key: "${params.none.x}"}}]`:                                                       "wait: key: ${params.none.x}: cannot fetch x from null",
		`[{wait: {event: a, key: "${repeat('x', 300)}"}}]`:                                                    "wait: key has 300 characters, at most 200 are possible",
		`[{wait: {event: a, timeout: "${params.empty}"}}]`:                                                    `wait: timeout: "" is not a duration`,
		`[{wait: {event: a, timeout: "${0}"}}]`:                                                               "wait: a timeout of 0 leaves no time",
		`[{each: "${1..100001}", spawn: true, do: [[nop]]}]`:                                                  "each has 100001 elements, at most 100000 can be spawned",
		`[{each: "${params.empty}", spawn: true, do: [[nop]]}]`:                                               "each needs a list, but got ",
		`[{set: {v: "${repeat('x', 1000)}"}}, {each: "${1..100000}", spawn: true, do: [{log: "${vars.v}"}]}]`: "the 100000 children would be given more than 64 MiB",
		`[{task: "${params.empty}", wait: true}]`:                                                             `task:  cannot name a task`,
	} {
		res := park(t, text, `{"none":null,"empty":""}`).run()
		require.Nil(t, res.Parked)
		require.Contains(t, res.Outcome.Reason, reason)
		require.NotEmpty(t, res.Outcome.CallStack)
	}
	for _, text := range []string{`[{wait: {event: a}}]`, `[{task: x, wait: true}]`, `[{each: [1], spawn: true, do: [[nop]]}]`} {
		require.False(t, execute(t, text, "").Outcome.Success, "nothing parks where nobody would go on")
	}
}

func TestATaskThatIsWaitedFor(t *testing.T) {
	t.Parallel()
	p := park(t, `[{task: other, with: {n: "${params.n}"}, wait: true, inherit_cancel: false, as: x}, {task: later}]`, `{"n":3}`)
	w := p.parks()
	require.Equal(t, task.WaitChildren, w.Kind)
	require.Equal(t, "other", w.Name)
	require.Equal(t, []chain.Start{{Task: "other", Params: json.RawMessage(`{"n":3}`), Path: "0", Wait: true}}, p.started)
	require.Equal(t, uuid.NewSHA1(uuid.Nil, []byte(p.started[0].Path)), *w.Child)
	p.answer(w, task.Succeed(json.RawMessage(`7`)))
	require.True(t, p.run().Outcome.Success)
	require.Len(t, p.started, 2)
	require.True(t, p.started[1].InheritCancel)
	require.False(t, p.started[1].Wait)
}

func TestSpawnedElementsRunTheirItems(t *testing.T) {
	t.Parallel()
	p := park(t, `[{set: {base: 100}}, {call: 'a:m?f', with: {k: 1}, as: first},
		{each: "${params.list}", item: line, index: at, spawn: true, limit: 7, on_failure: stop, do: [
			{call: 'a:m?f', with: {v: "${line + at + vars.base + steps.first.data.k}", o: "${outcome.data}"}, as: mine},
			{wait: {event: "e${line}"}},
			{each: [5], item: inner, spawn: true, do: [{call: 'a:m?f', with: {s: "${line * inner + vars.mine.v}"}}]},
			{call: 'a:m?f', with: {end: "${vars.mine.v}"}}]}]`, `{"list":[10,20,30]}`)
	w := p.parks()
	require.Equal(t, chain.Parked{Kind: task.WaitChildren, Path: "2", Children: 3, Stop: true}, w)
	require.Len(t, p.spawned, 1)
	s := p.spawned[0]
	require.Equal(t, 7, s.Limit)
	require.True(t, s.Stop && s.InheritCancel)
	require.Len(t, s.Entries, 3)
	raw, err := json.Marshal(s.Entries[1]) // as the child reads it
	require.NoError(t, err)
	var entry chain.Entry
	require.NoError(t, json.Unmarshal(raw, &entry))

	child := park(t, `["nop"]`, `{"list":[10,20,30]}`)
	child.doc, child.options.Entry = p.doc, &entry
	w = child.parks()
	require.Equal(t, "2.do.1", w.Path)
	require.Equal(t, "e20", w.Name)
	require.Equal(t, "2.do.0", child.options.Done[0].Path)
	require.JSONEq(t, `{"v":122,"o":{"k":1}}`, string(child.options.Done[0].Outcome.Data))
	require.Equal(t, "2[1].do.0", child.options.Invoker.(*code).calls[0].Step)
	child.answer(w, task.Succeed(nil))
	w = child.parks()
	require.Equal(t, "2.do.2", w.Path)
	inner := park(t, `["nop"]`, `{"list":[10,20,30]}`)
	inner.doc, inner.options.Entry = p.doc, &child.spawned[0].Entries[0]
	require.JSONEq(t, `{"s":222}`, string(inner.run().Outcome.Data))
	child.answer(w, task.Fail("one failed"))
	require.Equal(t, "one failed", child.run().Outcome.Reason)

	quiet := park(t, `[{call: 'a:m?f'}, {each: [1], spawn: true, do: [{log: "${outcome}"}]}]`, "")
	quiet.parks()
	quiet.options.Entry, quiet.options.Done = &quiet.spawned[0].Entries[0], nil
	require.Nil(t, quiet.run().Outcome.Data, "an outcome that it only sees is not its own")
	require.Equal(t, "[]", string(park(t, `[{each: [], spawn: true, do: [[nop]]}]`, "").run().Outcome.Data))
}

func TestAnEntryThatDoesNotFit(t *testing.T) {
	t.Parallel()
	doc := parse(t, `[{each: [1], do: [[nop]]}]`)
	for _, path := range []string{"0", "7", "0.do.0", "x"} {
		_, err := doc.Run(t.Context(), chain.Options{Entry: &chain.Entry{Path: path}})
		require.ErrorContains(t, err, "spawns nothing")
	}
	_, err := doc.Run(t.Context(), chain.Options{Done: []task.Step{{Path: "0.do.0", Outcome: &task.Outcome{Success: true}}}})
	require.ErrorContains(t, err, "does not belong")
}

func TestCyclesThroughWaitsAndSpawns(t *testing.T) {
	t.Parallel()
	docs := map[string]*chain.Document{
		"a": parse(t, `[{task: b, wait: true}]`),
		"b": parse(t, `[{each: [1], spawn: true, do: [{task: c, wait: true}]}]`),
		"c": parse(t, `[{each: [1], do: [{task: a}]}]`),
	}
	require.Equal(t, [][]string{{"a", "b", "c"}}, chain.Cycles(docs))
}
