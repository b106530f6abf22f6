package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// Input says what to check.
type Input struct {
	Files   []client.File     // task files
	Folders *pkgstore.Folders // packages; nil: none
	Cluster Cluster           // nil: not connected
	Clock   Clock
	Slots   int // of all workers, where no cluster tells; 0: not known
}

// Report is what a check found.
type Report struct {
	Checks   []client.Check       `json:"checks,omitempty"` // of the cluster
	Files    int                  `json:"files"`
	Tasks    int                  `json:"tasks"`   // that were checked
	Sources  int                  `json:"sources"` // of the files
	Findings []task.Finding       `json:"findings"`
	Packages []chain.PackageFacts `json:"packages"` // that the tasks call, with what they are permitted
	Forecast *Forecast            `json:"forecast,omitempty"`
}

// Problems reports whether something cannot work.
func (r *Report) Problems() bool {
	return slices.ContainsFunc(r.Findings, func(f task.Finding) bool { return f.Severity == task.SeverityError }) ||
		slices.ContainsFunc(r.Checks, func(c client.Check) bool { return !c.OK })
}

// Run checks what it is given and simulates the schedules. An error means that
// the cluster cannot be reached or that the clock makes no sense; what is wrong
// with the rest is in the report.
func Run(ctx context.Context, in Input) (*Report, error) {
	c := &checking{in: in, out: &Report{Files: len(in.Files), Findings: []task.Finding{}}, documents: map[string]*chain.Document{}}
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	c.readFiles()
	c.readStored()
	c.cycles()
	if err := c.names(ctx); err != nil {
		return nil, err
	}
	if err := c.simulate(ctx); err != nil {
		return nil, err
	}
	return c.out, nil
}

// checking is one Run.
type checking struct {
	in        Input
	out       *Report
	stored    []task.Task // of the cluster
	calendars *calendars
	documents map[string]*chain.Document // of all tasks
	subjects  []subject
	sources   []chain.SourceFile
}

// subject is a task that is checked.
type subject struct {
	task.Task
	document *chain.Document
	at       func(field string) string
}

func (c *checking) connect(ctx context.Context) (err error) {
	if c.in.Cluster == nil {
		c.calendars = newCalendars(c.in.Files, nil, true)
		return nil
	}
	if c.out.Checks, err = c.in.Cluster.Health(ctx); err != nil {
		return err
	}
	for _, check := range c.out.Checks { // without Postgres or with another schema the rest cannot be read
		if (check.Name == "postgres" || check.Name == "schema") && !check.OK {
			return task.Errorf(task.CodeUnavailable, "%s", check.Detail).Fix("%s", check.Remedy)
		}
	}
	if c.stored, err = c.in.Cluster.Tasks(ctx); err != nil {
		return err
	}
	known, err := c.in.Cluster.Calendars(ctx)
	c.calendars = newCalendars(c.in.Files, known, false)
	return err
}

func (c *checking) add(f task.Finding) { c.out.Findings = append(c.out.Findings, f) }

// found makes a finding of an error.
func found(err error, where string) task.Finding {
	f := task.Finding{Severity: task.SeverityError, Where: where, Message: err.Error()}
	var coded *task.Error
	if errors.As(err, &coded) {
		f.Message, f.Remedy = coded.Message, coded.Remedy
		if coded.Where != "" && where != "" {
			f.Where = where + ": " + coded.Where
		} else if coded.Where != "" {
			f.Where = coded.Where
		}
	}
	return f
}

