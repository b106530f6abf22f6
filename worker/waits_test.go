package worker_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/worker"
)

func (c *cluster) submitWith(name, params string) uuid.UUID {
	c.t.Helper()
	got, err := c.dispatch.Submit(c.t.Context(), []dispatch.Request{{Task: name, Params: json.RawMessage(params)}})
	require.NoError(c.t, err)
	return got[0].ID
}

func (c *cluster) send(name, key, data string) int {
	c.t.Helper()
	_, reached, err := c.store.SendEvent(c.t.Context(), store.NewEvent{Name: name, Key: key, Data: json.RawMessage(data), By: "shop"})
	require.NoError(c.t, err)
	return reached
}

func TestARunWaitsWithoutAWorker(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(`
name: order
chain:
  - set: {before: 1}
  - wait: {event: paid, key: "${params.order}", timeout: 2d}
    as: payment
  - set: {outcome: {success: true, data: "${vars.payment.sum + vars.before}"}}`)
	w := c.work(func(cfg *worker.Config, _ *worker.Deps, _ *script.Config) { cfg.Slots = 1 })
	ids := []uuid.UUID{c.submitWith("order", `{"order":"a"}`), c.submitWith("order", `{"order":"b"}`), c.submitWith("order", `{"order":"a"}`)}
	for _, id := range ids {
		run := c.until(id, task.StateWaiting)
		require.Equal(t, task.WaitEvent, run.Wait.Kind)
		require.Equal(t, "paid", run.Wait.Name)
		require.WithinDuration(t, run.Wait.Since.Add(48*time.Hour), *run.Wait.Until, time.Second)
		require.Len(t, run.Steps, 1)
	}
	require.Zero(t, c.count(`SELECT count(*) FROM parcels`)+c.count(`SELECT count(*) FROM ready`), "nothing is occupied")
	w.end()
	require.Equal(t, 2, c.send("paid", "a", `{"sum":41}`))
	require.Zero(t, c.send("paid", "c", `{}`))
	c.work(nil) // another worker takes them
	for i, id := range ids {
		if i == 1 {
			require.Equal(t, task.StateWaiting, c.get(id).State)
			continue
		}
		run := c.until(id, task.StateSucceeded)
		require.Equal(t, "42", text(run.Outcome.Data))
		require.Equal(t, 1, run.Attempt)
		require.Nil(t, run.Wait)
	}
}

func TestAnEventThatCameFirstIsTakenOnce(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(`
name: twice
chain:
  - delay: "${params.pause}"
  - wait: {event: turn}
  - wait: {event: turn, timeout: 300ms}
    catch: [{set: {outcome: {success: true, data: once}}}]
  - set: {outcome: {success: true, data: "${outcome.data}"}}`)
	require.Zero(t, c.send("turn", "", `0`), "sent before the runs: it is not for them")
	first, second := c.submitWith("twice", `{"pause":0}`), c.submitWith("twice", `{"pause":0}`)
	require.Zero(t, c.send("turn", "", `1`))
	c.work(nil)
	require.Equal(t, `"once"`, text(c.until(first, task.StateSucceeded).Outcome.Data))
	c.until(second, task.StateSucceeded)
	third := c.submitWith("twice", `{"pause":0}`)
	c.until(third, task.StateWaiting)
	c.send("turn", "", `2`)
	require.Eventually(t, func() bool { r := c.get(third); return r.State.Terminal() || r.Wait != nil && r.Wait.Path == "2" }, patience, time.Millisecond)
	c.send("turn", "", `3`)
	require.Equal(t, `3`, text(c.until(third, task.StateSucceeded).Outcome.Data))
}

