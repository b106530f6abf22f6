package healthcheck_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSelfMeterSeesMemoryCPUAndFiles(t *testing.T) {
	t.Parallel()
	m, err := healthcheck.NewSelfMeter(t.Context(), "w1")
	require.NoError(t, err)
	first, err := m.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), first.PID)
	require.Equal(t, "w1", first.Worker)
	require.Less(t, time.Since(first.StartedAt), time.Hour)
	require.Positive(t, first.Threads)

	block := make([]byte, 64<<20)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	var files []*os.File
	for range 20 {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		defer f.Close()
		files = append(files, f)
	}
	for begin := time.Now(); time.Since(begin) < 100*time.Millisecond; {
		block[0]++ // use the CPU
	}
	second, err := m.Read(t.Context())
	require.NoError(t, err)
	require.Positive(t, first.RSS)
	require.Greater(t, second.RSS, uint64(len(block)), "the block is resident")
	require.Less(t, second.RSS, uint64(8<<30), "bytes, not another unit")
	require.Greater(t, second.CPUTime, first.CPUTime)
	require.Positive(t, second.CPU)
	require.GreaterOrEqual(t, second.OpenFiles, len(files))
	require.NotZero(t, block[0]+block[4096]) // keeps block alive until here
}

func TestMeterOfAnEndedProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "60")
	require.NoError(t, cmd.Start())
	m, err := healthcheck.NewMeter(t.Context(), "w", cmd.Process.Pid)
	require.NoError(t, err)
	f, err := m.Read(t.Context())
	require.NoError(t, err)
	require.Positive(t, f.RSS)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	_, err = m.Read(t.Context())
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	_, err = healthcheck.NewMeter(t.Context(), "w", cmd.Process.Pid)
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
}

func TestDecide(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	policy := healthcheck.Policy{MaxMemory: 100 << 20, TTL: time.Hour, HangAfter: 10 * time.Second}
	healthy := healthcheck.Figures{Worker: "w", RSS: 50 << 20, StartedAt: now.Add(-time.Minute), BeatAt: now.Add(-time.Second)}
	for name, c := range map[string]struct {
		change func(*healthcheck.Figures, *healthcheck.Policy)
		cause  healthcheck.Cause
		text   string
		kill   bool
	}{
		"healthy":                {change: func(*healthcheck.Figures, *healthcheck.Policy) {}},
		"at the memory limit":    {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) { f.RSS = 100 << 20 }},
		"over the memory limit":  {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) { f.RSS = 150 << 20 }, cause: healthcheck.CauseMemory, text: "uses 150.0 MiB of memory, the limit is 100.0 MiB"},
		"twice the memory":       {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) { f.RSS = 210 << 20 }, cause: healthcheck.CauseMemory, text: "uses 210.0 MiB of memory, the limit is 100.0 MiB", kill: true},
		"as many runs as may be": {change: func(f *healthcheck.Figures, p *healthcheck.Policy) { f.Runs, p.MaxRuns = 7, 7 }, cause: healthcheck.CauseRuns, text: "has executed 7 runs, the limit is 7"},
		"fewer runs":             {change: func(f *healthcheck.Figures, p *healthcheck.Policy) { f.Runs, p.MaxRuns = 6, 7 }},
		"no memory limit":        {change: func(f *healthcheck.Figures, p *healthcheck.Policy) { f.RSS, p.MaxMemory = 1<<40, 0 }},
		"just younger than ttl":  {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) { f.StartedAt = now.Add(-time.Hour + 1) }},
		"as old as ttl":          {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) { f.StartedAt = now.Add(-time.Hour) }, cause: healthcheck.CauseAge, text: "is 1h0m0s old, its limit is 1h0m0s"},
		"no ttl":                 {change: func(f *healthcheck.Figures, p *healthcheck.Policy) { f.StartedAt, p.TTL = now.AddDate(-9, 0, 0), 0 }},
		"unknown start":          {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) { f.StartedAt = time.Time{} }},
		"silent up to the limit": {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) { f.BeatAt = now.Add(-10 * time.Second) }},
		"hanging":                {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) { f.BeatAt = now.Add(-11 * time.Second) }, cause: healthcheck.CauseHang, text: "no sign of life for 11s, the limit is 10s", kill: true},
		"silent but busy": {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) {
			f.BeatAt, f.BusySince = now.Add(-29*time.Second), true
		}},
		"silent and busy": {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) {
			f.BeatAt, f.BusySince = now.Add(-31*time.Second), true
		}, cause: healthcheck.CauseHang, text: "no sign of life for 31s, the limit is 30s", kill: true},
		"a late run": {change: func(f *healthcheck.Figures, p *healthcheck.Policy) {
			f.Late, f.LateRun, p.LateAfter = 61*time.Second, "r", time.Minute
		}, cause: healthcheck.CauseLate, text: "its run r goes on 1m1s after its time limit", kill: true},
		"a run not so late": {change: func(f *healthcheck.Figures, p *healthcheck.Policy) {
			f.Late, f.LateRun, p.LateAfter = time.Minute, "r", time.Minute
		}},
		"no hang limit":      {change: func(f *healthcheck.Figures, p *healthcheck.Policy) { f.BeatAt, p.HangAfter = now.Add(-time.Hour), 0 }},
		"no beat yet":        {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) { f.BeatAt = time.Time{} }},
		"hang before memory": {change: func(f *healthcheck.Figures, _ *healthcheck.Policy) { f.RSS, f.BeatAt = 1<<40, now.Add(-time.Hour) }, cause: healthcheck.CauseHang, text: "no sign of life for 1h0m0s, the limit is 10s", kill: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, p := healthy, policy
			c.change(&f, &p)
			action, reason := p.Decide(f, now)
			require.Equal(t, c.cause, reason.Cause)
			require.Equal(t, c.text, reason.String())
			require.Equal(t, c.cause != "", action != healthcheck.ActionNone)
			require.Equal(t, c.kill, action == healthcheck.ActionKill)
		})
	}
}

