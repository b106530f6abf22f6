package server

import (
	"encoding/json"
	"fmt"
	"html"
	"log"
	"net/http"
	"strconv"
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
		s.counts.inFlight.Add(1)
		defer s.counts.inFlight.Add(-1)
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		if s.page.answer(w, r) {
			s.counts.answered(http.StatusOK)
			return
		}
		counted := s.writers.get(w)
		r.Body = http.MaxBytesReader(w, r.Body, s.cfg.MaxBody)
		mux.ServeHTTP(counted, r)
		s.counts.answered(max(counted.status, http.StatusOK))
		s.writers.put(counted)
	})
}

// statusPage is the page as it is asked for most, by load balancers many times
// a second, with everything about it made beforehand.
type statusPage struct {
	text                       []byte
	kind, length, cacheControl []string
}

func newStatusPage(version string) statusPage {
	text := fmt.Sprintf("<h1>OK, version=%s</h1>\n", html.EscapeString(version))
	return statusPage{
		text: []byte(text), kind: []string{"text/html; charset=utf-8"}, length: []string{strconv.Itoa(len(text))}, cacheControl: []string{"no-store"},
	}
}

// answer reports false when somebody wants something else, which the mux then tells.
func (p *statusPage) answer(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet || r.URL.Path != statusPaths[0] && r.URL.Path != statusPaths[1] || wantsJSON(r) {
		return false
	}
	p.write(w)
	return true
}

func (p *statusPage) write(w http.ResponseWriter) {
	header := w.Header()
	header["Content-Type"], header["Content-Length"], header["Cache-Control"] = p.kind, p.length, p.cacheControl
	_, _ = w.Write(p.text)
}

func wantsJSON(r *http.Request) bool {
	for _, accept := range r.Header["Accept"] {
		if strings.Contains(accept, "application/json") {
			return true
		}
	}
	return r.URL.RawQuery != "" && r.URL.Query().Get("format") == "json"
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
	if wantsJSON(r) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "application/json")
		answer := Status{Status: http.StatusOK, Version: s.cfg.Version, Host: r.Host, URL: r.URL.Path, Subsystem: "server"}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			s.log.WithError(err).Debug("a client left before its answer")
		}
		return
	}
	s.page.write(w) // of a HEAD
}

// errorLog passes what net/http has to say about broken clients to the log, as
// details: none of it is a fault of this process.
type errorLog struct{ log logrus.FieldLogger }

func newErrorLog(l logrus.FieldLogger) *log.Logger { return log.New(errorLog{l}, "", 0) }

func (e errorLog) Write(line []byte) (int, error) {
	e.log.Debug(strings.TrimSpace(string(line)))
	return len(line), nil
}
