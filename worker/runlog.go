package worker

import (
	"fmt"
	"sync"
	"time"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// maxLine bounds one line of a run's log.
const maxLine = 16 << 10

// runLog numbers and limits the log lines of one attempt. The fence in the
// upper half of a line's number orders attempts and keeps a stale one apart.
type runLog struct {
	job *job

	mu   sync.Mutex
	n    int64
	left int64 // bytes that may still be written
	full bool
}

func (l *runLog) line(level, step, message string) {
	switch level {
	case "debug", "info", "warn", "error":
	default:
		level = "info"
	}
	if len(message) > maxLine {
		message = message[:maxLine] + fmt.Sprintf("… (%d bytes more)", len(message)-maxLine)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full {
		return
	}
	if l.left -= int64(len(message)); l.left < 0 {
		l.full = true
		level, message = "warn", fmt.Sprintf("the log of this attempt has reached its limit of %d bytes; what follows is not kept", l.job.session.cfg.LogLimit)
	}
	l.n++
	l.job.session.commits.log(store.LogRow{Run: l.job.claimed.ID, Line: task.LogLine{
		Seq: int64(l.job.claimed.Fence)<<32 | l.n, At: time.Now(), Level: level, Step: step, Message: message,
	}})
}
