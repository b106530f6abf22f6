package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/worker"
)

// lines is the log of a run.
func (c *cluster) lines(id uuid.UUID) string {
	c.t.Helper()
	lines, err := c.store.Logs(c.t.Context(), id, 0, 1000)
	require.NoError(c.t, err)
	var all strings.Builder
	for _, l := range lines {
		all.WriteString(l.Message + "\n")
	}
	return all.String()
}

func graces(cancel, kill time.Duration) func(*worker.Config, *worker.Deps, *script.Config) {
	return func(cfg *worker.Config, _ *worker.Deps, _ *script.Config) {
		cfg.CancelGrace, cfg.KillGrace = cancel, kill
	}
}

// Each way in which code takes a cancellation.
func TestCancelGoesInStages(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/slow")
	c.push(`import { http, sleep } from "catena";
		const url = "`+out.URL+`";
		export async function listens(_: any, ctx: any) { await http.get(url + "/listens"); await sleep(3600000, {signal: ctx.signal}) }
		export async function catches(_: any, ctx: any) { await http.get(url + "/catches"); try { await sleep(3600000, {signal: ctx.signal}) } catch (e) { await http.get(url + "/tidied"); return "tidied up" } }
		export async function slow() { await http.get(url + "/slow"); return "done" }
		export async function deaf() { await http.get(url + "/deaf"); while (true) {} }
		export async function waits() { await http.get(url + "/waits"); await new Promise((done) => setTimeout(done, 3600000)) }
		export async function after() { await http.get(url + "/after") }`, out.URL,
		"m?listens", "m?catches", "m?slow", "m?deaf", "m?waits", "m?after")
	for _, tt := range []string{"listens", "catches", "slow", "deaf", "waits"} {
		c.apply("name: " + tt + "\nchain: [{call: 'pkg:m?" + tt + "', retry: {attempts: 3}, catch: [{call: 'pkg:m?after'}]}, {call: 'pkg:m?after'}]\nretry: {attempts: 3}\n")
	}
	c.apply("name: delays\nchain: [{call: 'pkg:m?listens', when: 'false'}, {do: [{delay: 1h}]}, {call: 'pkg:m?after'}]\n")
	c.work(graces(2*time.Second, time.Minute))
	for _, tt := range []struct {
		task        string
		interrupted bool
		steps       int // committed
	}{
		{"listens", false, 0}, {"catches", false, 1}, {"slow", false, 1}, {"deaf", true, 0}, {"waits", true, 0}, {"delays", false, 1},
	} {
		id := c.submit(tt.task)
		if tt.task == "delays" {
			c.until(id, task.StateRunning)
		} else {
			out.await(t, "/"+tt.task)
		}
		_, err := c.store.CancelRun(t.Context(), id, "ann", false)
		require.NoError(t, err)
		if tt.task == "slow" {
			require.Eventually(t, func() bool { return strings.Contains(c.lines(id), "told to end") }, patience, 2*time.Millisecond)
			out.open("/slow")
		}
		run := c.until(id, task.StateCancelled)
		require.Equal(t, "cancelled by ann", run.Reason, tt.task)
		require.Equal(t, tt.interrupted, run.InterruptedAt != nil, tt.task)
		require.Equal(t, 1, run.Attempt)
		require.Nil(t, run.KilledAt)
		good := 0
		for _, s := range run.Steps {
			if s.Outcome.Success {
				good++
			}
		}
		require.Equal(t, tt.steps, good, tt.task)
		if tt.interrupted {
			require.GreaterOrEqual(t, run.InterruptedAt.Sub(*run.CancelAskedAt), 1900*time.Millisecond)
		}
		require.Eventually(t, func() bool {
			log := c.lines(id)
			return strings.Contains(log, "told to end: cancelled") && tt.interrupted == strings.Contains(log, "did not end by itself within 2s: it is interrupted")
		}, patience, 5*time.Millisecond, tt.task)
	}
	require.Zero(t, out.count("/after"), "a step, a retry or a catch began after the cancellation")
	require.Equal(t, 1, out.count("/tidied"))
}

// A long grace is taken away by a second request, and never given by one at once.
func TestCancelNow(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t)
	c.push(imports+`export async function main() { await http.get("`+out.URL+`/began"); while (true) {} }`, out.URL, "m?main")
	c.apply("name: demo\nchain: [{call: 'pkg:m?main'}]\n")
	c.work(graces(time.Hour, time.Minute))
	for _, requests := range [][]bool{{true}, {false, true}} {
		id := c.submit("demo")
		out.await(t, "/began")
		for _, atOnce := range requests {
			_, err := c.store.CancelRun(t.Context(), id, "ann", atOnce)
			require.NoError(t, err)
		}
		run := c.until(id, task.StateCancelled)
		require.NotNil(t, run.InterruptedAt)
		require.NotNil(t, run.CancelAskedAt)
	}
}

