// Package history judges what a cluster did: it compares the client's own list
// of accepted runs and a recorder outside the system with what the cluster says.
//
// It asks nobody and decides nothing about what to test; it only compares.
package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/catena-run/catena/task"
)

// Accepted is a run that the client was promised.
type Accepted struct {
	ID      uuid.UUID
	Task    string
	States  []task.State // how it may end
	Attempt int          // the attempt it ends with; 0: any
	Marks   int          // steps, or items of steps, that a success executes
	// Closed is when the client knew that the run had ended; zero: it did not ask.
	Closed time.Time
}

// Execution is a step that package code told the recorder of.
type Execution struct {
	Run     uuid.UUID
	Step    int
	Item    string // of an each; "": none
	Attempt int
	Began   time.Time
	Serial  int64     // the recorder's answer, in the order in which it was told
	Source  string    // the scheduled task; "": the run was not scheduled
	Due     time.Time // the due time that fired the run
}

// Record is all that is known of a test.
type Record struct {
	Accepted   []Accepted
	Executions []Execution
	Runs       []task.Run
	Fires      []task.Fire
	Every      time.Duration // the period of all schedules
	Sources    map[string]Source
	Commits    []Commit
	Failures   []Request // of the shared server
	Windows    []Window
	Losses     []time.Time   // when workers were killed or cut off
	Recovery   time.Duration // from a loss to running again, for 99 of 100; 0: not judged
}

// Source is what is expected of a scheduled task that is not the usual one, whose
// runs succeed, each for its due time, and may be under way side by side.
type Source struct {
	Schedules int          // of the task, all with the same due times; 0: one
	States    []task.State // how its runs may end; none: succeeded
	Exclusive bool         // its schedules have no two runs under way at once
}

// Check returns what is wrong, one sentence each.
func (r Record) Check() []string {
	c := &checker{record: r, runs: map[uuid.UUID]task.Run{}, executions: map[uuid.UUID][]Execution{}}
	for _, e := range r.Executions {
		c.executions[e.Run] = append(c.executions[e.Run], e)
	}
	c.checkListing()
	c.checkAccepted()
	for id, list := range c.executions {
		c.checkExecutions(id, list)
	}
	c.checkFires()
	c.checkSources()
	c.checkCommits()
	c.checkRequests()
	c.checkRecovery()
	slices.Sort(c.problems)
	return c.problems
}

type checker struct {
	record     Record
	runs       map[uuid.UUID]task.Run
	executions map[uuid.UUID][]Execution
	problems   []string
}

func (c *checker) report(p Promise, format string, args ...any) {
	c.problems = append(c.problems, string(p)+": "+fmt.Sprintf(format, args...))
}

// checkListing finds runs that are there twice or that nobody asked for.
func (c *checker) checkListing() {
	wanted := map[uuid.UUID]bool{}
	for _, a := range c.record.Accepted {
		if wanted[a.ID] {
			c.report(P1, "run %s was accepted twice, for two different requests", a.ID)
		}
		wanted[a.ID] = true
	}
	for _, f := range c.record.Fires {
		if f.Run != nil {
			wanted[*f.Run] = true
		}
	}
	for _, run := range c.record.Runs {
		if _, twice := c.runs[run.ID]; twice {
			c.report(P1, "run %s is listed twice", run.ID)
		}
		c.runs[run.ID] = run
		if !wanted[run.ID] {
			c.report(P1, "run %s of %s is there though nobody asked for it", run.ID, run.Task)
		}
	}
}

func (c *checker) checkAccepted() {
	for _, a := range c.record.Accepted {
		run, there := c.runs[a.ID]
		if !there {
			c.report(P1, "run %s of %s was accepted and is lost", a.ID, a.Task)
			continue
		}
		if !slices.Contains(a.States, run.State) {
			c.report(promiseOf(a, run), "run %s of %s is %s (%s), want one of %v", a.ID, a.Task, run.State, run.Reason, a.States)
			continue
		}
		if run.State != task.StateSucceeded {
			c.checkClosed(a)
			continue
		}
		if a.Attempt != 0 && run.Attempt != a.Attempt {
			c.report(P4, "run %s of %s (%d losses) succeeded at attempt %d, want %d", a.ID, a.Task, run.Losses, run.Attempt, a.Attempt)
		}
		if got := marks(c.executions[a.ID]); got != a.Marks {
			c.report(P1, "run %s of %s succeeded and executed %d of %d steps", a.ID, a.Task, got, a.Marks)
		}
		c.checkClosed(a)
	}
}

// checkClosed finds what began after the client knew that the run had ended.
func (c *checker) checkClosed(a Accepted) {
	for _, e := range c.executions[a.ID] {
		if !a.Closed.IsZero() && e.Began.After(a.Closed) {
			c.report(P7, "run %s of %s: step %d began %v after it was known to have ended", a.ID, a.Task, e.Step, e.Began.Sub(a.Closed))
		}
	}
}

// marks counts the distinct steps and items.
func marks(list []Execution) int {
	seen := map[string]bool{}
	for _, e := range list {
		seen[fmt.Sprint(e.Step, "/", e.Item)] = true
	}
	return len(seen)
}