func TestLifetimeIsStableAndSpread(t *testing.T) {
	t.Parallel()
	p := healthcheck.Policy{TTL: time.Hour, Jitter: 10 * time.Minute}
	const workers = 1000
	buckets := make([]int, 10)
	for i := range workers {
		id := fmt.Sprintf("host-%d", i)
		life := p.Lifetime(id)
		require.Equal(t, life, p.Lifetime(id))
		require.GreaterOrEqual(t, life, p.TTL)
		require.Less(t, life, p.TTL+p.Jitter)
		buckets[int((life-p.TTL)/time.Minute)]++
	}
	for minute, n := range buckets {
		require.InDelta(t, workers/10, n, 50, "minute %d", minute)
	}
	require.Zero(t, healthcheck.Policy{Jitter: time.Hour}.Lifetime("w"))
}

func TestPolicyValidate(t *testing.T) {
	t.Parallel()
	require.NoError(t, healthcheck.Policy{}.Validate())
	require.ErrorContains(t, healthcheck.Policy{TTL: -1}.Validate(), "ttl")
	require.ErrorContains(t, healthcheck.Policy{HangAfter: -1}.Validate(), "hangAfter")
	require.ErrorContains(t, healthcheck.Policy{TTL: 1 << 62, Jitter: 1 << 62}.Validate(), "jitter")
}

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestProbes(t *testing.T) {
	t.Parallel()
	p := healthcheck.NewProbes(0)
	mux := http.NewServeMux()
	mux.Handle("/livez", p.Live())
	mux.Handle("/readyz", p.Ready())
	code, text := get(t, mux, "/livez")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "ok\n", text)

	var down atomic.Bool
	p.AddReady("postgres", func(context.Context) error {
		if down.Load() {
			return errors.New("connection refused")
		}
		return nil
	})
	code, text = get(t, mux, "/readyz")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "ok\npostgres: ok\n", text)

	down.Store(true)
	code, text = get(t, mux, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, "error\npostgres: error: connection refused\n", text)
	code, text = get(t, mux, "/livez")
	require.Equal(t, http.StatusOK, code, "a dependency's failure must not restart this process")
	require.Equal(t, "ok\n", text)

	p.AddReady("broken", func(context.Context) error { panic("oops") })
	code, text = get(t, mux, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, text, "broken: error: panic: oops")
}

func TestHangingProbeIsAskedOnceAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := healthcheck.NewProbes(time.Second)
		release := make(chan struct{})
		var calls atomic.Int32
		p.AddReady("deaf", func(context.Context) error { calls.Add(1); <-release; return nil })
		for range 3 {
			begin := time.Now()
			code, text := get(t, p.Ready(), "/readyz")
			require.Equal(t, http.StatusServiceUnavailable, code)
			require.Contains(t, text, "deaf: error: no answer within 1s")
			require.Equal(t, time.Second, time.Since(begin))
		}
		require.EqualValues(t, 1, calls.Load())
		close(release)
		synctest.Wait()
		code, _ := get(t, p.Ready(), "/readyz")
		require.Equal(t, http.StatusOK, code)
		require.EqualValues(t, 2, calls.Load())
	})
}
