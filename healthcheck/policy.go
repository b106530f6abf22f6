package healthcheck

import (
	"fmt"
	"hash/fnv"
	"math"
	"time"

	"github.com/catena-run/catena/task"
)

// Policy says when a worker is to be replaced. The zero value never does.
type Policy struct {
	MaxMemory uint64        // bytes of resident memory; 0: no limit
	MaxRuns   int64         // runs after which a worker is replaced; 0: no limit
	TTL       time.Duration // age at which a worker is replaced; 0: never
	// Jitter is added to TTL in part, a fixed part for each worker, so that
	// workers that started together are not replaced together.
	Jitter    time.Duration
	LateAfter time.Duration // how long a run may go on after its time limit, with all that is done to end it; 0: for ever
	// HangAfter is the silence after which a worker counts as hanging; 0: never. One
	// that uses the CPU meanwhile is busy or starved rather than hanging: it is
	// given busyFactor times as long.
	HangAfter time.Duration
}

// busyFactor is how many times HangAfter a worker may be silent while it uses the CPU.
const busyFactor = 3

// Validate names the field that is out of range.
func (p Policy) Validate() error {
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"ttl", p.TTL}, {"jitter", p.Jitter}, {"hangAfter", p.HangAfter}, {"lateAfter", p.LateAfter}} {
		if f.value < 0 {
			return task.Errorf(task.CodeInvalid, "must not be negative, is %s", f.value).At(f.name)
		}
	}
	if p.Jitter > math.MaxInt64-p.TTL {
		return task.Errorf(task.CodeInvalid, "ttl and jitter together are too long").At("jitter")
	}
	return nil
}

// Action is what the supervisor is to do with a worker.
type Action string

// The actions.
const (
	ActionNone    Action = "none"
	ActionRestart Action = "restart" // its replacement first, then a drain
	ActionKill    Action = "kill"    // at once: it cannot drain, or would take the machine down
)

// Cause is the rule that asked for a restart.
type Cause string

// The causes.
const (
	CauseHang   Cause = "hang"
	CauseMemory Cause = "memory"
	CauseAge    Cause = "age"
	CauseRuns   Cause = "runs"
	CauseLate   Cause = "late"  // a run goes on long after its time limit
	CauseAsked  Cause = "asked" // somebody asked for it
)

// Planned reports whether a restart for this cause says nothing bad about the
// runs in the worker.
func (c Cause) Planned() bool { return c == CauseAge || c == CauseRuns || c == CauseAsked }

// HardMemory is how many times MaxMemory a worker may have before it is killed
// instead of drained.
const HardMemory = 2

// Reason says why, for the supervisor and for people.
type Reason struct {
	Cause Cause
	Text  string
}

// String returns the text.
func (r Reason) String() string { return r.Text }

// Decide is pure: the same figures at the same time give the same answer. Of
// several reasons the most urgent is given: hang, memory, age, runs. A figure that is
// not known (zero) decides nothing.
func (p Policy) Decide(f Figures, now time.Time) (Action, Reason) {
	if silent := now.Sub(f.BeatAt); p.HangAfter > 0 && !f.BeatAt.IsZero() && silent > p.patience(f) {
		return ActionKill, Reason{CauseHang, fmt.Sprintf("no sign of life for %s, the limit is %s", silent.Round(time.Millisecond), p.patience(f))}
	}
	if p.LateAfter > 0 && f.Late > p.LateAfter {
		return ActionKill, Reason{CauseLate, fmt.Sprintf("its run %s goes on %s after its time limit", f.LateRun, f.Late.Round(time.Millisecond))}
	}
	if p.MaxMemory > 0 && f.RSS > p.MaxMemory {
		action := ActionRestart
		if f.RSS/HardMemory > p.MaxMemory {
			action = ActionKill
		}
		return action, Reason{CauseMemory, fmt.Sprintf("uses %s of memory, the limit is %s", Mebibytes(f.RSS), Mebibytes(p.MaxMemory))}
	}
	if limit := p.Lifetime(f.Worker); limit > 0 && !f.StartedAt.IsZero() && now.Sub(f.StartedAt) >= limit {
		return ActionRestart, Reason{CauseAge, fmt.Sprintf("is %s old, its limit is %s", now.Sub(f.StartedAt).Round(time.Second), limit.Round(time.Second))}
	}
	if p.MaxRuns > 0 && f.Runs >= p.MaxRuns {
		return ActionRestart, Reason{CauseRuns, fmt.Sprintf("has executed %d runs, the limit is %d", f.Runs, p.MaxRuns)}
	}
	return ActionNone, Reason{}
}

func (p Policy) patience(f Figures) time.Duration {
	if f.BusySince {
		return busyFactor * p.HangAfter
	}
	return p.HangAfter
}

// Lifetime is how old the worker may get: TTL and its own part of Jitter. 0: no limit.
func (p Policy) Lifetime(worker string) time.Duration {
	if p.TTL <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(worker))
	return p.TTL + time.Duration(float64(p.Jitter)*part(h.Sum64()))
}

// part maps a hash to [0,1). FNV spreads short, similar names badly in its high
// bits, so they are mixed first (the finalizer of MurmurHash3).
func part(h uint64) float64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return float64(h>>11) / (1 << 53)
}

// Mebibytes writes a number of bytes.
func Mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
