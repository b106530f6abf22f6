package cli

import (
	"fmt"
	"time"

	"github.com/catena-run/catena/telemetry"
)

// How often progress is shown: to a person in place, to a file line by line.
const (
	progressTerminal = 100 * time.Millisecond
	progressFile     = 5 * time.Second
)

// progress shows on stderr how far a long command is. Its methods are called
// by one goroutine at a time.
type progress struct {
	s        *session
	terminal bool
	shown    time.Time
	open     bool // a line without its end stands on the terminal
}

func newProgress(s *session) *progress {
	return &progress{s: s, terminal: telemetry.IsTerminal(s.err), shown: s.Now()}
}

// show tells that done of total are what.
func (p *progress) show(what string, done, total int) {
	every := progressFile
	if p.terminal {
		every = progressTerminal
	}
	now := p.s.Now()
	if now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	if !p.terminal {
		p.s.note("%d of %d %s", done, total, what)
		return
	}
	p.open = true
	fmt.Fprintf(p.s.err, "\r\x1b[K%d of %d %s", done, total, what)
}

// end clears the line in place.
func (p *progress) end() {
	if p.open {
		fmt.Fprint(p.s.err, "\r\x1b[K")
		p.open = false
	}
}
