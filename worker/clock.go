package worker

import "time"

// clockOffset is what the worker knows of its clock, for its heartbeat.
func (s *session) clockOffset() *time.Duration {
	offset, _, known := s.clock.Offset()
	if !known {
		return nil
	}
	return &offset
}

// readClock compares the clocks after a heartbeat, and tells when this host's
// goes wrong or is right again.
func (s *session) readClock(sent, theirs time.Time) {
	s.clock.Add(sent, time.Now(), theirs)
	far, news := s.clock.Turned()
	if !news {
		return
	}
	offset, _, _ := s.clock.Offset()
	log := s.log.WithField("offset", offset.Round(time.Millisecond).String())
	if far {
		log.Warn("the clock of this worker is far from the database's: synchronise the clocks; times of runs and logs are those of the worker")
		return
	}
	log.Info("the clock of this worker agrees with the database's again")
}
