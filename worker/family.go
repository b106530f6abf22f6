package worker

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

const (
	spawnRows  = 500     // children in one commit
	spawnBytes = 4 << 20 // of what they are given
)

// waits returns the outcomes of the waits that are over.
func (j *job) waits() map[chain.WaitKey]chain.Waited {
	if len(j.claimed.Waits) == 0 {
		return nil
	}
	waits := make(map[chain.WaitKey]chain.Waited, len(j.claimed.Waits))
	for _, w := range j.claimed.Waits {
		waits[chain.WaitKey{Iteration: w.Iteration, Path: w.Path}] = chain.Waited{Outcome: w.Outcome, Since: w.Since}
	}
	return waits
}

// entry returns the part of the chain that a spawned run executes, nil for all of it.
func (j *job) entry() (*chain.Entry, error) {
	if len(j.claimed.Entry) == 0 {
		return nil, nil
	}
	e := &chain.Entry{}
	if err := json.Unmarshal(j.claimed.Entry, e); err != nil {
		return nil, task.Errorf(task.CodeInternal, "what the run was given cannot be read: %w", err)
	}
	return e, nil
}

// parked ends the run's stay here until what it waits for has come.
func (j *job) parked(result chain.Result) *store.Ending {
	p := result.Parked
	park := &store.Park{Kind: p.Kind, Iteration: p.Iteration, Path: p.Path, Name: p.Name, Key: p.Key, For: p.For, Stop: p.Stop, Steps: result.Steps,
		Detail: task.WaitDetail{Late: p.Late, Run: p.Child, Children: p.Children}}
	if p.Kind == task.WaitChildren {
		park.Detail.Group, park.Detail.Max = j.group(p.Iteration, p.Path), j.session.cfg.MaxOutcome
	}
	e := j.ending(task.StateWaiting, chain.Result{}, "")
	e.Outcome, e.Park = nil, park
	return e
}

// group names the children of one item. Another attempt of the run, and one
// that was retried by hand, has other children.
func (j *job) group(iteration int, path string) string {
	group := j.claimed.ID.String() + "/" + strconv.Itoa(iteration) + "/" + path + "@" + strconv.Itoa(j.claimed.Attempt)
	if j.claimed.RetriedAt != nil {
		group += "." + strconv.FormatInt(j.claimed.RetriedAt.UnixMicro(), 36)
	}
	return group
}

// StartTask starts a run of another task as a child; the key makes a repeated
// step start it once in an attempt.
func (j *job) StartTask(ctx context.Context, s chain.Start) (uuid.UUID, error) {
	parent := &store.Parent{Run: j.claimed.ID, Path: s.Path, InheritCancel: s.InheritCancel}
	key := j.group(s.Iteration, s.Path)
	if s.Wait {
		parent.Group = key
	}
	accepted, err := j.submit(ctx, []dispatch.Request{{Task: s.Task, Params: s.Params, Key: key, Parent: parent, Trace: string(telemetry.TraceIn(ctx))}})
	if err != nil {
		return uuid.Nil, err
	}
	return accepted[0].ID, nil
}

// Spawn starts a child for each entry, some hundreds in one commit. Those that
// are there already, from before a crash, are not doubled.
func (j *job) Spawn(ctx context.Context, s chain.Spawn) error {
	group, trace := j.group(s.Iteration, s.Path), string(telemetry.TraceIn(ctx))
	var requests []dispatch.Request
	size := 0
	for i := range s.Entries {
		e := s.Entries[i]
		e.Group = group
		entry, err := json.Marshal(e)
		if err != nil {
			return err
		}
		parent := &store.Parent{Run: j.claimed.ID, Path: s.Path, InheritCancel: s.InheritCancel, Group: group, Stop: s.Stop, Limit: s.Limit,
			Entry: entry, Revision: j.claimed.Revision, Release: j.claimed.Release}
		requests = append(requests, dispatch.Request{Task: j.claimed.Task, Params: j.claimed.Params, Key: group + "/" + strconv.Itoa(e.Index), Parent: parent, Trace: trace})
		size += len(entry) + len(j.claimed.Params)
		if len(requests) < spawnRows && size < spawnBytes && i < len(s.Entries)-1 {
			continue
		}
		if _, err := j.submit(ctx, requests); err != nil {
			return err
		}
		requests, size = requests[:0], 0
	}
	return nil
}

// submit starts runs. An unreachable database is no fault of this run: it
// waits, and the keys make the repetition safe.
func (j *job) submit(ctx context.Context, requests []dispatch.Request) ([]dispatch.Accepted, error) {
	for {
		if err := j.session.gate.pass(j.soft); err != nil {
			return nil, err
		}
		accepted, err := j.session.deps.Dispatch.Submit(ctx, requests)
		if err == nil || !store.Unreachable(err) || ctx.Err() != nil || j.soft.Err() != nil {
			return accepted, err
		}
		pause(ctx, 200*time.Millisecond)
	}
}
