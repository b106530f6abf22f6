// Package server serves the shared listeners: a master binds every address
// once, its workers inherit the descriptors and all accept from one queue, so
// that replacing a worker refuses nobody.
//
// A worker that drains stops accepting, says "Connection: close" in each further answer
// (GOAWAY in HTTP/2) and gives connections that are idle a grace in which
// a request of theirs is still answered. The package decides nothing about
// runs and keeps no state between requests.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/net/netutil"
)

// Config bounds what clients may ask of a worker.
type Config struct {
	Version       string
	HeaderTimeout time.Duration // for the header of a request
	ReadTimeout   time.Duration // for a whole request
	WriteTimeout  time.Duration // from the end of the header to the end of the answer
	IdleTimeout   time.Duration // between two requests of a connection
	DrainGrace    time.Duration // in which idle connections may still send a request while the worker drains
	DrainTimeout  time.Duration // for requests under way at a drain, the grace included
	MaxHeader     int           // bytes
	MaxBody       int64         // bytes
	MaxConns      int           // open connections of one listener and worker; further ones wait in the queue that all workers share
	Certificate   string        // PEM file, of the listeners with TLS
	Key           string        // PEM file
}

// DefaultConfig is safe against slow and oversized clients.
func DefaultConfig() Config {
	return Config{
		HeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		DrainGrace: 5 * time.Second, DrainTimeout: 30 * time.Second, MaxHeader: 64 << 10, MaxBody: 16 << 20, MaxConns: 4096,
	}
}

// Server answers on the shared listeners.
type Server struct {
	cfg      Config
	log      logrus.FieldLogger
	draining atomic.Bool
	open     atomic.Int64 // connections
	counts   counts
	writers  statusWriters
	page     statusPage
}

// New returns a server; zero values of the configuration get their defaults.
func New(cfg Config, log logrus.FieldLogger) *Server {
	return &Server{cfg: cfg.withDefaults(), log: log, page: newStatusPage(cfg.Version)}
}

func (c Config) withDefaults() Config {
	d := DefaultConfig()
	for _, value := range []struct{ given, fallback *time.Duration }{
		{&c.HeaderTimeout, &d.HeaderTimeout}, {&c.ReadTimeout, &d.ReadTimeout}, {&c.WriteTimeout, &d.WriteTimeout},
		{&c.IdleTimeout, &d.IdleTimeout}, {&c.DrainGrace, &d.DrainGrace}, {&c.DrainTimeout, &d.DrainTimeout},
	} {
		if *value.given == 0 {
			*value.given = *value.fallback
		}
	}
	if c.MaxHeader == 0 {
		c.MaxHeader = d.MaxHeader
	}
	if c.MaxBody == 0 {
		c.MaxBody = d.MaxBody
	}
	if c.MaxConns == 0 {
		c.MaxConns = d.MaxConns
	}
	return c
}

// Serve accepts on the listeners until ctx ends; then it drains and returns. It
// blocks and closes the listeners.
func (s *Server) Serve(ctx context.Context, listeners []Listener) error {
	server := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: s.cfg.HeaderTimeout, ReadTimeout: s.cfg.ReadTimeout,
		WriteTimeout: s.cfg.WriteTimeout, IdleTimeout: s.cfg.IdleTimeout, MaxHeaderBytes: s.cfg.MaxHeader,
		ConnState: s.count, ErrorLog: newErrorLog(s.log),
	}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	listeners = s.prepare(server, listeners)
	accepting, ended := s.accept(server, listeners)
	var err error
	select {
	case err = <-ended:
		err = errors.Join(err, server.Close())
	case <-ctx.Done():
		err = s.drain(ctx, server, listeners, accepting)
	}
	accepting.Wait()
	return err
}

// prepare limits the connections of each listener and prepares TLS. Without a usable certificate the listeners that
// need one are given up, and the others are served.
func (s *Server) prepare(server *http.Server, listeners []Listener) (served []Listener) {
	for _, l := range listeners {
		if l.TLS() && server.TLSConfig == nil {
			certificates, err := loadCertificates(s.cfg.Certificate, s.cfg.Key, s.log)
			if err != nil {
				s.log.WithError(err).WithField("address", l.Addr().String()).Error("a listener is not served")
				_ = l.Close()
				continue
			}
			server.TLSConfig = &tls.Config{GetCertificate: certificates.get, MinVersion: tls.VersionTLS12}
		}
		served = append(served, Listener{netutil.LimitListener(l, s.cfg.MaxConns), l.Kind})
	}
	return served
}

// accept serves every listener in a goroutine of its own. An error that ends
// one while nobody has asked for it is sent to ended.
func (s *Server) accept(server *http.Server, listeners []Listener) (*sync.WaitGroup, <-chan error) {
	ended, accepting := make(chan error, len(listeners)), new(sync.WaitGroup)
	for _, l := range listeners {
		accepting.Go(func() {
			serve := server.Serve
			if l.TLS() {
				serve = func(n net.Listener) error { return server.ServeTLS(n, "", "") }
			}
			err := serve(l)
			if !errors.Is(err, http.ErrServerClosed) && !s.draining.Load() {
				ended <- fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
		})
	}
	return accepting, ended
}

func (s *Server) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.open.Add(1)
		s.counts.accepted.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.open.Add(-1)
	}
}

const drainCheck = 10 * time.Millisecond

// drain closes this process's share of the listeners, lets the connections end
// in order and then ends what is left. What is under way may take as long as
// the worker's drain may. net/http drops a request without an answer that it reads after
// Shutdown began: the last connection that was accepted must be counted before.
func (s *Server) drain(ctx context.Context, server *http.Server, listeners []Listener, accepting *sync.WaitGroup) error {
	s.draining.Store(true)
	for _, l := range listeners {
		_ = l.Close()
	}
	accepting.Wait()
	ctx = context.WithoutCancel(ctx)
	grace, cancel := context.WithTimeout(ctx, min(s.cfg.DrainGrace, s.cfg.DrainTimeout))
	defer cancel()
	ticker := time.NewTicker(drainCheck)
	defer ticker.Stop()
	for s.open.Load() > 0 && grace.Err() == nil {
		select {
		case <-ticker.C:
		case <-grace.Done():
		}
	}
	closing, cancel := context.WithTimeout(ctx, max(s.cfg.DrainTimeout-s.cfg.DrainGrace, time.Second))
	defer cancel()
	if err := server.Shutdown(closing); err != nil && !errors.Is(err, net.ErrClosed) { // the listeners are closed already
		return errors.Join(fmt.Errorf("requests were cut off: %w", err), server.Close())
	}
	return nil
}
