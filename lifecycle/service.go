package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Runner is the contract of everything that runs in the background.
//
// Start returns when the thing works or cannot; starting what runs is an error.
// Stop blocks until it has ended or ctx is over, whichever comes first, and
// returns an error only in the second case or when the end itself failed;
// stopping what does not run, twice or never started, is fine.
// Both may be called from several goroutines. lifecycletest.Run checks all this.
type Runner interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
}

// ErrRunning is returned by Start when the service runs already.
var ErrRunning = errors.New("already running")

// Service makes a Runner of a function that runs until its context ends. It can
// be started again after it has ended.
type Service struct {
	name string
	run  func(ctx context.Context) error

	mu     sync.Mutex
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned; nil: never started
	err    error
}

var _ Runner = (*Service)(nil)

// NewService names a background function. run must return soon after its
// context ends; an error that it returns before is kept for Err.
func NewService(name string, run func(ctx context.Context) error) *Service {
	return &Service{name: name, run: run}
}

// Start begins to run. The function's context keeps ctx's values and ends with
// Stop or with ctx.
func (s *Service) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		return fmt.Errorf("%s: %w", s.name, ErrRunning)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", s.name, context.Cause(ctx))
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.done, s.err = make(chan struct{}), nil
	go s.loop(ctx, s.cancel, s.done)
	return nil
}

func (s *Service) loop(ctx context.Context, cancel context.CancelFunc, done chan struct{}) {
	defer cancel()
	err := s.run(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // it was told to end
	}
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	close(done)
}

// running tells whether run has not returned yet; s.mu is held.
func (s *Service) running() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Stop ends the function's context and waits for it to return.
func (s *Service) Stop(ctx context.Context) error {
	s.mu.Lock()
	cancel, done := s.cancel, s.done
	s.mu.Unlock()
	if done == nil {
		return nil
	}
	cancel()
	select {
	case <-done:
		return nil
	default:
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s has not ended: %w", s.name, context.Cause(ctx))
	}
}

// Done is closed when the function that was started last has returned. It is nil
// before the first Start.
func (s *Service) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// Err is what the function returned when it ended by itself.
func (s *Service) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
