package chain

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/catena-run/catena/task"
)

// SourceFile is one source of a task file: a document with the field source.
type SourceFile struct {
	Definition task.SourceDefinition
	Line       int // where the document begins

	file   file
	source *source
}

// Locate gives an error about a field, such as http.url, the place of that field
// in the file.
func (s SourceFile) Locate(err error) error { return s.file.located(s.source, err) }

// At returns file:line:column of a field, or of what is nearest to it.
func (s SourceFile) At(field string) string { return s.file.place(s.source.find(field)) }

// AtHeader returns the place of a header of its endpoint.
func (s SourceFile) AtHeader(name string) string {
	headers := s.source.find("http.headers")
	if value := headers.get(name); value != nil {
		return s.file.place(value)
	}
	return s.file.place(headers)
}

// Resolve looks up the function and the task that the source names. What is not
// there is a warning, since it may come later.
func (s SourceFile) Resolve(ctx context.Context, c Catalogue) (found []task.Finding, err error) {
	call, _ := task.ParsePackageRef(s.Definition.Call) // it was validated
	for field, m := range map[string]mention{"call": {call: call}, "task": {task: s.Definition.Task}} {
		if m.task == "" && m.call == (task.PackageRef{}) {
			continue
		}
		message, remedy, err := m.resolve(ctx, c)
		if err != nil {
			return found, err
		}
		if message != "" {
			found = append(found, task.Warn(s.At(field), message, remedy))
		}
	}
	return found, nil
}

var sourceDocument = map[string]fieldKind{
	"source": fieldText, "description": fieldText, "http": fieldParams, "call": fieldText, "every": fieldDuration, "loop": fieldBool,
	"runtime": fieldText, "limit": fieldNumber, "timeout": fieldDuration, "queue": fieldText, "task": fieldText, "params": fieldParams,
	"paused": fieldBool, "note": fieldText,
}

var httpFields = map[string]fieldKind{"url": fieldText, "method": fieldText, "headers": fieldParams}

// sourceOf reads a source.
func (f file) sourceOf(s *source) (out SourceFile, problems []error) {
	out = SourceFile{Line: s.line, file: f, source: s}
	problems = f.checkFields(s, "source", "source", sourceDocument)
	if endpoint := s.get("http"); endpoint != nil {
		problems = append(problems, f.checkFields(endpoint, "source.http", "source's http", httpFields)...)
		if headers := endpoint.get("headers"); headers != nil {
			for i, key := range headers.keys {
				problems = append(problems, f.checkField(headers.items[i], "source.http.headers."+key.text, fieldText)...)
			}
		}
	}
	if len(problems) > 0 {
		return out, problems
	}
	if err := json.Unmarshal(appendSource(nil, s, int(^uint(0)>>1)), &out.Definition); err != nil {
		return out, []error{f.errorf(s, "source: %s", plainJSONError(err)).Fix("see the documentation of sources")}
	}
	out.Definition.Name = s.get("source").text
	for _, field := range []string{"limit", "every", "timeout"} { // 0 stands for the default where the field is absent
		if given := s.get(field); given != nil && out.zero(field) {
			problems = append(problems, f.errorf(given, "%s: %s is out of range", field, given.text).Fix("leave it out for the default"))
		}
	}
	if err := out.Definition.Validate(); err != nil {
		problems = append(problems, f.located(s, err))
	}
	return out, problems
}

func (s SourceFile) zero(field string) bool {
	d := s.Definition
	return field == "limit" && d.Limit == 0 || field == "every" && d.Every == 0 || field == "timeout" && d.Timeout == 0
}

// documentKinds are the fields that say what a document of a task file is.
var documentKinds = []string{"calendar", "chain", "source"}

// checkKind refuses a document that is of several kinds, or whose kind is misspelt.
func (f file) checkKind(root *source) error {
	var kinds []*source
	known := map[string]bool{"name": true}
	for _, key := range root.keys {
		if slices.Contains(documentKinds, key.text) {
			kinds = append(kinds, key)
		}
		known[key.text] = true
	}
	if len(kinds) > 1 && known["source"] {
		return f.errorf(kinds[1], "a document is a task, a calendar or a source; this one has %s: and %s:", kinds[0].text, kinds[1].text).
			Fix("write two documents with --- between them")
	}
	if len(kinds) > 0 || root.get("name") != nil {
		return nil
	}
	for _, key := range root.keys {
		if near := task.Nearest(key.text, documentKinds); near != "" && near != key.text {
			return f.errorf(key, "unknown field %q of a task", key.text).Fix("did you mean %s?", near)
		}
	}
	return nil
}
