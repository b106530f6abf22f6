// Package server serves the shared listeners: every worker accepts from the
// listeners that its master bound, so that replacing a worker refuses nobody.
//
// For now it answers the status page and 404 elsewhere. It binds no address
// itself and keeps no state between requests.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// Limits of a connection, against slow and oversized clients.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 60 * time.Second
	idleTimeout   = 60 * time.Second
	maxHeader     = 64 << 10
)

// Server answers on the shared listeners.
type Server struct {
	version string
	log     logrus.FieldLogger
}

// New returns a server that tells the given version.
func New(version string, log logrus.FieldLogger) *Server { return &Server{version: version, log: log} }

// Serve accepts until ctx ends; then it closes the listener, answers what is
// under way and returns. It blocks.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout,
		WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	err := server.Shutdown(closing)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Handler answers one request.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.status)
	return mux
}

// Status is the status page in JSON.
type Status struct {
	Status  int    `json:"status"`
	Version string `json:"version"`
	Host    string `json:"host"`
	URL     string `json:"url"`
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		answer := Status{Status: http.StatusOK, Version: s.version, Host: r.Host, URL: r.URL.Path}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			s.log.WithError(err).Debug("a client left before its answer")
		}
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = fmt.Fprintf(w, "<h1>OK, version=%s</h1>\n", html.EscapeString(s.version))
}
