package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/node"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// DevData is where dev keeps its data unless told otherwise, below the folder
// it is started in.
const DevData = node.DevData

// DevFile is what a running dev writes to DevFileName in its data folder, mode
// 0600, and removes when it ends. Commands in the same folder and below use it.
type DevFile = node.DevFile

// DevFileName is the name of the DevFile in the data folder.
const DevFileName = node.DevFileName

// Variables of the client.
const (
	envServer = "CATENA_SERVER"
	envToken  = "CATENA_TOKEN"
	envConfig = "CATENA_CONFIG"

	// Not ours: by these a calling program hands its trace on.
	envTraceParent = "TRACEPARENT"
	envTraceState  = "TRACESTATE"
)

// env returns a variable of the program's environment, "" when it is not set.
func (p Program) env(name string) string {
	for i := len(p.Environ) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(p.Environ[i], name+"="); ok {
			return value
		}
	}
	return ""
}

// endpoint is the server that a command talks to.
type endpoint struct {
	server string
	token  string
	origin string // who named the server
}

const originDefault = "the default"

// endpoint finds the server: flags, then variables, then a dev that runs in
// this folder or above, then the default. A token of the environment is for
// another server than the dev of a folder: with it, no dev is looked for.
func (s *session) endpoint() endpoint {
	e := endpoint{server: s.server, token: s.token, origin: "--server"}
	if e.server == "" {
		e.server, e.origin = s.env(envServer), envServer
	}
	if e.token == "" {
		e.token = s.env(envToken)
	}
	if e.server != "" {
		return e
	}
	if e.token == "" || s.token != "" {
		if dev, dir, ok := s.runningDev(); ok {
			return endpoint{server: dev.Admin, token: cmp.Or(s.token, dev.Token), origin: "the dev that runs in " + dir}
		}
	}
	e.server, e.origin = client.DefaultServer, originDefault
	return e
}

// explainAbsence says how to wait longer for a server that is silent and, when no
// server was named and the default one does not answer or wants a token, where a dev was looked for.
func (s *session) explainAbsence(err error) error {
	var coded *task.Error
	if errors.As(err, &coded) && coded.Code == task.CodeUnavailable && errors.Is(err, context.DeadlineExceeded) {
		remedy := "is it stopped or overloaded? look at its log, or name another server with --server"
		if !s.ownTimeout {
			remedy += "; wait longer with --timeout " + durationText(4*s.timeout)
		}
		return coded.Fix("%s", remedy)
	}
	if !s.guessed || !errors.As(err, &coded) || coded.Code != task.CodeUnavailable && coded.Code != task.CodeUnauthorized {
		return err
	}
	dir := s.Dir
	if absolute, err := filepath.Abs(dir); err == nil {
		dir = absolute
	}
	return task.Errorf(coded.Code, "no server is named, no catena dev runs in %s or a folder above it, and the default server refused: %s", dir, coded.Message).
		At(coded.Where).Fix("name the server with --server or CATENA_SERVER (and --token or CATENA_TOKEN), or run this from the folder where catena dev runs")
}

// runningDev reads the dev.json of this folder or of the nearest one above it
// that has one; false when no dev runs there.
func (s *session) runningDev() (dev DevFile, dir string, ok bool) {
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return DevFile{}, "", false
	}
	for {
		if dev, ok := readDev(filepath.Join(dir, DevData, DevFileName)); ok {
			return dev, dir, true
		}
		above := filepath.Dir(dir)
		if above == dir {
			return DevFile{}, "", false
		}
		dir = above
	}
}

// readDev reads a dev.json. One that another user wrote is left alone: a
// folder above may be everybody's, such as /tmp, and the server that it names sees
// what is sent.
func readDev(path string) (DevFile, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return DevFile{}, false
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
		return DevFile{}, false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return DevFile{}, false
	}
	var dev DevFile
	if json.Unmarshal(text, &dev) != nil || dev.Admin == "" || !alive(dev.PID) {
		return DevFile{}, false
	}
	return dev, true
}

// alive reports whether a process exists, which may belong to another user.
func alive(pid int) bool {
	if pid <= 0 {
		return false
	}
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// defaultTimeout is how long a server may take to answer: as long as it gives itself.
const defaultTimeout = 30 * time.Second

func (s *session) client() (*client.Client, error) {
	if s.timeout <= 0 {
		return nil, &usageError{message: "--timeout must be above 0s", usage: "catena --timeout 30s COMMAND", help: "catena --help"}
	}
	e := s.endpoint()
	s.guessed = e.origin == originDefault
	c, err := client.New(client.Config{Server: e.server, Token: e.token, UserAgent: "catena/" + s.Version, Timeout: s.timeout, GiveUp: s.timeout,
		TraceParent: headerText(s.env(envTraceParent)), TraceState: headerText(s.env(envTraceState))})
	if err == nil {
		s.clients = append(s.clients, c)
		return c, nil
	}
	usage := &usageError{message: err.Error(), usage: "catena --server URL --token TOKEN COMMAND", help: "catena --help"}
	var coded *task.Error
	if errors.As(err, &coded) {
		usage.message = coded.Error()
	}
	return nil, usage
}

// warnOfTrace tells when the trace that the run was to belong to cannot be read.
func (s *session) warnOfTrace() {
	if text := s.env(envTraceParent); text != "" && telemetry.TraceFrom(text, "").ID() == "" {
		s.note("warning: %s %q is no W3C trace context, so the run belongs to no trace of the caller; it looks like 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
			envTraceParent, short(text, 60))
	}
}

// headerText drops what no header can hold.
func headerText(text string) string {
	for _, c := range text {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return text
}