// checkExecutions finds steps that ran too often or too late.
func (c *checker) checkExecutions(id uuid.UUID, list []Execution) {
	run, there := c.runs[id]
	if !there {
		c.report(P1, "run %s was executed and is not listed", id)
		return
	}
	type place struct {
		step, attempt int
		item          string
	}
	times := map[place]int{}
	next := map[int]time.Time{} // when a step first began
	for _, e := range list {
		times[place{e.Step, e.Attempt, e.Item}]++
		if first, known := next[e.Step]; !known || e.Began.Before(first) {
			next[e.Step] = e.Began
		}
		if run.FinishedAt != nil && e.Began.After(*run.FinishedAt) {
			c.report(P6, "run %s of %s: step %d began %v after the run's end", id, run.Task, e.Step, e.Began.Sub(*run.FinishedAt))
		}
	}
	for p, n := range times {
		if n > 1+run.Losses {
			c.report(P5, "run %s of %s: step %d%s ran %d times in attempt %d with %d losses", id, run.Task, p.step, p.item, n, p.attempt, run.Losses)
		}
	}
	for _, e := range list {
		if later, known := next[e.Step+1]; known && e.Began.After(later) {
			c.report(P5, "run %s of %s: step %d%s ran again %v after step %d had begun", id, run.Task, e.Step, e.Item, e.Began.Sub(later), e.Step+1)
		}
	}
}

// checkFires wants every due time from the first to the last covered once, and
// a run for each that started one.
func (c *checker) checkFires() {
	schedules := map[int64][]task.Fire{}
	made := map[uuid.UUID]bool{}
	for _, f := range c.record.Fires {
		schedules[f.Schedule] = append(schedules[f.Schedule], f)
		if f.Run != nil {
			made[*f.Run] = true
			c.checkFired(f)
		}
	}
	for _, run := range c.record.Runs {
		if run.Schedule != nil && !made[run.ID] {
			c.report(P2, "run %s of %s was fired by no due time", run.ID, run.Task)
		}
	}
	for id, fires := range schedules {
		slices.SortFunc(fires, func(a, b task.Fire) int { return cmp.Or(a.DueAt.Compare(b.DueAt), a.LastDueAt.Compare(b.LastDueAt)) })
		for i, f := range fires {
			if want := f.DueAt.Add(time.Duration(f.Count-1) * c.record.Every); !f.LastDueAt.Equal(want) {
				c.report(P3, "schedule %d: %d due times from %s end at %s", id, f.Count, stamp(f.DueAt), stamp(f.LastDueAt))
			}
			if i == 0 {
				continue
			}
			switch gap := f.DueAt.Sub(fires[i-1].LastDueAt); {
			case gap > c.record.Every:
				c.report(P3, "schedule %d: nothing covers the due times between %s and %s", id, stamp(fires[i-1].LastDueAt), stamp(f.DueAt))
			case gap < c.record.Every:
				c.report(P2, "schedule %d: the due time %s is covered twice", id, stamp(f.DueAt))
			}
		}
	}
}

func (c *checker) checkFired(f task.Fire) {
	run, there := c.runs[*f.Run]
	switch {
	case !there:
		c.report(P1, "schedule %d: run %s of due time %s is lost", f.Schedule, f.Run, stamp(f.DueAt))
	case !c.endedAsFired(run):
		c.report(P1, "schedule %d: run %s is %s (%s) at attempt %d", f.Schedule, f.Run, run.State, run.Reason, run.Attempt)
	case run.DueAt == nil || !run.DueAt.Equal(f.DueAt):
		c.report(P2, "schedule %d: run %s is not of due time %s", f.Schedule, f.Run, stamp(f.DueAt))
	case run.State == task.StateSucceeded && len(c.executions[run.ID]) == 0:
		c.report(P1, "schedule %d: run %s succeeded and was never executed", f.Schedule, f.Run)
	}
}

func stamp(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// Recovered is a step that a loss (the death or suspension of a worker)
// interrupted and that began again.
type Recovered struct {
	Run  uuid.UUID
	Step int
	Lost time.Time
	Took time.Duration
}

// Recoveries returns them, the slowest last.
func Recoveries(executions []Execution, losses []time.Time) []Recovered {
	type place struct {
		run     uuid.UUID
		step    int
		item    string
		attempt int
	}
	began := map[place][]time.Time{}
	for _, e := range executions {
		p := place{e.Run, e.Step, e.Item, e.Attempt}
		began[p] = append(began[p], e.Began)
	}
	losses = slices.SortedFunc(slices.Values(losses), time.Time.Compare)
	var all []Recovered
	for p, times := range began {
		slices.SortFunc(times, time.Time.Compare)
		for i := 1; i < len(times); i++ {
			n, _ := slices.BinarySearchFunc(losses, times[i-1], time.Time.Compare)
			if n < len(losses) && losses[n].Before(times[i]) {
				all = append(all, Recovered{Run: p.run, Step: p.step, Lost: losses[n], Took: times[i].Sub(losses[n])})
			}
		}
	}
	slices.SortFunc(all, func(a, b Recovered) int { return cmp.Compare(a.Took, b.Took) })
	return all
}

// Times returns how long each took.
func Times(list []Recovered) (took []time.Duration) {
	for _, r := range list {
		took = append(took, r.Took)
	}
	return took
}

// Percentile returns the value that the given part (0 to 1) of the sorted
// durations does not exceed, 0 when there are none.
func Percentile(sorted []time.Duration, part float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	n := int(math.Ceil(part * float64(len(sorted))))
	return sorted[min(max(n, 1), len(sorted))-1]
}
