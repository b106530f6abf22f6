package api

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

// applied is the content of task files.
type applied struct {
	definitions []task.Definition
	tasks       []chain.TaskFile
	calendars   []task.NamedCalendar
	sources     []chain.SourceFile
}

const kindSource = "source" // of what an apply has changed

func (a applied) sourceDefinitions() []task.SourceDefinition {
	var list []task.SourceDefinition
	for _, s := range a.sources {
		list = append(list, s.Definition)
	}
	return list
}

// readFiles reads the task files and checks all that can be known before
// anything is written: text, chains, names, calendars, schedules and cycles of calls.
func (s *service) readFiles(ctx context.Context, files []client.File) (applied, error) {
	var tasks []chain.TaskFile
	var sources []chain.SourceFile
	places := make(map[string]string)
	calendars := newCalendarReader(files)
	var problems []error
	for _, file := range files {
		if isICal(file.Name) {
			continue
		}
		read, wrong := chain.CheckFile(file.Name, []byte(file.Content))
		problems = append(problems, wrong...)
		for _, t := range read.Tasks {
			place := fmt.Sprintf("%s:%d", file.Name, t.Line)
			name := t.Definition.Name
			if first, twice := places[name]; twice {
				problems = append(problems, task.Errorf(task.CodeInvalid, "task %s is defined twice, the first time at %s", name, first).At(place).
					Fix("rename one of them, or remove it"))
				continue
			}
			places[name] = place
			tasks = append(tasks, t)
		}
		for _, one := range read.Sources {
			place, name := fmt.Sprintf("%s:%d", file.Name, one.Line), "source "+one.Definition.Name
			if first, twice := places[name]; twice {
				problems = append(problems, task.Errorf(task.CodeInvalid, "%s is defined twice, the first time at %s", name, first).At(place).
					Fix("rename one of them, or remove it"))
				continue
			}
			places[name] = place
			sources = append(sources, one)
		}
		for _, c := range read.Calendars {
			if err := calendars.add(c, fmt.Sprintf("%s:%d", file.Name, c.Line)); err != nil {
				problems = append(problems, err)
			}
		}
	}
	if len(problems) > 0 {
		return applied{}, allOf(problems)
	}
	if len(tasks)+len(calendars.list)+len(sources) == 0 {
		return applied{}, task.Errorf(task.CodeInvalid, "the files hold no task").At("files").Fix("write at least one document with a name and a chain")
	}
	if err := s.checkSchedules(ctx, tasks, calendars); err != nil {
		return applied{}, err
	}
	out := applied{tasks: tasks, calendars: calendars.list, sources: sources}
	for _, t := range tasks {
		out.definitions = append(out.definitions, t.Definition)
	}
	return out, s.checkCycles(ctx, tasks)
}

// maxProblems is how many problems one answer names.
const maxProblems = 20

// allOf makes one error of the problems of files, each with its place and remedy
// on a line of its own.
func allOf(problems []error) error {
	first := coded(problems[0])
	if len(problems) == 1 {
		return first
	}
	lines := []string{first.Message}
	if first.Remedy != "" {
		lines[0] += "; " + first.Remedy
	}
	for _, p := range problems[1:min(len(problems), maxProblems)] {
		lines = append(lines, p.Error())
	}
	if more := len(problems) - maxProblems; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more problems", more))
	}
	return task.Errorf(first.Code, "%s", strings.Join(lines, "\n")).At(first.Where)
}

// checkSchedules reads the schedules with the calendars that they exclude, be they of
// the same files or there already.
func (s *service) checkSchedules(ctx context.Context, tasks []chain.TaskFile, calendars *calendarReader) error {
	var names []string
	for _, t := range tasks {
		for _, schedule := range t.Definition.Schedule {
			names = append(names, schedule.Exclude...)
		}
	}
	texts, err := s.deps.Tasks.CalendarDays(ctx, names)
	if err != nil {
		return err
	}
	lookup := calendars.over(scheduler.LookupIn(texts))
	now := time.Now()
	var problems []error
	for _, t := range tasks {
		for i, schedule := range t.Definition.Schedule {
			spec, err := scheduler.ParseWith(schedule, lookup)
			if err == nil {
				err = spec.Check(now)
			}
			if err != nil {
				problems = append(problems, t.Locate(inField(fmt.Sprintf("schedule[%d]", i), err)))
			}
		}
	}
	if len(problems) > 0 {
		return allOf(problems)
	}
	return nil
}

// inField puts the place of an error below a field.
func inField(field string, err error) error {
	e := coded(err)
	if e.Where != "" {
		field += "." + e.Where
	}
	return e.At(field)
}

// checkCycles refuses tasks that would start each other for ever. It follows
// the calls that are known from the text, through tasks of the catalogue too.
func (s *service) checkCycles(ctx context.Context, tasks []chain.TaskFile) error {
	documents, given := make(map[string]*chain.Document), make(map[string]*chain.Document, len(tasks))
	var called []string
	for _, t := range tasks {
		documents[t.Definition.Name], given[t.Definition.Name] = t.Document, t.Document
		called = append(called, t.Document.Tasks()...)
	}
	for len(called) > 0 {
		name := called[len(called)-1]
		called = called[:len(called)-1]
		if _, known := documents[name]; known {
			continue
		}
		document, err := s.document(ctx, name)
		if err != nil {
			return err
		}
		documents[name] = document
		if document != nil {
			called = append(called, document.Tasks()...)
		}
	}
	for name, document := range documents {
		if document == nil {
			delete(documents, name)
		}
	}
	for _, cycle := range chain.Cycles(documents) {
		return task.Errorf(task.CodeInvalid, "these tasks start each other for ever: %s", strings.Join(append(cycle, cycle[0]), " -> ")).
			At(placeOf(cycle, given)).Fix("remove one of the calls")
	}
	return nil
}

// placeOf returns the place of the first call of a cycle that stands in the files.
func placeOf(cycle []string, given map[string]*chain.Document) string {
	for i, name := range cycle {
		if document := given[name]; document != nil {
			return document.StartsAt(cycle[(i+1)%len(cycle)])
		}
	}
	return ""
}

// document returns the chain of a task of the catalogue; nil when there is no
// such task yet, or its chain is broken, which shows when it is run.
func (s *service) document(ctx context.Context, name string) (*chain.Document, error) {
	found, err := s.deps.Tasks.Task(ctx, name)
	if task.CodeOf(err) == task.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	document, err := chain.Parse(name, found.Chain)
	if err != nil {
		return nil, nil
	}
	return document, nil
}
