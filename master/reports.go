package master

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// ReportFD is the descriptor on which a supervised worker writes its Reports and
// reads its master's Words, a JSON object a line. A write that fails tells it
// that its master is gone.
const ReportFD = 3

// SlotVariable tells a supervised worker which of its master's places it fills.
// A binary that does not know the variable leaves it alone.
const SlotVariable = "CATENA_INTERNAL_SLOT"

// Report is what a supervised worker tells its master.
type Report struct {
	Epoch   int64  `json:"epoch,omitempty"` // a new session began
	ID      string `json:"id,omitempty"`
	Alive   bool   `json:"alive,omitempty"`   // a sign of life, each second, for a master that sends no probes
	Probe   int64  `json:"probe,omitempty"`   // the answer to that probe
	Runs    int64  `json:"runs,omitempty"`    // executed since the process began
	Running int    `json:"running,omitempty"` // runs in hand
	LateRun string `json:"late_run,omitempty"`
	LateMS  int64  `json:"late_ms,omitempty"` // how long ago the time limit of that run was over
	Memory  string `json:"memory,omitempty"`  // it kills itself, for its memory
	Failed  string `json:"failed,omitempty"`  // it ends with this error
	// Goroutines of the process, with a sign of life.
	Goroutines int `json:"goroutines,omitempty"`
	// Metrics of the process as telemetry.EncodeFamilies writes them, now and then and at its end.
	Metrics []byte `json:"metrics,omitempty"`
}

// crashLines is how much of what a crashing process says is kept: enough to tell what for.
const crashLines = 12

// read follows the worker's reports until its end of the link is closed. What
// is no report is the Go runtime's account of a crash.
func (p *process) read() {
	defer close(p.ended)
	defer p.link.Close()
	lines := bufio.NewReader(p.link)
	for {
		line, err := lines.ReadString('\n')
		if text := strings.TrimSpace(line); text != "" {
			var r Report
			if json.Unmarshal([]byte(text), &r) == nil {
				if p.cfg.Verbose.Reports && r.Metrics == nil {
					p.log.WithField("report", text).Info("worker reports")
				}
				p.note(r)
			} else {
				p.crashed(text)
			}
		}
		if err != nil {
			return
		}
	}
}

// key names the process among those that ever were in this master.
func (p *process) key() string { return fmt.Sprintf("%d-%d", p.child.PID(), p.started.UnixNano()) }

func (p *process) note(r Report) {
	if len(r.Metrics) > 0 {
		if err := p.sums.Update(p.key(), r.Metrics); err != nil {
			p.log.WithError(err).Debug("cannot read the worker's metrics")
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Epoch != 0 {
		if p.epoch == 0 {
			close(p.ready)
			p.begun()
		}
		p.enroll(p.epoch, r.Epoch)
		p.epoch, p.id = r.Epoch, r.ID
		p.place.works(p.child.PID())
	}
	p.heard = true
	p.runs = max(p.runs, r.Runs)
	if r.Goroutines > 0 {
		p.goroutines = r.Goroutines
	}
	if r.Memory != "" {
		p.memory = r.Memory
	}
	if r.Failed != "" {
		p.failure = r.Failed
	}
	if r.Probe != 0 {
		p.probed = true
		p.late, p.lateRun = time.Duration(r.LateMS)*time.Millisecond, r.LateRun
	}
	if r.Probe != 0 || !p.probed {
		p.beat = time.Now()
	}
}

// enroll has orders find the process by its session.
func (p *process) enroll(before, epoch int64) {
	p.supervisor.mu.Lock()
	defer p.supervisor.mu.Unlock()
	delete(p.processes, before)
	p.processes[epoch] = p
}

func (p *process) crashed(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.HasPrefix(line, "{") {
		return // a report that was cut off
	}
	if len(p.crash) < crashLines && !strings.HasPrefix(line, "/") && line != "runtime stack:" {
		p.crash = append(p.crash, line[:min(len(line), 300)])
	}
}

// outOfMemory reports whether a crash was for want of memory. What the Go runtime
// says of it goes to the standard error alone; here is where it was.
func outOfMemory(crash []string) bool {
	for _, line := range crash {
		for _, place := range []string{"runtime.sysMap", "runtime.sysReserve", "runtime.persistentalloc", "runtime.(*mcache).allocLarge(", "runtime.(*mheap).grow("} {
			if strings.HasPrefix(line, place) {
				return true
			}
		}
	}
	return false
}

// crashText is what there is to say of another crash.
func crashText(crash []string) string {
	switch {
	case len(crash) == 0:
		return ""
	case strings.HasPrefix(crash[0], "panic: "):
		return crash[0]
	}
	return "a fatal error of the Go runtime, see its log"
}
