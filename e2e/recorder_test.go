package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
	"github.com/catena-run/catena/lifecycle"
)

// recorderFile makes the test binary a recorder that writes this file.
const recorderFile = "CATENA_TEST_RECORDER_FILE"

// told is what package code tells the recorder when a step begins, and a line of
// its file.
type told struct {
	Serial  int64     `json:"serial"`
	Run     uuid.UUID `json:"run"`
	Step    int       `json:"step"`
	Item    string    `json:"item,omitempty"`
	Attempt int       `json:"attempt"`
	Began   int64     `json:"began"` // milliseconds, by the clock of the worker's machine
	Source  string    `json:"source,omitempty"`
	Due     string    `json:"due,omitempty"`
}

// record is the recorder's process. It only appends: a line is written before
// the step that it tells of may go on, and numbered in that order.
func record(path, address string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	serial := int64(0)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var one told
		if err := json.NewDecoder(r.Body).Decode(&one); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		serial++
		one.Serial = serial
		line, err := json.Marshal(one)
		if err == nil {
			_, err = file.Write(append(line, '\n'))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"mark":%d}`, serial)
	})}
	fmt.Println(listener.Addr())
	return server.Serve(listener)
}

// recorder is the tests' side of it: it reads the file.
type recorder struct {
	url, host string
	path      string

	mu   sync.Mutex
	read int64 // bytes of the file
	list []history.Execution
	seen map[uuid.UUID][]int // indexes into list
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	return newRecorderAt(t, "127.0.0.1")
}

// newRecorderAt starts a recorder that listens at one of the machine's addresses.
func newRecorderAt(t *testing.T, host string) *recorder {
	t.Helper()
	r := &recorder{host: host, path: filepath.Join(t.TempDir(), "recorder.jsonl"), seen: map[uuid.UUID][]int{}}
	cmd := exec.Command(os.Args[0], net.JoinHostPort(host, "0"))
	cmd.Env = append(os.Environ(), recorderFile+"="+r.path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	child, err := lifecycle.StartChild(cmd, syscall.SIGKILL)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = child.Signal(syscall.SIGKILL)
		<-child.Done()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "the recorder does not start")
	r.url = "http://" + strings.TrimSpace(address) + "/"
	return r
}

// refresh reads what was appended since; the caller holds the lock.
func (r *recorder) refresh() {
	file, err := os.Open(r.path)
	if err != nil {
		return // nothing was told yet
	}
	defer file.Close()
	fresh, err := io.ReadAll(io.NewSectionReader(file, r.read, 1<<62))
	if err != nil {
		return
	}
	for {
		line, rest, whole := bytes.Cut(fresh, []byte("\n"))
		if !whole {
			return
		}
		r.read += int64(len(line)) + 1
		fresh = rest
		var one told
		if err := json.Unmarshal(line, &one); err != nil {
			panic(fmt.Errorf("the recorder's file: %w", errors.Join(err, errors.New(string(line)))))
		}
		due, _ := time.Parse(time.RFC3339Nano, one.Due) // "" is no due time
		r.seen[one.Run] = append(r.seen[one.Run], len(r.list))
		r.list = append(r.list, history.Execution{Run: one.Run, Step: one.Step, Item: one.Item, Attempt: one.Attempt,
			Began: time.UnixMilli(one.Began), Serial: one.Serial, Source: one.Source, Due: due})
	}
}

func (r *recorder) all() []history.Execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	return slices.Clone(r.list)
}

// of returns what was recorded of one run, in order.
func (r *recorder) of(run uuid.UUID) []history.Execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
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