// A time limit stops code that does not listen at once, and gives the same grace to code that does.
func TestTimeLimitAndSignal(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.push(`import { sleep } from "catena";
		export async function tidies(_: any, ctx: any) { try { await sleep(3600000, {signal: ctx.signal}) } catch (e: any) { await sleep(50); console.log("tidied: " + e.name); throw e } }
		export async function stays(_: any, ctx: any) { ctx.signal; await new Promise((done) => setTimeout(done, 3600000)) }
		export function deaf() { while (true) {} }`, "", "m?tidies", "m?stays", "m?deaf")
	for _, name := range []string{"tidies", "stays", "deaf"} {
		c.apply("name: " + name + "\nchain: [{call: 'pkg:m?" + name + "', catch: [{log: caught}]}]\ntimeout: 200ms\n")
	}
	c.work(graces(400*time.Millisecond, time.Minute))
	for name, least := range map[string]time.Duration{"tidies": 250 * time.Millisecond, "stays": 600 * time.Millisecond, "deaf": 200 * time.Millisecond} {
		run := c.finished(name)
		require.Equal(t, task.StateTimedOut, run.State, run.Reason)
		require.Equal(t, "timed out after 200ms", run.Reason)
		require.GreaterOrEqual(t, run.FinishedAt.Sub(*run.StartedAt), least-20*time.Millisecond, name)
		require.Equal(t, name != "tidies", run.InterruptedAt != nil, name)
		require.Nil(t, run.CancelAskedAt)
		if name == "tidies" {
			require.Eventually(t, func() bool { return strings.Contains(c.lines(run.ID), "tidied: TimeoutError") }, patience, 5*time.Millisecond)
		}
		require.NotContains(t, c.lines(run.ID), "caught")
	}
}

// A cancelled run whose code ignores even the interrupt ends with its process;
// a neighbour that ends in time is not disturbed.
func TestCancelOfWhatCannotBeInterrupted(t *testing.T) {
	t.Parallel()
	c := start(t)
	out := newOutside(t, "/neighbour")
	c.push(imports+`export async function stuck() { await http.get("`+out.URL+`/stuck"); return /^(?=a)(a+)+\1$/.test("a".repeat(60) + "b") }`+"\n"+
		out.get("neighbour", "/neighbour", "1"), out.URL, "m?stuck", "m?neighbour")
	c.apply("name: stuck\nchain: [{call: 'pkg:m?stuck'}]\nretry: {attempts: 3}\n---\nname: neighbour\nchain: [{call: 'pkg:m?neighbour'}]\n")
	ended := c.process(stuckSettings{Script: time.Hour, Drain: patience, Cancel: 200 * time.Millisecond, Kill: 300 * time.Millisecond})
	neighbour := c.submit("neighbour")
	out.await(t, "/neighbour")
	stuck := c.submit("stuck")
	out.await(t, "/stuck")
	_, err := c.store.CancelRun(t.Context(), stuck, "ann", false)
	require.NoError(t, err)
	run := c.until(stuck, task.StateCancelled)
	require.Equal(t, "cancelled by ann", run.Reason)
	require.NotNil(t, run.InterruptedAt)
	require.NotNil(t, run.KilledAt)
	require.True(t, run.CancelAskedAt.Before(*run.InterruptedAt) && run.InterruptedAt.Before(*run.KilledAt))
	require.Contains(t, c.lines(stuck), "its worker process is replaced")
	out.open("/neighbour") // during the drain
	require.Equal(t, stuckExit, ended())
	run = c.get(neighbour)
	require.Equal(t, task.StateSucceeded, run.State, run.Reason)
	require.Zero(t, run.Losses)
	require.Equal(t, 1, out.count("/neighbour"))
	require.Equal(t, 1, out.count("/stuck"))
}

// A time limit goes the same way, and its next attempt runs elsewhere.
func TestTimeLimitOfWhatCannotBeInterrupted(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.push(`export function main(_: any, ctx: any) { return ctx.run.attempt > 1 || /^(?=a)(a+)+\1$/.test("a".repeat(60) + "b") }`, "", "m?main")
	c.apply("name: demo\nchain: [{call: 'pkg:m?main'}]\ntimeout: 200ms\nretry: {attempts: 2}\n")
	ended := c.process(stuckSettings{Script: time.Hour, Drain: time.Second, Cancel: time.Hour, Kill: 300 * time.Millisecond})
	id := c.submit("demo")
	require.Equal(t, stuckExit, ended())
	c.work(nil)
	run := c.until(id, task.StateSucceeded)
	require.Equal(t, 2, run.Attempt)
	require.NotNil(t, run.KilledAt)
}

func TestGraces(t *testing.T) {
	t.Parallel()
	require.Equal(t, 5*time.Second, worker.Config{}.Normalize().CancelGrace)
	require.Equal(t, 5*time.Second, worker.Config{}.Normalize().KillGrace)
	require.Equal(t, -time.Second, worker.Config{CancelGrace: -time.Second}.Normalize().CancelGrace)
}
