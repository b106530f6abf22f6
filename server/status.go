package server

import (
	"encoding/json"
	"fmt"
	"html"
	"log"
	"net/http"
	"strings"

	"github.com/sirupsen/logrus"
)

// statusPaths are where the status page is; the second is what load balancers
// of the system before this one ask.
var statusPaths = [...]string{"/status", "/izyproxystatus"}

// Handler answers one request.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, path := range statusPaths {
		mux.HandleFunc("GET "+path, s.status)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		r.Body = http.MaxBytesReader(w, r.Body, s.cfg.MaxBody)
		mux.ServeHTTP(w, r)
	})
}

// Status is the status page in JSON.
type Status struct {
	Status    int    `json:"status"`
	Version   string `json:"version"`
	Host      string `json:"host"`
	URL       string `json:"url"`
	Subsystem string `json:"subsystem"`
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		answer := Status{Status: http.StatusOK, Version: s.cfg.Version, Host: r.Host, URL: r.URL.Path, Subsystem: "server"}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			s.log.WithError(err).Debug("a client left before its answer")
		}
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = fmt.Fprintf(w, "<h1>OK, version=%s</h1>\n", html.EscapeString(s.cfg.Version))
}

// errorLog passes what net/http has to say about broken clients to the log, as
// details: none of it is a fault of this process.
type errorLog struct{ log logrus.FieldLogger }

func newErrorLog(l logrus.FieldLogger) *log.Logger { return log.New(errorLog{l}, "", 0) }

func (e errorLog) Write(line []byte) (int, error) {
	e.log.Debug(strings.TrimSpace(string(line)))
	return len(line), nil
}
