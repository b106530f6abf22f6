package cli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// DevData is where dev keeps its data unless told otherwise, below the folder
// it is started in.
const DevData = ".catena/dev"

// DevFile is what a running dev writes to dev.json in its data folder, mode
// 0600, and removes when it ends. Commands in the same folder use it.
type DevFile struct {
	Admin string `json:"admin"`
	HTTP  string `json:"http"`
	Token string `json:"token"`
	PID   int    `json:"pid"`
}

// DevFileName is the name of the DevFile in the data folder.
const DevFileName = "dev.json"

// Variables of the client.
const (
	envServer = "CATENA_SERVER"
	envToken  = "CATENA_TOKEN"
	envConfig = "CATENA_CONFIG"
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

// endpoint finds the server: flags, then variables, then a dev that runs in
// this folder, then the default. The address and the token of a dev are only
// taken together, so that a token never goes to a server it is not meant for.
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
	if e.token == "" {
		if dev, ok := s.runningDev(); ok {
			return endpoint{server: dev.Admin, token: dev.Token, origin: "the dev that runs in this folder"}
		}
	}
	e.server, e.origin = client.DefaultServer, "the default"
	return e
}

// runningDev reads the dev.json of this folder; false when no dev runs here.
func (s *session) runningDev() (DevFile, bool) {
	text, err := os.ReadFile(filepath.Join(s.Dir, DevData, DevFileName))
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

func (s *session) client() (*client.Client, error) {
	e := s.endpoint()
	c, err := client.New(client.Config{Server: e.server, Token: e.token, UserAgent: "catena/" + s.Version})
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
