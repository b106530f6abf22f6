package master

import "time"

// awake is told of each check of the process; the caller holds p.mu. When the
// checks themselves have paused, because this master was suspended or got no
// processor, the silence of the worker says nothing: its reports are still in
// the pipe. It is given another time to be silent.
func (p *process) awake(now time.Time) {
	if !p.checked.IsZero() && now.Sub(p.checked) > 2*p.cfg.CheckEvery {
		p.beat = now
		p.log.WithField("paused", now.Sub(p.checked).Round(time.Millisecond)).Warn("this master did not check its worker for a while")
	}
	p.checked = now
}
