package healthcheck

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Probe asks one thing whether it is well. It should heed ctx.
type Probe func(ctx context.Context) error

// Probes answers whether this process lives and whether it is ready. Probes may
// be added while it answers.
type Probes struct {
	timeout time.Duration

	mu    sync.Mutex
	ready []*namedProbe
	told  []*namedProbe
}

// NewProbes gives each probe so much time per request; 0: 2 s.
func NewProbes(timeout time.Duration) *Probes {
	if timeout <= 0 {
		timeout = 2 * time.Second
	}
	return &Probes{timeout: timeout}
}

// AddReady adds a probe whose failure means that this process should get no work.
func (p *Probes) AddReady(name string, probe Probe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = append(p.ready, &namedProbe{name: name, probe: probe})
}

// AddTold adds a probe of something that this process can do without for a
// while: Ready tells of it, and is ready all the same.
func (p *Probes) AddTold(name string, probe Probe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, &namedProbe{name: name, probe: probe})
}

// Live answers 200 while the process answers at all: what depends on other
// machines is no reason to restart it.
func (p *Probes) Live() http.Handler {
	return p.handler(func() (ready, told []*namedProbe) { return nil, nil })
}

// Ready answers 200 when every probe succeeds, else 503.
func (p *Probes) Ready() http.Handler {
	return p.handler(func() (ready, told []*namedProbe) { return slices.Clone(p.ready), p.told })
}

func (p *Probes) handler(chosen func() (ready, told []*namedProbe)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		ready, told := chosen()
		p.mu.Unlock()
		results := runAll(r.Context(), p.timeout, append(ready, told...))
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		text, status := report(results[:len(ready)], results[len(ready):])
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	})
}

// report writes "ok" or "error", then one line per probe. What is told decides nothing.
func report(ready, told []result) (string, int) {
	head, status := "ok", http.StatusOK
	var lines strings.Builder
	for _, r := range ready {
		if r.err != nil {
			head, status = "error", http.StatusServiceUnavailable
		}
		fmt.Fprintf(&lines, "%s: %s\n", r.name, r.text())
	}
	for _, r := range told {
		fmt.Fprintf(&lines, "%s: %s\n", r.name, r.text())
	}
	return head + "\n" + lines.String(), status
}

func (r result) text() string {
	if r.err == nil {
		return "ok"
	}
	return "error: " + strings.ReplaceAll(r.err.Error(), "\n", " ")
}

type result struct {
	name string
	err  error
}

// namedProbe keeps at most one call of its probe under way: a probe that hangs
// does not pile up goroutines, however often it is asked.
type namedProbe struct {
	name  string
	probe Probe

	mu   sync.Mutex
	last *call
}

type call struct {
	done chan struct{}
	err  error
}

// runAll asks all at once and returns their answers in the given order, each after
// the timeout at the latest.
func runAll(ctx context.Context, timeout time.Duration, probes []*namedProbe) []result {
	results := make([]result, len(probes))
	var wg sync.WaitGroup
	for i, n := range probes {
		wg.Go(func() { results[i] = result{name: n.name, err: n.ask(ctx, timeout)} })
	}
	wg.Wait()
	return results
}

// ask joins the call under way, or begins one, and waits for its answer. The
// call does not end with the request that began it, since others may have joined.
func (n *namedProbe) ask(ctx context.Context, timeout time.Duration) error {
	n.mu.Lock()
	c := n.last
	if c == nil {
		c = &call{done: make(chan struct{})}
		n.last = c
		go n.answer(context.WithoutCancel(ctx), timeout, c)
	}
	n.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return fmt.Errorf("no answer within %s", timeout)
	}
}

func (n *namedProbe) answer(ctx context.Context, timeout time.Duration, c *call) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			c.err = fmt.Errorf("panic: %v", p)
		}
		n.mu.Lock()
		n.last = nil
		n.mu.Unlock()
		close(c.done)
	}()
	if c.err = n.probe(ctx); c.err == nil && ctx.Err() != nil {
		c.err = fmt.Errorf("no answer within %s", timeout) // it came, too late
	}
}
