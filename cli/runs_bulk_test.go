package cli_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// many answers bulk requests for count runs, a batch of ten at a time.
type many struct {
	mu      sync.Mutex
	count   int
	failed  int
	asked   []client.BulkCancel
	refuses bool // what is no dry run
}

const middle = "0192f000-0000-7000-8000-000000000000"

func (m *many) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var in client.BulkCancel
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	m.asked = append(m.asked, in)
	if m.refuses && !in.DryRun {
		refuse(http.StatusConflict, task.CodeConflict, "25 runs were expected, but at least 90 match", "count them again")(w, r)
		return
	}
	half := m.count / 2
	result := map[string]any{"matched": half, "next": middle}
	if in.Before != nil {
		result = map[string]any{"matched": m.count - half}
	}
	if !in.DryRun {
		result["done"] = result["matched"]
		if in.Before != nil && m.failed > 0 {
			result["done"], result["failed"] = m.count-half-m.failed, m.failed
			result["faults"] = []map[string]any{{"run": middle, "reason": "cannot be read"}}
		}
	}
	answer(http.StatusOK, result)(w, r)
}

func TestBulk(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		line     string
		server   *many
		code     int
		out, err string
		requests int
	}{
		"cancel":             {"runs cancel --task demo --since 2h --yes", &many{count: 25}, 0, "25 of 25 runs are cancelled or asked to end (0 had changed meanwhile, 0 failed)\n", "", 4},
		"retry":              {"runs retry --state failed,timed_out --yes", &many{count: 25}, 0, "25 of 25 runs are queued again (0 had changed meanwhile, 0 failed)\n", "", 4},
		"as JSON":            {"runs cancel --task demo --yes --json", &many{count: 25}, 0, `{"matched":25,"done":25,"skipped":0,"failed":0}` + "\n", "", 4},
		"none":               {"runs cancel --task demo", &many{}, 0, "", "no runs match\n", 2},
		"none as JSON":       {"runs cancel --task demo --json", &many{}, 0, `{"matched":0,"done":0,"skipped":0,"failed":0}` + "\n", "", 2},
		"one of one":         {"runs retry --task demo --yes", &many{count: 1}, 0, "1 of 1 run is queued again (0 had changed meanwhile, 0 failed)\n", "", 4},
		"some fail":          {"runs retry --task demo --yes", &many{count: 25, failed: 3}, 1, "22 of 25 runs are queued again (0 had changed meanwhile, 3 failed)\n", "run " + middle + ": cannot be read\n", 4},
		"nobody to ask":      {"runs cancel --task demo", &many{count: 25}, 2, "", "this would cancel 25 runs; add --yes to do it", 2},
		"the count changed":  {"runs cancel --task demo --yes", &many{count: 25, refuses: true}, 1, "", "25 runs were expected, but at least 90 match", 3},
		"neither":            {"runs cancel", &many{}, 2, "", "ID is missing; name a run, or select runs with --task, --state and --since", 0},
		"both":               {"runs retry " + middle + " --task demo", &many{}, 2, "", "not both", 0},
		"no id":              {"runs cancel 17", &many{}, 2, "", `"17" is no run id`, 0},
		"a step of many":     {"runs retry --task demo --from 2", &many{}, 2, "", "--from is for one run", 0},
		"a state misspelled": {"runs cancel --state runing", &many{}, 2, "", `did you mean "running"?`, 0},
		"a time misspelled":  {"runs retry --since yesterday", &many{}, 2, "", `--since "yesterday" is no time`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shellOn(t, map[string]http.HandlerFunc{"POST /api/v1/runs/cancel": tt.server.ServeHTTP, "POST /api/v1/runs/retry": tt.server.ServeHTTP})
			got := s.run(strings.Fields(tt.line)...)
			require.Equal(t, tt.code, got.code, got.err)
			require.Equal(t, tt.out, got.out)
			require.Contains(t, got.err, tt.err)
			require.Len(t, tt.server.asked, tt.requests)
			for i, in := range tt.server.asked {
				require.Equal(t, i < 2, in.DryRun, "it counts first")
				require.Equal(t, i == 2, in.Expected != nil, "the count goes along, once")
				require.Equal(t, i%2 == 1, in.Before != nil)
			}
		})
	}
}

func TestCancelNowAndReason(t *testing.T) {
	t.Parallel()
	var body string
	s := shellOn(t, map[string]http.HandlerFunc{"POST /api/v1/runs/{id}/cancel": func(w http.ResponseWriter, r *http.Request) {
		var in map[string]any
		_ = json.NewDecoder(r.Body).Decode(&in)
		body = fmt.Sprint(in)
		answer(http.StatusOK, map[string]any{"id": middle, "state": "running"})(w, r)
	}})
	got := s.run("runs", "cancel", middle, "--now", "--reason", "stuck")
	require.Zero(t, got.code, got.err)
	require.Equal(t, "map[now:true reason:stuck]", body)
	require.Contains(t, got.out, "will end soon")
}

// terminal is a pseudo terminal on which somebody types.
func terminal(t *testing.T, types string) *os.File {
	t.Helper()
	outer, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminals here: " + err.Error())
	}
	t.Cleanup(func() { _ = outer.Close() })
	var number, unlock uint32
	for _, call := range []struct {
		request uintptr
		value   *uint32
	}{{syscall.TIOCSPTLCK, &unlock}, {syscall.TIOCGPTN, &number}} {
		_, _, code := syscall.Syscall(syscall.SYS_IOCTL, outer.Fd(), call.request, uintptr(unsafe.Pointer(call.value)))
		require.Zero(t, code)
	}
	inner, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = inner.Close() })
	_, err = outer.WriteString(types)
	require.NoError(t, err)
	return inner
}

func TestBulkAsksAPerson(t *testing.T) {
	t.Parallel()
	for typed, does := range map[string]bool{"y\n": true, "yes\n": true, "n\n": false, "\n": false, "maybe\n": false} {
		m := &many{count: 25}
		s := shellOn(t, map[string]http.HandlerFunc{"POST /api/v1/runs/cancel": m.ServeHTTP})
		var out, err strings.Builder
		code := s.program.Run(t.Context(), []string{"runs", "cancel", "--task", "demo"}, terminal(t, typed), &out, &err)
		require.Contains(t, err.String(), "Cancel 25 runs? [y/N]")
		require.Equal(t, does, code == 0, typed)
		require.Equal(t, does, strings.Contains(out.String(), "25 of 25"))
		require.Equal(t, !does, strings.Contains(err.String(), "nothing was done"))
	}
}
