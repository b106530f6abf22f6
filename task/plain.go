package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// PlainJSON says in the words of a reader of JSON, not of a Go program, what is
// wrong with a document.
func PlainJSON(err error) string {
	var mismatch *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	var coded *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &coded):
		return coded.Message
	case errors.As(err, &mismatch):
		value, _, _ := strings.Cut(mismatch.Value, " ")
		if mismatch.Field == "" {
			return articled(value) + " does not fit here"
		}
		return articled(value) + " does not fit " + mismatch.Field
	case errors.As(err, &syntax):
		return fmt.Sprintf("it is not JSON: byte %d: %s", syntax.Offset, strings.TrimPrefix(syntax.Error(), "json: "))
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

func articled(kind string) string {
	switch kind {
	case "string":
		return "a text"
	case "bool":
		return "true or false"
	case "array":
		return "a list"
	case "object":
		return "an object"
	}
	return "a " + kind
}
