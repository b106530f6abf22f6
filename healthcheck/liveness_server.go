package healthcheck

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// ListeningLiveness is Liveness on a listener of its own. It may be started once.
type ListeningLiveness struct {
	*Liveness
	listener net.Listener
	server   *http.Server
	started  atomic.Bool
	ended    chan struct{}
}

var _ LivenessServer = (*ListeningLiveness)(nil)

// NewListeningLiveness answers on listener, which is closed by Stop; timeout is
// that of NewLiveness.
func NewListeningLiveness(listener net.Listener, timeout time.Duration) *ListeningLiveness {
	l := NewLiveness(timeout)
	return &ListeningLiveness{Liveness: l, listener: listener, ended: make(chan struct{}), server: &http.Server{
		Handler: l, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}}
}

// Addr is where it listens.
func (l *ListeningLiveness) Addr() net.Addr { return l.listener.Addr() }

// Start answers until Stop; it returns at once.
func (l *ListeningLiveness) Start(context.Context) error {
	if !l.started.CompareAndSwap(false, true) {
		return errors.New("the liveness server was started before")
	}
	go func() {
		defer close(l.ended)
		_ = l.server.Serve(l.listener) // always ends with an error: that of Stop, or of a listener that broke
	}()
	return nil
}

// Stop waits for answers under way until ctx ends.
func (l *ListeningLiveness) Stop(ctx context.Context) error {
	if !l.started.Load() {
		return l.listener.Close()
	}
	err := l.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, l.server.Close())
	}
	<-l.ended
	return err
}
