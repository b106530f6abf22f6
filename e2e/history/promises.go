package history

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/catena-run/catena/task"
)

// Promise is what a problem breaks.
type Promise string

// The promises.
const (
	P1 Promise = "P1" // no accepted run is lost or doubled
	P2 Promise = "P2" // one fire for each due time
	P3 Promise = "P3" // every due time is accounted for
	P4 Promise = "P4" // what lost its worker runs again in time, without burning a retry
	P5 Promise = "P5" // an acknowledged step never runs again
	P6 Promise = "P6" // a stale worker writes nothing
	P7 Promise = "P7" // what was cancelled stays cancelled
	P8 Promise = "P8" // a planned restart refuses and breaks no request
)

// Promises lists them with their words.
func Promises() []struct {
	Promise Promise
	Text    string
} {
	return []struct {
		Promise Promise
		Text    string
	}{
		{P1, "no accepted run is lost or doubled"},
		{P2, "one fire for each due time"},
		{P3, "every due time is accounted for"},
		{P4, "what lost its worker runs again within 10 s (p99), no retry burnt"},
		{P5, "an acknowledged step never runs again"},
		{P6, "a stale worker writes nothing"},
		{P7, "what was cancelled stays cancelled"},
		{P8, "no request is refused or broken but by a crash"},
	}
}

// Broken counts the problems of a promise.
func Broken(problems []string, p Promise) (n int) {
	for _, text := range problems {
		if strings.HasPrefix(text, string(p)+": ") {
			n++
		}
	}
	return n
}

// promiseOf says what a run in the wrong state breaks.
func promiseOf(a Accepted, run task.Run) Promise {
	if slices.Equal(a.States, []task.State{task.StateCancelled}) && run.State != task.StateCancelled {
		return P7
	}
	return P1
}

// endedAsFired tells whether a scheduled run ended as those of its task may.
func (c *checker) endedAsFired(run task.Run) bool {
	states := c.record.Sources[run.Task].States
	if len(states) == 0 {
		states = []task.State{task.StateSucceeded}
	}
	return slices.Contains(states, run.State) && run.Attempt == 1
}

// checkSources judges schedules by what the recorder was told alone: how many
// runs a due time got, and whether runs that exclude each other overlapped.
func (c *checker) checkSources() {
	type firing struct {
		source string
		due    time.Time
	}
	fired := map[firing]map[uuid.UUID]bool{}
	for id, list := range c.executions {
		if e := list[0]; e.Source != "" {
			key := firing{e.Source, e.Due.UTC()}
			if fired[key] == nil {
				fired[key] = map[uuid.UUID]bool{}
			}
			fired[key][id] = true
		}
	}
	for key, runs := range fired {
		if most := max(c.record.Sources[key.source].Schedules, 1); len(runs) > most {
			c.report(P2, "the recorder saw %d runs of %s for the due time %s, want at most %d", len(runs), key.source, stamp(key.due), most)
		}
	}
	exclusive := map[int64][]Span{}
	for id, list := range c.executions {
		if run := c.runs[id]; run.Schedule != nil && c.record.Sources[run.Task].Exclusive {
			exclusive[*run.Schedule] = append(exclusive[*run.Schedule], seen(id, list))
		}
	}
	for schedule, spans := range exclusive {
		slices.SortFunc(spans, func(a, b Span) int { return a.Begin.Compare(b.Begin) })
		for i := 1; i < len(spans); i++ {
			if before := spans[i-1]; before.End.After(spans[i].Begin) {
				c.report(P2, "schedule %d: run %s was under way until %s, run %s began at %s", schedule, before.Run, stamp(before.End), spans[i].Run, stamp(spans[i].Begin))
			}
		}
	}
}

// seen is the time from the first to the last step that began.
func seen(id uuid.UUID, list []Execution) Span {
	s := Span{Run: id, Begin: list[0].Began, End: list[0].Began}
	for _, e := range list {
		if e.Began.Before(s.Begin) {
			s.Begin = e.Began
		}
		if e.Began.After(s.End) {
			s.End = e.Began
		}
	}
	return s
}

// Commit is an outcome that the cluster holds for a run, told apart by the
// serial number that the recorder gave to the execution that made it.
type Commit struct {
	Run    uuid.UUID
	Serial int64
}

