package telemetry

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	defaultQueue = 4096
	maxBatch     = 512
	sendEvery    = 500 * time.Millisecond
	complainAt   = time.Minute // between two lines of the log about spans that were lost
)

// sender sends spans in batches from a queue of bounded length. It never makes
// its callers wait: what finds no place is counted and dropped.
type sender struct {
	exporter sdktrace.SpanExporter
	log      logrus.FieldLogger
	queue    chan sdktrace.ReadOnlySpan

	sent, full, refused atomic.Int64
	complained          time.Time // by loop alone
	told                int64

	closing sync.Once
	ending  chan struct{} // closed: send what is left and end
	cut     context.CancelFunc
	over    chan struct{} // closed by loop at its end
}

func newSender(exporter sdktrace.SpanExporter, queue int, log logrus.FieldLogger) *sender {
	if queue <= 0 {
		queue = defaultQueue
	}
	ctx, cut := context.WithCancel(context.Background())
	s := &sender{exporter: exporter, log: log, queue: make(chan sdktrace.ReadOnlySpan, queue), ending: make(chan struct{}), cut: cut, over: make(chan struct{})}
	go s.loop(ctx)
	return s
}

// OnStart does nothing: only ended spans are sent.
func (s *sender) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd takes a span, or drops it.
func (s *sender) OnEnd(span sdktrace.ReadOnlySpan) {
	select {
	case s.queue <- span:
	default:
		s.full.Add(1)
	}
}

// ForceFlush does nothing: Shutdown sends what is left.
func (s *sender) ForceFlush(context.Context) error { return nil }

// Shutdown sends what waits until ctx ends.
func (s *sender) Shutdown(ctx context.Context) error {
	s.closing.Do(func() { close(s.ending) })
	select {
	case <-s.over:
	case <-ctx.Done():
		s.cut()
		<-s.over
	}
	s.cut()
	return s.exporter.Shutdown(ctx)
}

func (s *sender) loop(ctx context.Context) {
	defer close(s.over)
	batch := make([]sdktrace.ReadOnlySpan, 0, maxBatch)
	timer := time.NewTimer(sendEvery)
	defer timer.Stop()
	timer.Stop()
	for {
		select {
		case span := <-s.queue:
			if batch = append(batch, span); len(batch) == 1 {
				timer.Reset(sendEvery)
			}
			if len(batch) < maxBatch {
				continue
			}
		case <-timer.C:
		case <-s.ending:
			s.drain(ctx, batch)
			return
		}
		s.send(ctx, batch)
		batch = batch[:0]
	}
}

// drain sends what is in the queue now.
func (s *sender) drain(ctx context.Context, batch []sdktrace.ReadOnlySpan) {
	for {
		select {
		case span := <-s.queue:
			batch = append(batch, span)
			if len(batch) < maxBatch {
				continue
			}
			s.send(ctx, batch)
			batch = batch[:0]
		default:
			s.send(ctx, batch)
			return
		}
	}
}

func (s *sender) send(ctx context.Context, batch []sdktrace.ReadOnlySpan) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sendPatience)
	defer cancel()
	err := s.exporter.ExportSpans(ctx, batch)
	if err == nil {
		s.sent.Add(int64(len(batch)))
	} else {
		s.refused.Add(int64(len(batch)))
	}
	s.complain(err)
}

// complain tells now and then that spans were lost.
func (s *sender) complain(err error) {
	lost := s.full.Load() + s.refused.Load()
	if lost == s.told || time.Since(s.complained) < complainAt {
		return
	}
	log := s.log.WithField("spans", lost-s.told)
	if err != nil {
		log = log.WithError(err)
	}
	log.Warn("spans were dropped: the receiver of traces does not take them, or not as fast as they come")
	s.complained, s.told = time.Now(), lost
}

// Metrics tells what became of the spans of this process. Nil *Traces has none.
func (t *Traces) Metrics() []prometheus.Collector {
	if t == nil {
		return nil
	}
	counter := func(name, help, reason string, value *atomic.Int64) prometheus.Collector {
		var labels prometheus.Labels
		if reason != "" {
			labels = prometheus.Labels{"reason": reason}
		}
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
			func() float64 { return float64(value.Load()) })
	}
	const dropped, what = "catena_trace_spans_dropped_total", "Spans of this process that were not sent."
	return []prometheus.Collector{
		counter("catena_trace_spans_sent_total", "Spans of this process that the receiver of traces took.", "", &t.sender.sent),
		counter(dropped, what, "queue full", &t.sender.full),
		counter(dropped, what, "not taken", &t.sender.refused),
	}
}
