package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailure     = 1 // of the work
	exitUsage       = 2
	exitUnreachable = 3
	exitForbidden   = 4
	// A command that a signal ended exits with 128 and the signal's number: 130 for Ctrl-C.
)

// usageError is a command that was called wrongly.
type usageError struct {
	message string
	usage   string
	help    string
}

func (e *usageError) Error() string { return e.message }

// errQuiet ends a command with exitFailure whose output has said why.
var errQuiet = errors.New("failed")

// exitCode maps an error to the exit code of the process.
func exitCode(err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	}
	switch task.CodeOf(err) {
	case task.CodeUnavailable:
		return exitUnreachable
	case task.CodeUnauthorized, task.CodeForbidden:
		return exitForbidden
	}
	return exitFailure
}

// finish reports a command's error and returns its exit code.
func (s *session) finish(args []string, err error) int {
	if err != nil && !errors.Is(err, errQuiet) {
		err = s.explainAbsence(err)
		// A wrong flag ends parsing before --json has been seen.
		if s.json || slices.Contains(args, "--json") {
			s.reportJSON(err)
		} else {
			s.reportText(err)
		}
	}
	return exitCode(err)
}

func (s *session) reportText(err error) {
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(s.err, "error: %s\nusage: %s (see %s)\n", usage.message, usage.usage, usage.help)
		return
	}
	for _, detail := range details(err) {
		text := detail.Message
		if detail.Where != "" {
			text = detail.Where + ": " + text
		}
		fmt.Fprintln(s.err, "error: "+text)
		if detail.Remedy != "" {
			fmt.Fprintln(s.err, "  fix: "+detail.Remedy)
		}
	}
}

// reportJSON writes the shape of the API's errors. Where several things are
// wrong at once, all of them follow in "errors".
func (s *session) reportJSON(err error) {
	body := struct {
		client.ErrorBody
		Errors []client.ErrorDetail `json:"errors,omitempty"`
	}{}
	var usage *usageError
	if errors.As(err, &usage) {
		body.Error = client.ErrorDetail{Code: task.CodeInvalid, Message: usage.message, Remedy: "usage: " + usage.usage}
	} else {
		all := details(err)
		body.Error = all[0]
		if len(all) > 1 {
			body.Errors = all
		}
	}
	text, marshalErr := json.Marshal(body)
	if marshalErr != nil {
		text = []byte(`{"error":{"code":"internal","message":"the error cannot be written as JSON"}}`)
	}
	fmt.Fprintln(s.err, string(text))
}

// details takes joined errors apart and masks passwords in them.
func details(err error) []client.ErrorDetail {
	if parts := joined(err); len(parts) > 0 {
		var all []client.ErrorDetail
		for _, part := range parts {
			all = append(all, details(part)...)
		}
		return all
	}
	detail := client.ErrorDetail{Code: task.CodeOf(err), Message: err.Error()}
	var coded *task.Error
	if errors.As(err, &coded) {
		detail.Where, detail.Remedy = coded.Where, coded.Remedy
		// What wraps the coded error stays in front of its message.
		detail.Message = strings.Replace(err.Error(), coded.Error(), coded.Message, 1)
	}
	detail.Message = telemetry.Redact(detail.Message)
	detail.Where = telemetry.Redact(detail.Where)
	return []client.ErrorDetail{detail}
}

// joined returns the parts of what errors.Join made. An error that wraps several
// others in a sentence of its own stays whole.
func joined(err error) []error {
	several, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	parts := several.Unwrap()
	texts := make([]string, 0, len(parts))
	for _, part := range parts {
		texts = append(texts, part.Error())
	}
	if err.Error() != strings.Join(texts, "\n") {
		return nil
	}
	return parts
}