// readFiles reads every task of every file, with all problems.
func (c *checking) readFiles() {
	places := map[string]string{}
	for _, file := range c.in.Files {
		if isICal(file.Name) {
			c.out.Files--
			continue
		}
		read, problems := chain.CheckFile(file.Name, []byte(file.Content))
		for _, calendar := range read.Calendars {
			if err := c.calendars.add(calendar); err != nil {
				problems = append(problems, err)
			}
		}
		for _, p := range problems {
			c.add(found(p, ""))
		}
		for _, one := range read.Sources {
			name, place := "source "+one.Definition.Name, one.At("source")
			if first, twice := places[name]; twice {
				c.add(found(task.Errorf(task.CodeInvalid, "%s is defined twice, the first time at %s", name, first).At(place).Fix("rename or remove one of them"), ""))
				continue
			}
			places[name] = place
			c.sources = append(c.sources, one)
		}
		for _, t := range read.Tasks {
			name, place := t.Definition.Name, t.At("name")
			if first, twice := places[name]; twice {
				c.add(found(task.Errorf(task.CodeInvalid, "task %s is defined twice, the first time at %s", name, first).At(place).Fix("rename or remove one of them"), ""))
				continue
			}
			places[name] = place
			c.subjects = append(c.subjects, subject{Task: task.Task{Definition: t.Definition}, document: t.Document, at: t.At})
			c.documents[name] = t.Document
		}
	}
}

// readStored parses the chains of the cluster's tasks, which are subjects where
// no file was given.
func (c *checking) readStored() {
	for _, t := range c.stored {
		if _, replaced := c.documents[t.Name]; replaced {
			continue
		}
		document, err := chain.Parse("task "+t.Name, t.Chain)
		if err == nil {
			c.documents[t.Name] = document
		}
		if len(c.in.Files) > 0 {
			continue
		}
		if err != nil {
			c.add(found(err, ""))
		} else if t.Invalid != "" {
			c.add(task.Finding{Severity: task.SeverityError, Task: t.Name, Where: "task " + t.Name, Message: t.Invalid})
		}
		where := "task " + t.Name + ": "
		c.subjects = append(c.subjects, subject{Task: t, document: document, at: func(field string) string { return where + field }})
	}
}

func (c *checking) cycles() {
	places := map[string]string{}
	for _, s := range c.subjects {
		places[s.Name] = s.at("chain")
	}
	for _, cycle := range chain.Cycles(c.documents) {
		for _, name := range cycle {
			if places[name] == "" {
				continue
			}
			message := "these tasks start each other for ever: " + strings.Join(append(slices.Clone(cycle), cycle[0]), " -> ")
			c.add(task.Finding{Severity: task.SeverityError, Task: name, Where: places[name], Message: message, Remedy: "remove one of the calls"})
			break
		}
	}
}

// names checks schedules, names in expressions, and what the chains call.
func (c *checking) names(ctx context.Context) error {
	known := &catalogue{folders: c.in.Folders, cluster: c.in.Cluster, tasks: map[string]bool{}, known: map[string]*chain.PackageFacts{}}
	for _, t := range c.stored {
		known.tasks[t.Name] = true
	}
	for _, s := range c.subjects {
		known.tasks[s.Name] = true
	}
	for _, s := range c.subjects {
		c.out.Tasks++
		c.schedules(s)
		if s.document == nil {
			continue
		}
		findings, err := s.document.Resolve(ctx, known)
		if err != nil {
			return err
		}
		for _, f := range append(s.document.Warnings(s.Params), findings...) {
			f.Task = s.Name
			c.add(f)
		}
	}
	for _, one := range c.sources {
		c.out.Sources++
		findings, err := one.Resolve(ctx, known)
		if err != nil {
			return err
		}
		for _, f := range findings {
			c.add(f)
		}
	}
	if c.in.Folders != nil { // also those that no task calls
		for _, name := range c.in.Folders.Names() {
			if _, err := known.Package(ctx, name); err != nil {
				return err
			}
		}
	}
	c.out.Findings = append(c.out.Findings, known.broken...)
	c.out.Packages = known.called()
	return nil
}

