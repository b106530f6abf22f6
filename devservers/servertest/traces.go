package servertest

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a span as a receiver of traces got it.
type Span struct {
	TraceID, ID, Parent string // digits; Parent of a root is ""
	Name, Service       string
	Kind                tracev1.Span_SpanKind
	Failed              bool
	Reason, State       string
	From, To            time.Time
	Notes               map[string]string
}

// Receiver takes traces over OTLP/HTTP.
type Receiver struct {
	URL string

	mu     sync.Mutex
	spans  []Span
	header http.Header
}

// NewReceiver starts a receiver, which lives as long as the test.
func NewReceiver(t *testing.T) *Receiver {
	t.Helper()
	r := &Receiver{}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.URL = server.URL
	return r
}

// Spans returns what came so far.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span{}, r.spans...)
}

// Named returns the spans with that name.
func (r *Receiver) Named(name string) (found []Span) {
	for _, s := range r.Spans() {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// Header is that of the last request.
func (r *Receiver) Header() http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.header
}

// ServeHTTP takes one request.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	spans, err := readSpans(request)
	if err != nil || request.URL.Path != "/v1/traces" {
		http.Error(w, "no traces", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	r.spans, r.header = append(r.spans, spans...), request.Header
	r.mu.Unlock()
	answer, _ := proto.Marshal(&collector.ExportTraceServiceResponse{}) // an empty message marshals
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(answer)
}

func readSpans(request *http.Request) ([]Span, error) {
	body := io.Reader(request.Body)
	if request.Header.Get("Content-Encoding") == "gzip" {
		plain, err := gzip.NewReader(body)
		if err != nil {
			return nil, err
		}
		body = plain
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var message collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(data, &message); err != nil {
		return nil, err
	}
	var spans []Span
	for _, resource := range message.ResourceSpans {
		about := notes(resource.Resource.GetAttributes())
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				spans = append(spans, Span{
					TraceID: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
					Name: s.Name, Service: about["service.name"], Kind: s.Kind, State: s.TraceState,
					Failed: s.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR, Reason: s.GetStatus().GetMessage(),
					From: time.Unix(0, int64(s.StartTimeUnixNano)), To: time.Unix(0, int64(s.EndTimeUnixNano)), Notes: notes(s.Attributes),
				})
			}
		}
	}
	return spans, nil
}

func notes(attributes []*commonv1.KeyValue) map[string]string {
	all := make(map[string]string, len(attributes))
	for _, a := range attributes {
		switch v := a.Value.GetValue().(type) {
		case *commonv1.AnyValue_IntValue:
			all[a.Key] = strconv.FormatInt(v.IntValue, 10)
		default:
			all[a.Key] = a.Value.GetStringValue()
		}
	}
	return all
}
