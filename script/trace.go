package script

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/catena-run/catena/telemetry"
)

// traceRequest begins the span of a request. Its query, which may hold what no
// trace should, is left out.
func traceRequest(ctx context.Context, request *httpRequest) (context.Context, *telemetry.Span) {
	ctx, span := telemetry.Child(ctx, telemetry.SpanClient, request.method)
	if span == nil {
		return ctx, nil
	}
	span.Note("http.request.method", request.method)
	span.Note("url.full", address(request.url))
	span.Note("server.address", request.url.Hostname())
	span.Count("server.port", int64(portOf(request.url)))
	return ctx, span
}

func traceResponse(span *telemetry.Span, response *http.Response, err error) {
	switch {
	case span == nil:
	case err != nil:
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err // without the address, whose query is left out
		}
		span.Fail(telemetry.Redact(err.Error()))
	default:
		span.Count("http.response.status_code", int64(response.StatusCode))
		if response.StatusCode >= http.StatusBadRequest {
			span.Fail(response.Status)
		}
	}
}