func (c *checking) schedules(s subject) {
	for i, schedule := range s.Schedule {
		field := fmt.Sprintf("schedule[%d]", i)
		for _, name := range c.calendars.missing(schedule.Exclude) {
			if c.calendars.open {
				f := task.Warn(s.at(field+".exclude"), "calendar "+name+" is not in the files: its days are not known here", "add its file, or compare with a cluster by --connect")
				f.Task = s.Name
				c.add(f)
			}
		}
		spec, err := c.calendars.parse(schedule)
		if err == nil {
			err = spec.Check(c.in.Clock.From)
		}
		if err != nil {
			f := found(err, "")
			if f.Where != "" {
				field += "." + f.Where
			}
			f.Task, f.Where = s.Name, s.at(field)
			c.add(f)
		}
	}
}

// simulate plays all tasks: those of the files in place of the cluster's.
func (c *checking) simulate(ctx context.Context) error {
	tasks := make([]task.Task, 0, len(c.subjects)+len(c.stored))
	queues, mine := map[string]bool{}, map[string]bool{}
	for _, s := range c.subjects {
		tasks = append(tasks, s.Task)
		mine[s.Name] = true
	}
	for _, t := range c.stored {
		if !mine[t.Name] {
			tasks = append(tasks, t)
		}
	}
	scheduled := false
	for _, t := range tasks {
		queues[t.Normalize().Queue] = true
		scheduled = scheduled || len(t.Schedule) > 0
	}
	if !scheduled {
		return nil
	}
	clock := c.in.Clock
	clock.Parse = c.calendars.parse
	if err := c.measure(ctx, &clock, slices.Sorted(maps.Keys(queues))); err != nil {
		return err
	}
	forecast, err := Simulate(tasks, clock)
	if err != nil {
		return err
	}
	c.out.Forecast = forecast
	c.judge(forecast, mine)
	return nil
}

// measure takes durations and slots from the cluster.
func (c *checking) measure(ctx context.Context, clock *Clock, queues []string) error {
	if c.in.Cluster == nil {
		clock.Slots = map[string]int{}
		for _, q := range queues {
			clock.Slots[q] = c.in.Slots
		}
		return nil
	}
	costs, err := c.in.Cluster.Costs(ctx)
	if err != nil {
		return err
	}
	clock.Measured = make(map[string]time.Duration, len(costs))
	for _, cost := range costs {
		clock.Measured[cost.Task] = time.Duration(cost.Micros * float64(time.Microsecond))
	}
	workers, err := c.in.Cluster.Workers(ctx)
	clock.Slots = slotsOf(workers, queues)
	return err
}

// judge warns of what the simulation shows.
func (c *checking) judge(f *Forecast, mine map[string]bool) {
	for _, t := range f.Tasks {
		for _, s := range t.Schedules {
			if mine[t.Task] && s.Never != "" && len(s.Next) == 0 && s.Means != "" {
				c.add(task.Finding{Severity: task.SeverityWarning, Task: t.Task, Where: "task " + t.Task, Message: "schedule " + s.Text + " never fires: " + s.Never, Remedy: "remove it, or correct its time"})
			}
		}
		if mine[t.Task] && t.Flow.Overruns > 0 {
			c.add(task.Finding{Severity: task.SeverityWarning, Task: t.Task, Where: "task " + t.Task,
				Message: fmt.Sprintf("%d of %d due times find the buffer full, when a run takes %v", t.Flow.Overruns, t.Flow.Fires, t.Duration),
				Remedy:  "let it fire less often, or allow runs beside each other"})
		}
	}
	for _, q := range f.Queues {
		if q.Slots > 0 && q.Most.Count > int64(q.Slots) {
			c.add(task.Finding{Severity: task.SeverityWarning, Where: "queue " + q.Queue,
				Message: fmt.Sprintf("%d runs are due to run at once at %s, but its workers have %d slots: runs will wait", q.Most.Count, q.Most.At.Format(time.RFC3339), q.Slots),
				Remedy:  "add workers or slots, or spread the schedules"})
		}
	}
}
