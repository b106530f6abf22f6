package e2e

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
)

// recorder is a server outside the system that package code tells of every
// step that begins. It only appends.
type recorder struct {
	url string

	mu   sync.Mutex
	list []history.Execution
	seen map[uuid.UUID][]int // indexes into list
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &recorder{url: "http://" + listener.Addr().String() + "/", seen: map[uuid.UUID][]int{}}
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-ended
	})
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	var told struct {
		Run     uuid.UUID
		Step    int
		Item    string
		Attempt int
		Began   int64 // milliseconds, by the clock of this machine
	}
	if err := json.NewDecoder(request.Body).Decode(&told); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[told.Run] = append(r.seen[told.Run], len(r.list))
	r.list = append(r.list, history.Execution{Run: told.Run, Step: told.Step, Item: told.Item, Attempt: told.Attempt, Began: time.UnixMilli(told.Began)})
}

func (r *recorder) all() []history.Execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// of returns what was recorded of one run, in order.
func (r *recorder) of(run uuid.UUID) []history.Execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []history.Execution
	for _, i := range r.seen[run] {
		list = append(list, r.list[i])
	}
	return list
}

func (r *recorder) count(run uuid.UUID, step int) (n int) {
	for _, e := range r.of(run) {
		if e.Step == step {
			n++
		}
	}
	return n
}
