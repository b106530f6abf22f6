package client

import (
	"context"
	"time"

	"github.com/catena-run/catena/task"
	"github.com/google/uuid"
)

const (
	runWait      = 30 * time.Second       // of one request of WaitRun
	batchWait    = time.Second            // of one request of WaitRuns: also the pace of progress
	rotateWait   = 100 * time.Millisecond // the same while more ids wait than fit into a request
	followWait   = 250 * time.Millisecond // pause between two looks at a log that has no new line
	absencePause = 500 * time.Millisecond // pause before asking an absent server again
)

// WaitRun blocks until the run has ended and returns it.
func (c *Client) WaitRun(ctx context.Context, id uuid.UUID) (task.Run, error) {
	for {
		var run task.Run
		err := c.endure(ctx, func() (err error) {
			run, err = c.run(ctx, id, runWait)
			return err
		})
		if err != nil || run.State.Terminal() {
			return run, err
		}
	}
}

// WaitRuns blocks until every run has ended and returns their states. It calls
// progress, which may be nil, whenever more of them have ended. An id that the
// server does not know never ends: end ctx to give up.
func (c *Client) WaitRuns(ctx context.Context, ids []uuid.UUID, progress func(done, total int)) (map[uuid.UUID]task.State, error) {
	states := make(map[uuid.UUID]task.State, len(ids))
	pending := distinct(ids)
	total := len(pending)
	for len(pending) > 0 {
		window := pending[:min(len(pending), MaxBatch)]
		wait := batchWait
		if len(pending) > MaxBatch {
			wait = rotateWait
		}
		result, err := c.waitOnce(ctx, window, wait)
		if err != nil {
			return states, err
		}
		for _, ended := range result.Done {
			states[ended.ID] = ended.State
		}
		pending = rotate(pending, len(window), states)
		if progress != nil && len(result.Done) > 0 {
			progress(len(states), total)
		}
	}
	return states, nil
}

// FollowLogs gives each line of a run's log to each, in order, those written
// already and those to come, and returns when the run has ended.
func (c *Client) FollowLogs(ctx context.Context, id uuid.UUID, each func(task.LogLine)) error {
	var after int64
	ended := false
	for {
		var lines []task.LogLine
		err := c.endure(ctx, func() (err error) {
			lines, err = c.Logs(ctx, id, after, 0)
			return err
		})
		if err != nil {
			return err
		}
		for _, line := range lines {
			after = line.Seq
			each(line)
		}
		switch {
		case len(lines) > 0:
			continue
		case ended:
			return nil
		}
		err = c.endure(ctx, func() error {
			run, err := c.run(ctx, id, followWait)
			ended = run.State.Terminal()
			return err
		})
		if err != nil {
			return err
		}
	}
}

func (c *Client) waitOnce(ctx context.Context, ids []uuid.UUID, wait time.Duration) (WaitResult, error) {
	var result WaitResult
	err := c.endure(ctx, func() error {
		return c.do(ctx, call{
			method: "POST", path: "/runs/wait", body: WaitRequest{IDs: ids, Timeout: task.Duration(wait)},
			into: &result, again: true, wait: wait,
		})
	})
	return result, err
}

// endure calls ask until it succeeds, fails for another reason than an absent
// server, or the server has been away for longer than Config.Patience.
func (c *Client) endure(ctx context.Context, ask func() error) error {
	deadline := time.Now().Add(c.config.Patience)
	for {
		err := ask()
		if task.CodeOf(err) != task.CodeUnavailable || time.Now().After(deadline) {
			return err
		}
		if err := pause(ctx, absencePause); err != nil {
			return err
		}
	}
}

// rotate drops the ended ids and puts the asked ones that are left behind the
// others, so that a few slow runs do not hide what happens to the rest.
func rotate(pending []uuid.UUID, asked int, states map[uuid.UUID]task.State) []uuid.UUID {
	next := make([]uuid.UUID, 0, len(pending))
	next = append(next, pending[asked:]...)
	for _, id := range pending[:asked] {
		if _, ended := states[id]; !ended {
			next = append(next, id)
		}
	}
	return next
}

func distinct(ids []uuid.UUID) []uuid.UUID {
	seen := make(map[uuid.UUID]bool, len(ids))
	unique := make([]uuid.UUID, 0, len(ids))
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			unique = append(unique, id)
		}
	}
	return unique
}
