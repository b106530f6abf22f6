package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

// fieldKind says how the value of a field is written.
type fieldKind uint8

const (
	fieldText fieldKind = iota
	fieldTime
	fieldDuration
	fieldNumber
	fieldBool
	fieldTexts
	fieldNumbers
	fieldObject
	fieldParams
)

// fieldHelps tell how a value of each kind is written.
var fieldHelps = [...]string{
	fieldText:     "write a text",
	fieldTime:     "write a time such as 2026-11-30T08:00:00Z",
	fieldDuration: "write a duration such as 90s or 1h30m",
	fieldNumber:   "write a whole number",
	fieldBool:     "write true or false",
	fieldTexts:    "write a list of texts in brackets",
	fieldNumbers:  "write a list of whole numbers such as [1, -1]",
	fieldObject:   `write an object such as {times: ["08:00"], weekdays: [mon-fri]}`,
	fieldParams:   `write an object such as {region: eu}`,
}

var scheduleFields = map[string]fieldKind{
	"cron": fieldText, "at": fieldTime, "every": fieldDuration, "offset": fieldDuration, "calendar": fieldObject,
	"timezone": fieldText, "dst": fieldText, "start": fieldTime, "end": fieldTime, "exclude": fieldTexts, "jitter": fieldDuration,
	"overlap": fieldText, "buffer": fieldNumber, "catch_up": fieldDuration, "pause_on_failure": fieldNumber, "paused": fieldBool, "note": fieldText,
}

var calendarFields = map[string]fieldKind{"times": fieldTexts, "weekdays": fieldTexts, "days": fieldNumbers, "months": fieldTexts}

// schedules reads the schedules of a task, each field for itself, so that an error
// names the place of the field.
func (f file) schedules(s *source) (schedules []task.Schedule, problems []error) {
	if s.kind != kindList {
		return nil, []error{f.errorf(s, "schedule must be a list, not %s", s.kind.article()).Fix(`write a list such as [{cron: "0 5 * * *", timezone: UTC}]`)}
	}
	schedules = make([]task.Schedule, len(s.items))
	for i, one := range s.items {
		problems = append(problems, f.schedule(one, fmt.Sprintf("schedule[%d]", i), &schedules[i])...)
	}
	return schedules, problems
}

func (f file) schedule(s *source, where string, into *task.Schedule) []error {
	if s.kind != kindObject {
		return []error{f.errorf(s, "a schedule must be an object, not %s", s.kind.article()).Fix(`write {cron: "0 5 * * *"}`)}
	}
	problems := f.checkFields(s, where, "schedule", scheduleFields)
	if calendar := s.get("calendar"); calendar != nil {
		problems = append(problems, f.checkFields(calendar, where+".calendar", "calendar", calendarFields)...)
	}
	if len(problems) > 0 {
		return problems
	}
	if err := json.Unmarshal(appendSource(nil, s, int(^uint(0)>>1)), into); err != nil {
		return []error{f.errorf(s, "%s: %s", where, plainJSONError(err)).Fix("see the documentation of schedules")}
	}
	return nil
}

// checkFields checks names and values of the fields of an object.
func (f file) checkFields(s *source, where, what string, fields map[string]fieldKind) []error {
	known := make([]string, 0, len(fields))
	for name := range fields {
		known = append(known, name)
	}
	problems := f.fields(s, what, known)
	for i, key := range s.keys {
		if want, ok := fields[key.text]; ok {
			problems = append(problems, f.checkField(s.items[i], where+"."+key.text, want)...)
		}
	}
	return problems
}

// scalarKinds are the kinds of values that have no further parts.
var scalarKinds = map[fieldKind]kind{fieldText: kindText, fieldBool: kindBool, fieldObject: kindObject, fieldParams: kindObject}

func (f file) checkField(s *source, where string, want fieldKind) []error {
	problem := ""
	switch want {
	case fieldTime:
		problem = timeProblem(s)
	case fieldDuration:
		problem = durationProblem(s)
		if problem == "" && strings.HasSuffix(where, ".every") && isZero(s.text) {
			return []error{f.errorf(s, "%s: %s is no interval", where, s.text).Fix("write 1s at least, such as 90s or 1h30m")}
		}
	case fieldTexts, fieldNumbers:
		if s.kind == kindList {
			return f.checkList(s, where, want)
		}
		problem = kindProblem(s, kindList)
	case fieldNumber:
		problem = wholeProblem(s)
	default:
		problem = kindProblem(s, scalarKinds[want])
	}
	if problem == "" {
		return nil
	}
	return []error{f.errorf(s, "%s: %s", where, problem).Fix("%s", helpOf(where, want, s))}
}

// helpOf tells how the value of a field is written.
func helpOf(where string, want fieldKind, given *source) string {
	switch where {
	case "source.http":
		url := "https://work.example/items"
		if given.kind == kindText && strings.Contains(given.text, "://") {
			url = shorten(given.text, 60)
		}
		return fmt.Sprintf("write an object: {url: %q}, with method: and headers: where they are needed", url)
	case "source.http.headers":
		return `write an object such as {Authorization: "${env.SOURCE_TOKEN}"}`
	}
	return fieldHelps[want]
}

func (f file) checkList(s *source, where string, want fieldKind) (problems []error) {
	for i, item := range s.items {
		problem := ""
		if want == fieldNumbers {
			problem = wholeProblem(item)
		} else {
			problem = kindProblem(item, kindText)
		}
		if problem != "" {
			problems = append(problems, f.errorf(item, "%s[%d]: %s", where, i, problem).Fix("%s", fieldHelps[want]))
		}
	}
	return problems
}

func kindProblem(s *source, want kind) string {
	if s.kind == want {
		return ""
	}
	return s.kind.article() + " does not fit here"
}

func wholeProblem(s *source) string {
	if problem := kindProblem(s, kindNumber); problem != "" {
		return problem
	}
	var n int32
	if json.Unmarshal([]byte(s.text), &n) == nil {
		return ""
	}
	return s.text + " is not a whole number of a sensible size"
}

func timeProblem(s *source) string {
	if problem := kindProblem(s, kindText); problem != "" {
		return problem
	}
	if _, err := time.Parse(time.RFC3339, s.text); err != nil {
		return fmt.Sprintf("%q is not a time with its zone", shorten(s.text, 60))
	}
	return ""
}

func isZero(text string) bool {
	d, err := task.ParseDuration(text)
	return err == nil && d == 0
}

func durationProblem(s *source) string {
	if problem := kindProblem(s, kindText); problem != "" {
		return problem
	}
	var d task.Duration
	var e *task.Error
	if err := d.UnmarshalText([]byte(s.text)); errors.As(err, &e) {
		return e.Message
	}
	return ""
}
