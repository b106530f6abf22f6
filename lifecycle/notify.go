package lifecycle

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What a process tells its service manager, see sd_notify(3).
const (
	NotifyReady    = "READY=1"
	NotifyStopping = "STOPPING=1"
)

// Where Notify sends to: the service manager's socket and, in a process that was
// started to go on for another, that one's.
const (
	managerVariable = "NOTIFY_SOCKET"
	parentVariable  = "CATENA_INTERNAL_NOTIFY_SOCKET"
)

// NotifyMainPID says that another process goes on for this one.
func NotifyMainPID(pid int) string { return "MAINPID=" + strconv.Itoa(pid) }

// Notify tells the service manager, and a parent that waits for it, of a
// change, where they are there; else it does nothing.
func Notify(states ...string) error {
	text := []byte(strings.Join(states, "\n"))
	var failed error
	for _, variable := range []string{managerVariable, parentVariable} {
		if path := os.Getenv(variable); path != "" {
			failed = errors.Join(failed, send(path, text))
		}
	}
	return failed
}

// ForgetParent ends what Notify tells the parent.
func ForgetParent() { _ = os.Unsetenv(parentVariable) }

func send(path string, text []byte) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write(text)
	return err
}

// Readiness is the other end of Notify: what a parent gives a child to hear of
// its readiness.
type Readiness struct {
	conn *net.UnixConn
	dir  string
}

// NewReadiness makes a socket for one child.
func NewReadiness() (*Readiness, error) {
	dir, err := os.MkdirTemp("", "catena-notify-")
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return &Readiness{conn: conn, dir: dir}, nil
}

// Env is environ with the socket as the parent's.
func (r *Readiness) Env(environ []string) []string {
	kept := environ[:0:0]
	for _, v := range environ {
		if !strings.HasPrefix(v, parentVariable+"=") {
			kept = append(kept, v)
		}
	}
	return append(kept, parentVariable+"="+r.conn.LocalAddr().String())
}

// Wait blocks until the child is ready or ctx ends.
func (r *Readiness) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = r.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4096)
	for {
		n, err := r.conn.Read(buf)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		for _, state := range strings.Split(string(buf[:n]), "\n") {
			if state == NotifyReady {
				return nil
			}
		}
	}
}

// Close removes the socket.
func (r *Readiness) Close() {
	_ = r.conn.Close()
	_ = os.RemoveAll(r.dir)
}
