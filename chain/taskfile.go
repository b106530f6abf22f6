package chain

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/catena-run/catena/task"
)

// TaskFile is one task of a task file.
type TaskFile struct {
	Definition task.Definition // Chain and Params are JSON
	Document   *Document       // the chain, parsed; its places are those of the file
	Line       int             // where the task begins

	file   file
	source *source
}

// Locate gives an error about a field, such as schedule[1].cron, the place of that
// field in the file.
func (t TaskFile) Locate(err error) error { return t.file.located(t.source, err) }

// At returns file:line:column of a field, such as schedule[0].cron, or of what
// is nearest to it.
func (t TaskFile) At(field string) string { return t.file.place(t.source.find(field)) }

var taskFields = []string{"name", "description", "chain", "params", "schedule", "timeout", "retry", "queue", "priority", "durable",
	"tags", "rate", "concurrency", "dedupe", "keep"}

// partFields are the fields of the objects in a task.
var partFields = map[string][]string{
	"retry":       retryFields,
	"rate":        {"limit", "per", "key"},
	"concurrency": {"limit", "key", "strategy"},
	"dedupe":      {"key", "window"},
}

// ParseTasks reads the tasks of a task file, as ParseFile does.
func ParseTasks(name string, text []byte) ([]TaskFile, error) {
	read, err := ParseFile(name, text)
	return read.Tasks, err
}

func (f file) task(s *source) (t TaskFile, problems []error) {
	t.Line, t.file, t.source = s.line, f, s
	problems = f.fields(s, "task", taskFields)
	refused := map[string]bool{} // fields that could not be read
	for i, key := range s.keys {
		if bad := f.taskField(&t.Definition, key, s.items[i]); len(bad) > 0 {
			problems, refused[key.text] = append(problems, bad...), true
		}
	}
	for _, err := range t.Definition.Problems() {
		if !refused[fieldOf(err)] {
			problems = append(problems, f.located(s, err))
		}
	}
	if len(problems) == 0 {
		if err := CheckKeys(t.Definition); err != nil {
			problems = append(problems, f.located(s, err))
		}
	}
	if chain := s.get("chain"); chain != nil {
		document, err := parseInto(f, chain, &problems)
		if err != nil {
			problems = append(problems, err)
		}
		t.Document = document
	}
	return t, problems
}

// fieldOf is the field of a definition that an error is about.
func fieldOf(err error) string {
	var e *task.Error
	if !errors.As(err, &e) {
		return ""
	}
	end := strings.IndexAny(e.Where+".", ".[")
	return e.Where[:end]
}

// taskField reads one field into d. What is wrong with several of its parts is several problems.
func (f file) taskField(d *task.Definition, key, value *source) (problems []error) {
	parts := partFields[key.text]
	switch {
	case value.kind == kindNull:
		return []error{f.errorf(value, "%s has no value", key.text).Fix("give it one, or remove the line")}
	case !slices.Contains(taskFields, key.text):
		return nil // fields has named it
	case key.text == "schedule":
		d.Schedule, problems = f.schedules(value)
		return problems
	case key.text == "tags" && value.kind == kindList:
		if problems = f.checkList(value, key.text, fieldTexts); len(problems) > 0 {
			return problems
		}
	case parts != nil && value.kind == kindObject && len(value.keys) > 0:
		problems = f.fields(value, key.text, parts)
		for i, part := range value.keys {
			if slices.Contains(parts, part.text) {
				one := &source{kind: kindObject, keys: value.keys[i : i+1], items: value.items[i : i+1]}
				problems = append(problems, f.decode(d, key, one, value.items[i])...)
			}
		}
		return problems
	}
	return f.decode(d, key, value, value)
}

// decode gives d the value of the field key; at is what a problem is about.
func (f file) decode(d *task.Definition, key, value, at *source) []error {
	one := &source{kind: kindObject, keys: []*source{key}, items: []*source{value}}
	if err := json.Unmarshal(appendSource(nil, one, int(^uint(0)>>1)), d); err != nil {
		return []error{f.errorf(at, "%s: %s", key.text, plainJSONError(err)).Fix("%s", fieldHelp(key.text))}
	}
	return nil
}

// fields names the fields of s that are not known.
func (f file) fields(s *source, what string, known []string) (problems []error) {
	for _, key := range s.keys {
		if !slices.Contains(known, key.text) {
			problems = append(problems, f.errorf(key, "unknown field %q of a %s", key.text, what).Fix("%s", suggest(key.text, known)))
		}
	}
	return problems
}

func plainJSONError(err error) string {
	return task.PlainJSON(err)
}

func fieldHelp(field string) string {
	switch field {
	case "retry":
		return "write {attempts: 3, backoff: 2s}"
	case "priority":
		return "write a number from 0 (last) to 9 (first)"
	case "durable":
		return "write true or false"
	case "tags":
		return "write a list of words such as [gpu, eu]"
	case "rate":
		return `write {limit: 20, per: 1s}, with key: "${params.customer}" for a limit of each`
	case "concurrency":
		return `write {limit: 3}, with key: "${params.customer}" for a limit of each`
	case "dedupe":
		return `write {key: "${params.order}", window: 10m}`
	case "timeout":
		return `write a duration such as 10m`
	case "keep":
		return `write a duration such as 12h or 30d`
	}
	return "see the documentation of task files"
}

var pathPart = regexp.MustCompile(`[A-Za-z_]+|\[[0-9]+\]`)

// located gives an error about a field (retry.attempts, schedule[1].overlap)
// the position of that field.
func (f file) located(s *source, err error) error {
	var e *task.Error
	if !errors.As(err, &e) {
		return f.errorf(s, "%v", err)
	}
	at := s.find(e.Where)
	if strings.HasPrefix(e.Where, string(f)+":") {
		return err // it has its place
	}
	moved := f.errorf(at, "%s", e.Message)
	moved.Remedy = e.Remedy
	if e.Where != "" {
		moved.Message = e.Where + ": " + e.Message
	}
	return moved
}

// find returns the value of a field's path (retry.attempts, schedule[1].overlap),
// or what is nearest to it.
func (s *source) find(path string) *source {
	at := s
	for _, part := range pathPart.FindAllString(path, -1) {
		next := at.get(part)
		if index, isIndex := strings.CutPrefix(part, "["); isIndex {
			if n, err := strconv.Atoi(strings.TrimSuffix(index, "]")); err == nil && n < len(at.items) {
				next = at.items[n]
			}
		}
		if next == nil {
			break
		}
		at = next
	}
	return at
}