// Marks finds the serial numbers in the outcomes of steps: numbers under "mark",
// at any depth.
func Marks(outcome json.RawMessage) (serials []int64) {
	var value any
	if json.Unmarshal(outcome, &value) != nil {
		return nil
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, one := range v {
				walk(one)
			}
		case map[string]any:
			for key, one := range v {
				if n, isNumber := one.(float64); isNumber && key == "mark" {
					serials = append(serials, int64(n))
					continue
				}
				walk(one)
			}
		}
	}
	walk(value)
	return serials
}

// checkCommits wants each outcome to be of the execution of its step that began
// last: the others were those of workers that had been given up. One of these may have been
// suspended before it told the recorder, so their order is not that of the serials.
func (c *checker) checkCommits() {
	type place struct {
		run     uuid.UUID
		step    int
		item    string
		attempt int
	}
	newest, known := map[place]Execution{}, map[int64]Execution{}
	for _, e := range c.record.Executions {
		p := place{e.Run, e.Step, e.Item, e.Attempt}
		if e.Began.After(newest[p].Began) {
			newest[p] = e
		}
		known[e.Serial] = e
	}
	for _, commit := range c.record.Commits {
		e, there := known[commit.Serial]
		if !there || e.Run != commit.Run {
			c.report(P6, "run %s holds an outcome that the recorder knows of no execution of it (%d)", commit.Run, commit.Serial)
			continue
		}
		if latest := newest[place{e.Run, e.Step, e.Item, e.Attempt}]; latest.Began.After(e.Began) {
			c.report(P6, "run %s: the outcome of step %d%s is of execution %d, which execution %d had replaced", e.Run, e.Step, e.Item, commit.Serial, latest.Serial)
		}
	}
}

// checkRecovery wants what was interrupted to go on in time.
func (c *checker) checkRecovery() {
	if c.record.Recovery == 0 {
		return
	}
	all := c.record.Timed()
	p99 := Percentile(Times(all), 0.99)
	if p99 < c.record.Recovery {
		return
	}
	slowest, during := all[len(all)-1], "no fault"
	for _, w := range c.record.Windows {
		if !slowest.Lost.Before(w.From) && !slowest.Lost.After(w.To) {
			during = w.Fault
		}
	}
	c.report(P4, "%d interrupted steps began again after %v (p99), want less than %v; the slowest: step %d of run %s, lost at %s during %s, after %v",
		len(all), p99, c.record.Recovery, slowest.Step, slowest.Run, stamp(slowest.Lost), during, slowest.Took)
}

// Timed returns the steps that began again after a loss, but for those that had
// to wait for Postgres or Redis: their times say nothing.
func (r Record) Timed() []Recovered {
	return slices.DeleteFunc(Recoveries(r.Executions, r.Losses), func(one Recovered) bool {
		return slices.ContainsFunc(r.Windows, func(w Window) bool {
			return w.Outage && !w.To.Before(one.Lost) && !w.From.After(one.Lost.Add(one.Took))
		})
	})
}

// Request is one to the shared server that failed.
type Request struct {
	Began, Ended time.Time
	Server       string
	Refused      bool // no connection came about
	Error        string
}

// Harm is what a fault may do to requests.
type Harm int

// The harms, each including those before it.
const (
	HarmNone    Harm = iota // planned restarts, and faults of servers behind
	HarmBreaks              // a process that serves dies or stops: what it had accepted may break
	HarmRefuses             // the process that listens dies
)

// Window is a time in which requests may come to harm.
type Window struct {
	From, To time.Time
	Harm     Harm
	Outage   bool // of Postgres or Redis, for longer than a moment
	Fault    string
}

// checkRequests wants each failure to be excused by a crash at the time.
func (c *checker) checkRequests() {
	for _, r := range c.record.Failures {
		least := HarmBreaks
		if r.Refused {
			least = HarmRefuses
		}
		excused, during := false, "no fault"
		for _, w := range c.record.Windows {
			if r.Ended.Before(w.From) || r.Began.After(w.To) {
				continue
			}
			during = w.Fault
			excused = excused || w.Harm >= least
		}
		if !excused {
			c.report(P8, "a request to %s at %s failed during %s: %s", r.Server, stamp(r.Began), during, r.Error)
		}
	}
}
