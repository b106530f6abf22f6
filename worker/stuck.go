package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// stuckEvery is how often calls are looked at that ignore their interrupt.
const stuckEvery = 250 * time.Millisecond

// errStuck ends a worker whose process holds a call that cannot be stopped.
var errStuck = task.Errorf(task.CodeInternal, "a call of package code did not stop when it was told to; the process must end").
	Fix("the log names the call; change its code")

// watchStuck looks for calls that ignore their interrupt, whatever that was for.
// It is the last stage: their runs end here and now, with the reason; the
// others end or are given back by a drain, and then the process ends.
func (s *session) watchStuck(ctx context.Context) {
	ticker := time.NewTicker(stuckEvery)
	defer ticker.Stop()
	told := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		late := s.deps.Scripts.Overdue(s.cfg.KillGrace)
		for _, call := range late {
			s.abandon(call)
		}
		if len(late) > 0 && !told {
			told = true
			close(s.stuck)
		}
	}
}

// abandon ends the run of a stuck call; what the call still does is without effect.
func (s *session) abandon(call script.Overdue) {
	j := s.liveRun(call.RunID)
	if j == nil {
		return
	}
	s.commits.stage(store.StageRow{Run: j.claimed.ID, Fence: j.claimed.Fence, Stage: store.StageKilled, At: time.Now()})
	j.logs.line("error", "", fmt.Sprintf("%s goes on although it was interrupted %v ago: its worker process is replaced", call.Ref, call.By.Round(time.Millisecond)))
	s.log.WithFields(logrus.Fields{"run": j.claimed.ID, "call": call.Ref.String(), "overdue": call.By.Round(time.Millisecond)}).
		Error("a call ignores its interrupt: this worker drains and ends")
	s.finish(j, j.abandoned(call), time.Since(j.startedAt))
	s.leave(j)
}

func (j *job) abandoned(call script.Overdue) *store.Ending {
	reason := fmt.Sprintf("%s did not stop when it was told to; its worker process had to be replaced", call.Ref)
	return j.settle(j.revision.Load(), chain.Result{Outcome: task.Fail(reason)}, nil)
}

func (s *session) liveRun(id string) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	for run, j := range s.live {
		if run.String() == id {
			return j
		}
	}
	return nil
}
