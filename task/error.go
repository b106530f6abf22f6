package task

import (
	"errors"
	"fmt"
	"strings"
)

// Code says what kind of thing went wrong. Codes, not messages, cross the
// network: the API maps them to HTTP statuses and the CLI to exit codes.
type Code string

// The codes. An error without a code counts as CodeInternal.
const (
	CodeInvalid      Code = "invalid"
	CodeUnauthorized Code = "unauthorized"
	CodeForbidden    Code = "forbidden"
	CodeNotFound     Code = "not_found"
	CodeConflict     Code = "conflict"
	CodeTooLarge     Code = "too_large"
	CodeTimeout      Code = "timeout"
	CodeCancelled    Code = "cancelled"
	CodeUnavailable  Code = "unavailable"
	CodeInternal     Code = "internal"
)

// Error is an error with a code. Where names the place (file:line:column, a
// field's path, a run's id) and Remedy says what to do next; both may be empty.
type Error struct {
	Code    Code
	Message string
	Where   string
	Remedy  string
	Err     error
}

// Errorf makes an *Error with the given code; %w wraps as in fmt.Errorf.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// At returns a copy of e that names its place.
func (e *Error) At(where string) *Error {
	c := *e
	c.Where = where
	return &c
}

// Fix returns a copy of e that says what to do next.
func (e *Error) Fix(format string, args ...any) *Error {
	c := *e
	c.Remedy = fmt.Sprintf(format, args...)
	return &c
}

// Error joins place, message and remedy in one line.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Where != "" {
		b.WriteString(e.Where)
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	if e.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the outermost *Error in err's chain, CodeInternal
// for any other error and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}