func TestRetriesOfARunWaitAgain(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(`
name: patient
retry: {attempts: 2, backoff: 1ms}
durable: false
chain:
  - set: {v: 1}
  - wait: {event: go, timeout: 50ms}
    retry: {attempts: 2, backoff: 1ms}`)
	c.work(nil)
	run := c.finished("patient")
	require.Equal(t, task.StateFailed, run.State)
	require.Equal(t, "timed out after 50ms: no event go was sent", run.Reason)
	require.Equal(t, 4, c.count(`SELECT count(*) FROM waits WHERE run = $1`, run.ID), "two attempts of the item in two of the run")

	_, err := c.store.RetryRun(t.Context(), run.ID, "1", "anna")
	require.NoError(t, err)
	c.until(run.ID, task.StateWaiting)
	require.Equal(t, 1, c.send("go", "", `true`))
	require.Equal(t, "true", text(c.until(run.ID, task.StateSucceeded).Outcome.Data))
}

func TestAnotherAttemptHasWhatTheFirstWaitedFor(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(`
name: anew
retry: {attempts: 2, backoff: 1ms}
durable: false
chain:
  - wait: {event: go}
    as: sent
  - wait: {approval: operator}
    as: said
  - set: {n: "${run.attempt > 1 ? vars.sent + 1 : int('x')}"}
  - set: {outcome: {success: true, data: ["${vars.n}", "${vars.said.approved_by}"]}}`)
	c.work(nil)
	id := c.submit("anew")
	c.until(id, task.StateWaiting)
	require.Equal(t, 1, c.send("go", "", `41`))
	require.Eventually(t, func() bool { r := c.get(id); return r.Wait != nil && r.Wait.Kind == task.WaitApproval }, patience, time.Millisecond)
	_, err := c.store.Approve(t.Context(), id, store.Approval{By: "anna", Role: "admin"})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		r := c.get(id)
		return r.State.Terminal() || r.Attempt == 2 && r.State == task.StateWaiting
	}, patience, time.Millisecond)
	run := c.until(id, task.StateSucceeded)
	require.Equal(t, `[42,"anna"]`, text(run.Outcome.Data))
	require.Equal(t, 2, run.Attempt)
}

func TestApprovals(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(`
name: deploy
chain:
  - wait: {approval: operator}
    as: go`)
	c.work(nil)
	id := c.submit("deploy")
	c.until(id, task.StateWaiting)
	_, err := c.store.Approve(t.Context(), id, store.Approval{By: "eve", Role: "viewer"})
	require.Equal(t, task.CodeForbidden, task.CodeOf(err))
	_, err = c.store.Approve(t.Context(), id, store.Approval{By: "anna", Role: "admin", Comment: "go"})
	require.NoError(t, err)
	require.JSONEq(t, `{"approved_by":"anna","comment":"go"}`, text(c.until(id, task.StateSucceeded).Outcome.Data))
	_, err = c.store.Approve(t.Context(), id, store.Approval{By: "bob", Role: "operator"})
	require.ErrorContains(t, err, "was approved by anna at ")
	require.Equal(t, task.CodeConflict, task.CodeOf(err))

	id = c.submit("deploy")
	c.until(id, task.StateWaiting)
	_, err = c.store.Approve(t.Context(), id, store.Approval{By: "bob", Role: "operator", Reject: true, Comment: "not on Fridays"})
	require.NoError(t, err)
	require.Equal(t, "rejected by bob: not on Fridays", c.until(id, task.StateFailed).Reason)
	_, err = c.store.Approve(t.Context(), id, store.Approval{By: "bob", Role: "operator"})
	require.ErrorContains(t, err, "was rejected by bob at ")
}

