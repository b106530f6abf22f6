package script

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/dop251/goja"

	"github.com/catena-run/catena/task"
)

// maxFrames bounds the call stack of an outcome; the innermost frames tell most.
const maxFrames = 16

// failure returns a failing outcome whose extra field code says what kind.
func failure(code task.Code, reason string) task.Outcome {
	outcome := task.Fail(clean(reason))
	outcome.Extra = map[string]json.RawMessage{"code": json.RawMessage(strconv.Quote(string(code)))}
	return outcome
}

// clean removes what a text column of Postgres refuses.
func clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// result turns what a function returned into its outcome.
func (inv *invocation) result(value goja.Value) task.Outcome {
	if goja.IsUndefined(value) || goja.IsNull(value) {
		return task.Succeed(nil)
	}
	encoded, err := inv.encode(value)
	if err != nil {
		return inv.located(failure(err.code, err.text))
	}
	if object, ok := value.(*goja.Object); ok && isOutcome(object) {
		return inv.returned(encoded)
	}
	return task.Succeed(encoded)
}

// isOutcome reports whether an object is an outcome of its own: it has a
// boolean success.
func isOutcome(object *goja.Object) bool {
	success := object.Get("success")
	return success != nil && success.ExportType() == reflect.TypeFor[bool]()
}

// returned reads an outcome that the code made itself. Fields of a wrong type
// are kept as well as they can be.
func (inv *invocation) returned(encoded []byte) task.Outcome {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return failure(task.CodeInternal, "the outcome cannot be read: "+err.Error())
	}
	outcome := task.Outcome{Success: string(fields["success"]) == "true", Data: fields["data"]}
	if raw, ok := fields["reason"]; ok {
		outcome.Reason = reasonText(raw)
	}
	if raw, ok := fields["call_stack"]; ok && json.Unmarshal(raw, &outcome.CallStack) != nil {
		outcome.CallStack = nil
	}
	for _, known := range []string{"success", "reason", "data", "call_stack"} {
		delete(fields, known)
	}
	if len(fields) > 0 {
		outcome.Extra = fields
	}
	if !outcome.Success {
		return inv.located(outcome)
	}
	return outcome
}

func reasonText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return clean(text)
	}
	return clean(string(raw))
}

// located gives an outcome without a call stack the module as its place.
func (inv *invocation) located(outcome task.Outcome) task.Outcome {
	if len(outcome.CallStack) == 0 {
		outcome.CallStack = []task.Frame{{Module: inv.moduleName()}}
	}
	if !outcome.Success && outcome.Reason == "" {
		outcome.Reason = inv.call.ref().String() + " returned success: false without a reason"
	}
	return outcome
}

// failed turns what a call into the machine reported into an outcome.
func (inv *invocation) failed(err error) task.Outcome {
	if stop := inv.stop.Load(); stop != nil {
		return inv.stopped(stop, err)
	}
	var overflow *goja.StackOverflowError
	var interrupted *goja.InterruptedError
	var exception *goja.Exception
	switch {
	case errors.As(err, &overflow):
		reason := fmt.Sprintf("recursion limit: more than %d nested function calls", inv.engine.config.StackDepth)
		return inv.located(inv.withStack(failure(task.CodeTooLarge, reason), overflow.Stack()))
	case errors.As(err, &interrupted):
		return inv.located(inv.withStack(task.Fail("interrupted"), interrupted.Stack()))
	case errors.As(err, &exception):
		return inv.thrown(exception.Value(), exception.Stack())
	}
	return inv.located(task.Fail(clean(err.Error())))
}

// thrown turns a thrown or rejected value into an outcome. An Error carries
// the place where it was made, any other value at best the place of the throw.
func (inv *invocation) thrown(value goja.Value, stack []goja.StackFrame) task.Outcome {
	var outcome task.Outcome
	if ended := inv.protect(func() { outcome = inv.describe(value, stack) }); ended != nil {
		return inv.stoppedOr(ended, "the thrown value cannot be described")
	}
	return inv.located(outcome)
}

func (inv *invocation) describe(value goja.Value, stack []goja.StackFrame) task.Outcome {
	object, ok := value.(*goja.Object)
	if !ok || object.ClassName() != "Error" {
		return inv.withStack(task.Fail(inv.thrownText(value)), stack)
	}
	outcome := task.Fail(errorText(object))
	if frames := parseStack(textOf(object.Get("stack"))); len(frames) > 0 {
		outcome.CallStack = inv.frames(frames)
		return outcome
	}
	return inv.withStack(outcome, stack)
}

// errorText is the message of an Error, or its name when it has none.
func errorText(object *goja.Object) string {
	if message := textOf(object.Get("message")); message != "" {
		return clean(message)
	}
	if name := textOf(object.Get("name")); name != "" {
		return clean(name)
	}
	return "Error"
}

func textOf(value goja.Value) string {
	if value == nil || goja.IsUndefined(value) || goja.IsNull(value) {
		return ""
	}
	return value.String()
}

// thrownText is the text of a thrown value that is no Error: its message or
// reason when it has one, else a string as it is and anything else as JSON.
func (inv *invocation) thrownText(value goja.Value) string {
	if object, ok := value.(*goja.Object); ok {
		for _, name := range []string{"message", "reason"} {
			if text := object.Get(name); text != nil && goja.IsString(text) {
				return clean(text.String())
			}
		}
	}
	if text := inv.inspect(value); text != "" {
		return clean(text)
	}
	return "an empty string was thrown"
}

// place is a position in the author's file.
type place struct {
	file         string
	line, column int
}

// withStack adds the places of a stack that the machine captured.
func (inv *invocation) withStack(outcome task.Outcome, stack []goja.StackFrame) task.Outcome {
	places := make([]place, 0, maxFrames)
	for i := range stack {
		at := stack[i].Position()
		if at.Filename == "" || at.Line == 0 {
			continue
		}
		if places = append(places, place{at.Filename, at.Line, at.Column}); len(places) == maxFrames {
			break
		}
	}
	outcome.CallStack = inv.frames(places)
	return outcome
}

// stackLine matches a line of an error's stack: "at close (invoice.ts:6:9(12))".
var stackLine = regexp.MustCompile(`(?m)^\s*at (?:.*\()?([^()\n]+):(\d+):(\d+)\(\d+\)\)?$`)

func parseStack(stack string) []place {
	var places []place
	for _, match := range stackLine.FindAllStringSubmatch(stack, maxFrames) {
		line, _ := strconv.Atoi(match[2])
		column, _ := strconv.Atoi(match[3])
		places = append(places, place{match[1], line, column})
	}
	return places
}

// frames names the modules of places. A file of another package was bundled
// in under the name pkg:NAME@VERSION/FILE.
func (inv *invocation) frames(places []place) []task.Frame {
	frames := make([]task.Frame, 0, len(places))
	for _, at := range places {
		if at.line <= 1 && at.file == fileName(inv.call.Module) {
			continue // the wrapper
		}
		pkg, file := inv.call.Version.Name, at.file
		if other, ok := strings.CutPrefix(file, "pkg:"); ok {
			var rest string
			pkg, rest, _ = strings.Cut(other, "@")
			_, file, _ = strings.Cut(rest, "/")
		}
		frames = append(frames, task.Frame{
			Module: pkg + ":" + trimExtension(file),
			Source: fmt.Sprintf("%s:%d:%d", file, at.line, at.column),
		})
	}
	return frames
}

func trimExtension(file string) string {
	if dot := strings.LastIndexByte(file, '.'); dot > strings.LastIndexByte(file, '/') {
		return file[:dot]
	}
	return file
}
