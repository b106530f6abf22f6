package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
	"github.com/danielgtaylor/huma/v2"
)

// statusOf is the one table from codes to HTTP statuses.
func statusOf(code task.Code) int {
	switch code {
	case task.CodeInvalid:
		return http.StatusBadRequest
	case task.CodeUnauthorized:
		return http.StatusUnauthorized
	case task.CodeForbidden:
		return http.StatusForbidden
	case task.CodeNotFound:
		return http.StatusNotFound
	case task.CodeConflict, task.CodeCancelled:
		return http.StatusConflict
	case task.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case task.CodeTimeout:
		return http.StatusGatewayTimeout
	case task.CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// codeOf reads the statuses that the framework gives to requests it refuses.
func codeOf(status int) task.Code {
	switch {
	case status == http.StatusRequestEntityTooLarge:
		return task.CodeTooLarge
	case status == http.StatusRequestTimeout:
		return task.CodeTimeout
	case status >= 400 && status < 500:
		return task.CodeInvalid
	}
	return task.CodeInternal
}

// refusal is an error as it is answered. It is a huma.StatusError.
type refusal struct {
	client.ErrorBody
}

func (r *refusal) Error() string  { return r.ErrorBody.Error.Message }
func (r *refusal) GetStatus() int { return statusOf(r.ErrorBody.Error.Code) }

// coded gives err the code it is answered with.
func coded(err error) *task.Error {
	var known *task.Error
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return tooLarge(large.Limit)
	case errors.As(err, &known) && known.Code != task.CodeInternal:
		return known
	case errors.Is(err, context.DeadlineExceeded):
		return task.Errorf(task.CodeTimeout, "the request took too long").Fix("try again, or ask for less at once")
	case errors.Is(err, context.Canceled):
		return task.Errorf(task.CodeCancelled, "the request was cancelled")
	}
	return task.Errorf(task.CodeInternal, "%w", err)
}

func tooLarge(limit int64) *task.Error {
	return task.Errorf(task.CodeTooLarge, "the body is larger than %s", size(limit)).Fix("send less at once")
}

// size writes a number of bytes for people.
func size(bytes int64) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%d bytes", bytes)
	}
	return strconv.FormatFloat(float64(bytes)/(1<<20), 'g', 3, 64) + " MiB"
}

// refuse makes the answer for err. An internal error goes to the log and is
// answered without its details.
func (s *service) refuse(ctx context.Context, err error) *refusal {
	e := coded(err)
	detail := client.ErrorDetail{Code: e.Code, Message: e.Message, Where: e.Where, Remedy: e.Remedy}
	if e.Code == task.CodeInternal {
		id := scopeOf(ctx).id
		s.log.WithField("request", id).WithError(err).Error("A request failed inside the server")
		detail = client.ErrorDetail{
			Code: task.CodeInternal, Message: "something failed inside the server",
			Remedy: "look for request " + id + " in the server's log",
		}
	}
	return &refusal{client.ErrorBody{Error: detail}}
}

// reshape turns the framework's own errors, those of validation above all,
// into the one shape. It is a huma.Transformer.
func reshape(ctx huma.Context, _ string, value any) (any, error) {
	model, ok := value.(*huma.ErrorModel)
	if !ok {
		return value, nil
	}
	detail := client.ErrorDetail{
		Code: codeOf(model.Status), Message: model.Detail,
		Remedy: "see what this call takes in /api/openapi.json",
	}
	if len(model.Errors) > 0 && detail.Code == task.CodeInvalid {
		detail.Message, detail.Where = model.Errors[0].Message, place(model.Errors[0].Location)
		detail.Message += others(model.Errors[1:])
	}
	if detail.Code == task.CodeTooLarge {
		limit := rulesOf(ctx.Operation()).limit
		e := tooLarge(limit)
		detail.Message, detail.Remedy = e.Message, e.Remedy
	}
	scope := scopeOf(ctx.Context())
	scope.status = statusOf(detail.Code)
	ctx.SetHeader("Content-Type", "application/json")
	return client.ErrorBody{Error: detail}, nil
}

// others lists up to five further errors behind the first.
func others(rest []*huma.ErrorDetail) string {
	var b strings.Builder
	for i, e := range rest {
		if i == 5 {
			fmt.Fprintf(&b, "; and %d more", len(rest)-i)
			break
		}
		b.WriteString("; ")
		if where := place(e.Location); where != "" {
			b.WriteString(where + ": ")
		}
		b.WriteString(e.Message)
	}
	return b.String()
}

// place turns the framework's location, body.runs[3].key, into the path of a
// field, runs[3].key.
func place(location string) string {
	_, path, inside := strings.Cut(location, ".")
	if !inside {
		return ""
	}
	return path
}