const families = `
name: child
chain:
  - when: params.bad
    set: {outcome: {success: false, reason: "bad params"}}
  - when: params.bad
    do: [["return"]]
  - set: {outcome: {success: true, data: "${params.n * 2}"}}
---
name: parent
chain:
  - task: child
    with: {n: "${params.n}", bad: "${params.bad}"}
    wait: true
    as: done
  - set: {outcome: {success: true, data: {data: "${vars.done}", run: "${steps.done.run}"}}}
---
name: fan
chain:
  - set: {base: 1000}
  - each: "${1..params.n}"
    spawn: true
    limit: 7
    do:
      - when: item == params.bad
        do: [[outcome, {success: false, reason: "no ${item}"}]]
      - set: {outcome: {success: true, data: "${item + vars.base}"}}
    as: all
  - set: {outcome: {success: true, data: "${sum(vars.all)}"}}
---
name: hasty
chain:
  - each: "${1..params.n}"
    spawn: true
    on_failure: stop
    do:
      - when: item == 3
        do: [[outcome, {success: false, reason: "no ${item}"}]]
      - wait: {event: never}
---
name: grandparent
chain:
  - task: waiting
    wait: true
---
name: waiting
chain:
  - each: "${1..40}"
    spawn: true
    do: [{wait: {event: never}}]
---
name: self
chain:
  - task: "${run.task}"
    wait: true`

func TestAParentEndsWithItsChild(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(families)
	c.work(nil)
	run := c.until(c.submitWith("parent", `{"n":4,"bad":false}`), task.StateSucceeded)
	var data struct {
		Data int
		Run  uuid.UUID
	}
	require.NoError(t, json.Unmarshal(run.Outcome.Data, &data))
	require.Equal(t, 8, data.Data)
	child := c.get(data.Run)
	require.Equal(t, run.ID, *child.Parent)
	require.Equal(t, "0", child.ParentPath)
	run = c.until(c.submitWith("parent", `{"n":4,"bad":true}`), task.StateFailed)
	require.Equal(t, "bad params", run.Reason)
	require.Contains(t, run.Outcome.Extra, "run")
	require.Zero(t, c.count(`SELECT count(*) FROM holds`))

	// What failed is started anew when the parent is retried by hand.
	_, err := c.store.RetryRun(t.Context(), run.ID, "", "anna")
	require.NoError(t, err)
	c.until(run.ID, task.StateFailed)
	require.Equal(t, 2, c.count(`SELECT count(*) FROM runs WHERE parent = $1`, run.ID))
}

// A child that nobody waits for is started once in an attempt of the run,
// whatever happens to its worker, and anew in the next.
func TestARepeatedAttemptStartsItsChildAnew(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(`
name: kid
chain: [nop]`)
	c.apply(`
name: mum
retry: {attempts: 2, backoff: 1ms}
chain:
  - do:
      - task: kid
      - do: [{delay: 100ms}]
      - set: {x: "${int('x')}"}`)
	c.work(nil)
	kids := func() int { return c.count(`SELECT count(*) FROM runs WHERE task = 'kid'`) }
	id := c.submit("mum")
	c.until(id, task.StateFailed)
	require.Equal(t, 2, kids())
	_, err := c.store.RetryRun(t.Context(), id, "0", "ann")
	require.NoError(t, err)
	c.until(id, task.StateFailed)
	require.Equal(t, 4, kids())
}

func TestSpawnedChildren(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(families)
	c.work(nil)
	id, most := c.submitWith("fan", `{"n":600,"bad":0}`), 0
	require.Eventually(t, func() bool {
		most = max(most, c.count(`SELECT count(*) FROM runs WHERE parent = $1 AND state IN ('dispatched', 'running')`, id))
		return c.get(id).State.Terminal()
	}, patience, time.Millisecond)
	require.Positive(t, most)
	require.LessOrEqual(t, most, 7, "the limit holds at every moment")
	run := c.until(id, task.StateSucceeded)
	require.Equal(t, fmt.Sprint(600*601/2+600*1000), text(run.Outcome.Data))
	require.Equal(t, 600, c.count(`SELECT count(*) FROM runs WHERE parent = $1 AND state = 'succeeded'`, run.ID))
	require.Zero(t, c.count(`SELECT count(*) FROM holds`))
	tree, err := c.store.RunTree(t.Context(), run.ID)
	require.NoError(t, err)
	require.Equal(t, map[task.State]int{task.StateSucceeded: 600}, tree.Counts)
	require.Len(t, tree.Children, 20)
	require.Equal(t, 580, tree.More)
	require.Equal(t, 0, *tree.Children[0].Index)

	run = c.until(c.submitWith("fan", `{"n":30,"bad":17}`), task.StateFailed)
	require.Contains(t, run.Reason, "1 of 30 children did not succeed; the first is 16 (run ")
	require.Contains(t, run.Reason, "no 17")
	tree, err = c.store.RunTree(t.Context(), run.ID)
	require.NoError(t, err)
	require.Equal(t, 16, *tree.Children[0].Index, "what failed is shown first")

}

