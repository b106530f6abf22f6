package api

import (
	"context"
	"net/http"
	"time"

	"github.com/catena-run/catena/auth"
	"github.com/danielgtaylor/huma/v2"
)

// rules say how an operation is guarded.
type rules struct {
	action      auth.Action
	partly      auth.Role // may ask too; the handler checks what for
	limit       int64     // bytes of the body
	timeout     time.Duration
	bodyTimeout time.Duration // for reading the body; 0: the usual
}

const rulesKey = "catena"

func rulesOf(op *huma.Operation) rules {
	r, _ := op.Metadata[rulesKey].(rules)
	return r
}

// scope is what is known of a request while it is served, by one goroutine.
type scope struct {
	id       string
	token    auth.Token
	writer   http.ResponseWriter
	request  *http.Request
	answered int    // status written without the framework; 0: none
	status   int    // to answer instead of the framework's own; 0: none
	target   string // for the audit
	detail   any    // for the audit
	tried    bool   // nothing was changed, so there is nothing to audit
}

type scopeKey struct{}

// scopeOf returns the scope of a request; an empty one outside of requests.
func scopeOf(ctx context.Context) *scope {
	if s, ok := ctx.Value(scopeKey{}).(*scope); ok {
		return s
	}
	return &scope{}
}

// bodyRead ends the time limit on reading the body. The limit would otherwise
// end the request itself while it waits.
func (s *scope) bodyRead() {
	if s.writer != nil {
		_ = http.NewResponseController(s.writer).SetReadDeadline(time.Time{})
	}
}

// note says what the audit shall tell of this request.
func note(ctx context.Context, target string, detail any) {
	s := scopeOf(ctx)
	s.target, s.detail = target, detail
}

// humaContext lets framed embed a huma.Context, which has a method Context.
type humaContext huma.Context

// framed is the framework's context of one request with its scope.
type framed struct {
	humaContext
	ctx   context.Context
	scope *scope
}

func (f framed) Unwrap() huma.Context     { return f.humaContext }
func (f framed) Context() context.Context { return f.ctx }

// SetStatus writes the status that reshape chose, if it did.
func (f framed) SetStatus(status int) {
	if f.scope.status != 0 {
		status = f.scope.status
	}
	f.humaContext.SetStatus(status)
}
