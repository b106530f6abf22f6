package store_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// fail ends a claimed run after a good step 0 and a bad step 1.
func (f *fixture) fail(worker int64, c store.Claimed) {
	f.t.Helper()
	bad := step("1")
	failure := task.Fail("no")
	bad.Outcome = &failure
	tail, err := json.Marshal([]task.Step{step("0"), bad})
	require.NoError(f.t, err)
	f.write(store.Batch{Worker: worker, Endings: []store.Ending{{Run: c.ID, Fence: c.Fence, State: task.StateFailed, Reason: "no", Tail: tail,
		Packages: json.RawMessage(`{"zeta":"sha256:1","alpha":"sha256:2"}`)}}})
}

func TestARetryByHandLeavesAMark(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	w := f.worker()
	c := f.claimOne(w)
	f.fail(w, c)
	require.Nil(t, f.run(c.ID).RetriedAt)

	r, err := f.RetryRun(ctx, c.ID, "", "ann")
	require.NoError(t, err)
	require.Equal(t, "ann", r.RetriedBy)
	require.WithinDuration(t, time.Now(), *r.RetriedAt, time.Minute)
	require.Nil(t, r.AvailableAt, "it waits for no time")
	lines, err := f.Logs(ctx, c.ID, 0, 10)
	require.NoError(t, err)
	require.Len(t, lines, 1)
	require.Equal(t, "retried by ann from step 1 s1", lines[0].Message)

	next := f.claim(w, f.fill()[0])[0]
	require.Greater(t, int64(next.Fence)<<32, lines[0].Seq, "the lines of the next attempt follow")
	f.fail(w, next)
	_, err = f.RetryRun(ctx, c.ID, "s0", "ben")
	require.NoError(t, err)
	lines, err = f.Logs(ctx, c.ID, lines[0].Seq, 10)
	require.NoError(t, err)
	require.Equal(t, "retried by ben from step 0 s0", lines[0].Message)
	require.Equal(t, "ben", f.run(c.ID).RetriedBy)
}

func TestARetryAfterTheLastStepSaysSo(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := f.worker()
	c := f.claimOne(w)
	f.write(store.Batch{Worker: w, Steps: []store.StepRow{{Run: c.ID, Fence: c.Fence, Step: step("0")}}})
	f.write(store.Batch{Worker: w, Endings: []store.Ending{{Run: c.ID, Fence: c.Fence, State: task.StateTimedOut, Reason: "late"}}})
	_, err := f.RetryRun(context.Background(), c.ID, "", "ann")
	require.NoError(t, err)
	lines, err := f.Logs(context.Background(), c.ID, 0, 10)
	require.NoError(t, err)
	require.Equal(t, "retried by ann after step 0 s0", lines[0].Message)
}

func TestAnEndedRunWaitsForNoTime(t *testing.T) {
	t.Parallel()
	f := open(t)
	accepted, _, err := f.InsertRuns(context.Background(), []store.NewRun{{Task: "demo", At: time.Now().Add(time.Hour)}})
	require.NoError(t, err)
	require.NotNil(t, f.run(accepted[0].ID).AvailableAt)
	r, err := f.CancelRun(context.Background(), accepted[0].ID, "ann", false)
	require.NoError(t, err)
	require.Equal(t, task.StateCancelled, r.State)
	require.Nil(t, r.AvailableAt)
}

func TestPackagesOfAllAttemptsAreKept(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx := context.Background()
	w := f.worker()
	c := f.claimOne(w)
	again := store.Ending{Run: c.ID, Fence: c.Fence, State: task.StateQueued, Attempt: 2, Reason: "no", Packages: json.RawMessage(`{"zeta":"sha256:1","alpha":"sha256:2"}`)}
	require.False(t, f.write(store.Batch{Worker: w, Endings: []store.Ending{again}}).Stale[c.ID])
	require.False(t, f.write(store.Batch{Worker: w, Endings: []store.Ending{again}}).Stale[c.ID], "its repetition changes nothing")

	c = f.claim(w, f.fill()[0])[0]
	f.write(store.Batch{Worker: w, Endings: []store.Ending{{Run: c.ID, Fence: c.Fence, State: task.StateFailed, Reason: "no"}}})
	r := f.run(c.ID)
	require.Equal(t, map[string]string{"zeta": "sha256:1", "alpha": "sha256:2"}, r.Packages, "an attempt that called none takes none away")

	_, err := f.RetryRun(ctx, c.ID, "", "ann")
	require.NoError(t, err)
	c = f.claim(w, f.fill()[0])[0]
	end := succeeded(c)
	end.Packages = json.RawMessage(`{"new":"sha256:4","alpha":"sha256:3"}`)
	f.write(store.Batch{Worker: w, Endings: []store.Ending{end}})
	r = f.run(c.ID)
	require.Equal(t, map[string]string{"zeta": "sha256:1", "alpha": "sha256:3", "new": "sha256:4"}, r.Packages)
	require.Equal(t, "zeta@sha256:1", r.PackageVersion, "the first that it used")
}