func TestTheFirstFailureStopsTheOtherChildren(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(families)
	c.work(nil)
	id := c.submitWith("hasty", `{"n":200}`)
	run := c.until(id, task.StateFailed)
	require.Contains(t, run.Reason, "200 of 200 children did not succeed; the first is 2 (run ")
	require.Equal(t, 199, c.count(`SELECT count(*) FROM runs WHERE parent = $1 AND state = 'cancelled'`, run.ID))
}

func TestCancellingAParentCancelsTheWholeTree(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(families)
	c.work(nil)
	id := c.submit("grandparent")
	require.Eventually(t, func() bool { return c.count(`SELECT count(*) FROM waits WHERE kind = 'event'`) == 40 }, patience, 5*time.Millisecond)
	run, err := c.store.CancelRun(t.Context(), id, "anna", false)
	require.NoError(t, err)
	require.Equal(t, task.StateCancelled, run.State)
	require.Eventually(t, func() bool { return c.count(`SELECT count(*) FROM runs WHERE finished_at IS NULL`) == 0 }, patience, 5*time.Millisecond)
	require.Eventually(t, func() bool { return c.count(`SELECT count(*) FROM child_cancels`) == 0 }, patience, 5*time.Millisecond)
	require.Zero(t, c.count(`SELECT count(*) FROM holds`)+c.count(`SELECT count(*) FROM waits WHERE outcome IS NULL`))
	require.Equal(t, 42, c.count(`SELECT count(*) FROM runs WHERE state = 'cancelled' AND reason = 'cancelled by anna'`))
}

func TestTasksCannotStartEachOtherForEver(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(families)
	c.work(nil)
	run := c.until(c.submit("self"), task.StateFailed)
	require.Contains(t, run.Reason, "would be started 21 levels deep: at most 20 are possible")
	require.Equal(t, 20, c.count(`SELECT count(*) FROM runs`))
}

func TestADelayOutlivesItsWorker(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply("name: slow\nchain: [{delay: 5200ms}, {set: {outcome: {success: true, data: 1}}}]")
	w := c.work(nil)
	id := c.submit("slow")
	c.until(id, task.StateWaiting)
	w.end()
	c.exec(`UPDATE waits SET until = clock_timestamp() + interval '100 milliseconds'`)
	require.Eventually(t, func() bool { return c.get(id).State == task.StateQueued }, patience, time.Millisecond)
	c.work(nil)
	c.until(id, task.StateSucceeded)
}

func TestATimeLimitOnChildrenCancelsThem(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.apply(strings.Replace(families, "name: grandparent\nchain:\n  - task: waiting", "name: grandparent\nchain:\n  - timeout: 200ms\n    task: waiting", 1))
	c.work(nil)
	run := c.until(c.submit("grandparent"), task.StateFailed)
	require.Equal(t, "timed out after 200ms", run.Reason)
	require.Eventually(t, func() bool { return c.count(`SELECT count(*) FROM runs WHERE finished_at IS NULL`) == 0 }, patience, 5*time.Millisecond)
	require.Zero(t, c.count(`SELECT count(*) FROM holds`))
}
