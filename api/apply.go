package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

// readTasks reads the task files and checks all that can be known before
// anything is written: text, chains, names, schedules and cycles of calls.
func (s *service) readTasks(ctx context.Context, files []client.File) ([]task.Definition, error) {
	var definitions []task.Definition
	places := make(map[string]string)
	for _, file := range files {
		read, err := chain.ParseTasks(file.Name, []byte(file.Content))
		if err != nil {
			return nil, err
		}
		for _, t := range read {
			place := fmt.Sprintf("%s:%d", file.Name, t.Line)
			name := t.Definition.Name
			if first, twice := places[name]; twice {
				return nil, task.Errorf(task.CodeInvalid, "task %s is defined twice, the first time at %s", name, first).At(place).
					Fix("rename one of them, or remove it")
			}
			places[name] = place
			if err := checkSchedules(place, t.Definition.Schedule); err != nil {
				return nil, err
			}
			definitions = append(definitions, t.Definition)
		}
	}
	if len(definitions) == 0 {
		return nil, task.Errorf(task.CodeInvalid, "the files hold no task").At("files").Fix("write at least one document with a name and a chain")
	}
	return definitions, s.checkCycles(ctx, definitions, places)
}

func checkSchedules(place string, schedules []task.Schedule) error {
	for i, schedule := range schedules {
		if _, err := scheduler.Parse(schedule); err != nil {
			e := coded(err)
			field := fmt.Sprintf("schedule[%d]", i)
			if e.Where != "" {
				field += "." + e.Where
			}
			failure := task.Errorf(e.Code, "%s: %s", field, e.Message).At(place)
			failure.Remedy = e.Remedy
			return failure
		}
	}
	return nil
}

// checkCycles refuses tasks that would start each other for ever. It follows
// the calls that are known from the text, through tasks of the catalogue too.
func (s *service) checkCycles(ctx context.Context, definitions []task.Definition, places map[string]string) error {
	documents := make(map[string]*chain.Document, len(definitions))
	var called []string
	for _, d := range definitions {
		document, err := chain.Parse(places[d.Name], d.Chain)
		if err != nil {
			return err
		}
		documents[d.Name] = document
		called = append(called, document.Tasks()...)
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
			At(places[firstKnown(cycle, places)]).Fix("remove one of the calls")
	}
	return nil
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

func firstKnown(names []string, places map[string]string) string {
	for _, name := range names {
		if places[name] != "" {
			return name
		}
	}
	return ""
}
