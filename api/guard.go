package api

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/task"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/sirupsen/logrus"
)

const (
	bodyTimeout  = 30 * time.Second // for reading a JSON body
	answerLeeway = 30 * time.Second // for writing an answer, beyond the time of the request
)

// guard is the one way into every operation: it knows the caller, checks the
// role and the size of the body, limits the time, and writes the access log.
func (s *service) guard(ctx huma.Context, next func(huma.Context)) {
	began := time.Now()
	r := rulesOf(ctx.Operation())
	request, writer := humago.Unwrap(ctx)
	sc := &scope{id: rand.Text()[:12], request: request, writer: writer}
	limited, cancel := context.WithTimeout(context.WithValue(ctx.Context(), scopeKey{}, sc), r.timeout)
	defer cancel()
	inner := framed{humaContext: ctx, ctx: limited, scope: sc}
	inner.SetHeader("X-Request-Id", sc.id)
	inner.SetHeader("Cache-Control", "no-store")
	defer s.logAccess(inner, began)
	defer s.recover(inner)
	if err := s.admit(inner, r); err != nil {
		s.answer(inner, err)
		return
	}
	s.limit(inner, r)
	next(inner)
}

// admit checks who asks, whether they may, and what they announce to send.
func (s *service) admit(f framed, r rules) error {
	token, err := s.deps.Authenticator.Authenticate(f.ctx, bearer(f.Header("Authorization")), f.RemoteAddr())
	if err != nil {
		return err
	}
	f.scope.token = token
	if err := auth.Allow(token.Role, r.action); err != nil && token.Role != r.partly {
		return err
	}
	if r.limit > 0 && f.scope.request.ContentLength > r.limit {
		return tooLarge(r.limit)
	}
	return nil
}

// limit bounds the body and the times of reading it and of answering. What the
// writer underneath cannot do stays with the listener's own limits.
func (s *service) limit(f framed, r rules) {
	control := http.NewResponseController(f.scope.writer)
	if r.limit > 0 {
		_ = control.SetReadDeadline(time.Now().Add(min(r.timeout, max(bodyTimeout, r.bodyTimeout))))
	}
	_ = control.SetWriteDeadline(time.Now().Add(r.timeout + answerLeeway))
}

// bearer returns the token of an Authorization header, or "".
func bearer(header string) string {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// answer writes err where no handler can return it.
func (s *service) answer(f framed, err error) {
	refusal := s.refuse(f.ctx, err)
	if refusal.ErrorBody.Error.Code == task.CodeUnauthorized {
		f.SetHeader("WWW-Authenticate", `Bearer realm="catena"`)
	}
	writeRefusal(f.scope.writer, refusal)
	f.scope.answered = refusal.GetStatus()
}

// recover keeps the defect of one operation from ending the process.
func (s *service) recover(f framed) {
	fault := recover()
	if fault == nil {
		return
	}
	if isAbort(fault) {
		panic(fault) // the way to break off an answer; net/http handles it quietly
	}
	s.log.WithFields(logrus.Fields{"request": f.scope.id, "panic": fault}).Error(string(debug.Stack()))
	s.answer(f, task.Errorf(task.CodeInternal, "panic: %v", fault))
}

// logAccess tells who asked what, at debug. Queries are left out: they may
// hold what a caller would not want in a log.
func (s *service) logAccess(f framed, began time.Time) {
	status := f.Status()
	if f.scope.answered != 0 {
		status = f.scope.answered
	}
	if s.deps.Observe != nil {
		s.deps.Observe(f.Operation().OperationID, status, time.Since(began))
	}
	s.log.WithFields(logrus.Fields{
		"request": f.scope.id,
		"method":  f.Method(),
		"path":    f.scope.request.URL.Path,
		"status":  status,
		"token":   f.scope.token.Name,
		"remote":  f.RemoteAddr(),
		"took":    time.Since(began).Round(time.Microsecond).String(),
	}).Debug("API request")
}

// isAbort reports whether a handler wants its connection cut.
func isAbort(fault any) bool {
	err, ok := fault.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}
