package ours

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/bench"
	"github.com/catena-run/catena/server"
)

// The load on the status page.
const (
	httpConns   = 64
	httpRounds  = 9
	httpSpan    = time.Second // of one round of one subject
	httpRequest = "GET /izyproxystatus HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
)

// HTTP measures the status page of the shared server beside a handler of
// net/http that answers the same text and does nothing else. Server and load
// share this process and its cores; connections are kept alive.
func HTTP(ctx context.Context) ([]Figure, error) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	text := []byte("<h1>OK, version=bench</h1>\n")
	bare, stopBare, err := serve(ctx, func(ctx context.Context, l net.Listener) error {
		s := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write(text)
		})}
		defer context.AfterFunc(ctx, func() { _ = s.Close() })()
		_ = s.Serve(l) // until it is closed
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer stopBare()
	page, stopPage, err := serve(ctx, func(ctx context.Context, l net.Listener) error {
		return server.New(server.Config{Version: "bench", DrainGrace: time.Millisecond}, log).Serve(ctx, []server.Listener{{Listener: l, Kind: server.KindHTTP}})
	})
	if err != nil {
		return nil, err
	}
	defer stopPage()
	var ours, theirs, ourCost, theirCost []float64
	for range httpRounds { // in turn, so that a noisy moment does not fall on one of them alone
		rate, cost, err := load(ctx, bare)
		if err != nil {
			return nil, fmt.Errorf("bare net/http: %w", err)
		}
		theirs, theirCost = append(theirs, rate), append(theirCost, cost)
		if rate, cost, err = load(ctx, page); err != nil {
			return nil, fmt.Errorf("status page: %w", err)
		}
		ours, ourCost = append(ours, rate), append(ourCost, cost)
	}
	spread := func(rates []float64) string {
		return fmt.Sprintf("%.0f requests/s (median of %d rounds, %.0f to %.0f)", bench.Median(rates), len(rates), slices.Min(rates), slices.Max(rates))
	}
	return []Figure{
		{Name: fmt.Sprintf("bare net/http handler, %d connections kept alive", httpConns), Value: spread(theirs)},
		{fmt.Sprintf("status page of the shared server, %d connections kept alive", httpConns), spread(ours), ">= 57000", fmt.Sprintf("%.2f", bench.Median(ours)/57000)},
		{Name: "bare net/http handler, CPU time of a request with its load", Value: fmt.Sprintf("%.1f us", bench.Median(theirCost))},
		{Name: "status page, CPU time of a request with its load", Value: fmt.Sprintf("%.1f us", bench.Median(ourCost))},
		{Name: "status page, requests/s as a share of the bare handler's", Value: fmt.Sprintf("%.2f", bench.Median(ours)/bench.Median(theirs))},
	}, nil
}

// serve runs a server on an address of its own until stop is called.
func serve(ctx context.Context, run func(context.Context, net.Listener) error) (address string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	serving.Go(func() { _ = run(ctx, l) })
	return l.Addr().String(), func() {
		cancel()
		serving.Wait()
	}, nil
}

// load asks on all connections for a while and returns the answers in a second
// and the microseconds of CPU that one took, which a busy machine changes little.
func load(ctx context.Context, address string) (rate, cost float64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, httpSpan, nil)
	defer cancel()
	var answers atomic.Int64
	var failure atomic.Pointer[error]
	var asking sync.WaitGroup
	began, used := time.Now(), cpuTime()
	for range httpConns {
		asking.Go(func() {
			n, err := askOn(ctx, address)
			answers.Add(n)
			if err != nil {
				failure.Store(&err)
			}
		})
	}
	asking.Wait()
	if err := failure.Load(); err != nil {
		return 0, 0, *err
	}
	n := float64(answers.Load())
	return n / time.Since(began).Seconds(), float64((cpuTime() - used).Microseconds()) / n, nil
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// askOn sends one request after the other on a connection. All answers have
// the length of the first, which is read in full.
func askOn(ctx context.Context, address string) (answers int64, err error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	request := []byte(httpRequest)
	if _, err := conn.Write(request); err != nil {
		return 0, err
	}
	counted := &countingReader{r: conn}
	response, err := http.ReadResponse(bufio.NewReader(counted), nil)
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, err
	}
	answer := make([]byte, counted.n)
	for ctx.Err() == nil {
		if _, err := conn.Write(request); err != nil {
			return answers, err
		}
		if _, err := io.ReadFull(conn, answer); err != nil {
			return answers, err
		}
		if string(answer[:12]) != "HTTP/1.1 200" {
			return answers, fmt.Errorf("answered %q", answer)
		}
		answers++
	}
	return answers, nil
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}
