package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/catena-run/catena/task"
)

// The kinds of listeners.
const (
	KindHTTP  = "http"
	KindHTTPS = "https"
	KindUnix  = "unix"
)

// Address is where a shared listener is to be bound.
type Address struct {
	Kind string // KindHTTP, KindHTTPS or KindUnix
	Text string // host:port, or the path of a unix socket
	Key  string // the configuration key, for errors
}

// Listener is a shared listener in this process.
type Listener struct {
	net.Listener
	Kind string
}

// TLS reports whether the listener wants a certificate.
func (l Listener) TLS() bool { return l.Kind == KindHTTPS }

// Bound are the shared listeners of a master, which accepts from none of them:
// its workers inherit the descriptors.
type Bound struct {
	kinds []string
	files []*os.File
	addrs []string
	paths []string // of unix sockets
}

// Bind binds every address, or none and says which stands in the way. What was
// given to this process, by kind, is taken instead of binding anew.
func Bind(addresses []Address, given map[string]*os.File) (*Bound, error) {
	b := &Bound{}
	for _, a := range addresses {
		if err := b.bind(a, given[a.Kind]); err != nil {
			b.Close()
			return nil, err
		}
	}
	return b, nil
}

// Listen binds one address for this process alone, or takes the listener that
// was given to it.
func Listen(a Address, given *os.File) (net.Listener, error) {
	if given != nil {
		listener, err := net.FileListener(given)
		_ = given.Close()
		if err != nil {
			return nil, task.Errorf(task.CodeInvalid, "the descriptor that was handed over is no listener: %w", err).At(a.Key)
		}
		if a.fits(listener.Addr()) {
			return listener, nil
		}
		_ = listener.Close() // the configuration names another address now
	}
	network := "tcp"
	if a.Kind == KindUnix {
		network = "unix"
		removeStale(a.Text)
	}
	listener, err := net.Listen(network, a.Text)
	if err != nil {
		return nil, bindError(a, err)
	}
	return listener, nil
}

// fits reports whether the address is the one that is wanted.
func (a Address) fits(bound net.Addr) bool {
	if a.Kind == KindUnix {
		return bound.String() == a.Text
	}
	wanted, err := net.ResolveTCPAddr("tcp", a.Text)
	got, isTCP := bound.(*net.TCPAddr)
	if err != nil || !isTCP {
		return false
	}
	everywhere := len(wanted.IP) == 0 || wanted.IP.IsUnspecified()
	return (wanted.Port == 0 || wanted.Port == got.Port) && (wanted.IP.Equal(got.IP) || everywhere && got.IP.IsUnspecified())
}

func (b *Bound) bind(a Address, given *os.File) error {
	listener, err := Listen(a, given)
	if err != nil {
		return err
	}
	defer listener.Close()
	file, err := FileOf(listener)
	if err != nil {
		return fmt.Errorf("share %s: %w", a.Text, err)
	}
	if a.Kind == KindUnix {
		b.paths = append(b.paths, a.Text)
	}
	b.kinds, b.files, b.addrs = append(b.kinds, a.Kind), append(b.files, file), append(b.addrs, listener.Addr().String())
	return nil
}

func bindError(a Address, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		e := task.Errorf(task.CodeUnavailable, "address %s is in use", a.Text).At(a.Key)
		return e.Fix("stop the other process%s or choose another address: --set %s=%s", holder(a), a.Key, otherAddress(a))
	}
	return task.Errorf(task.CodeInvalid, "cannot listen on %s: %w", a.Text, err).At(a.Key)
}

// otherAddress shows how to write another address.
func otherAddress(a Address) string {
	if a.Kind == KindUnix {
		return "PATH"
	}
	return "HOST:PORT"
}

// FileOf returns a descriptor of the listener that survives it.
func FileOf(listener net.Listener) (*os.File, error) {
	switch l := listener.(type) {
	case *net.TCPListener:
		return l.File()
	case *net.UnixListener:
		l.SetUnlinkOnClose(false)
		return l.File()
	}
	return nil, fmt.Errorf("a %T has no descriptor", listener)
}

// removeStale removes a unix socket that nobody answers on.
func removeStale(path string) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return
	}
	_ = os.Remove(path)
}

// Files are the descriptors for a child process, in the order of Kinds.
func (b *Bound) Files() []*os.File { return b.files }

// Kinds tells Inherit in the child what the descriptors are.
func (b *Bound) Kinds() string { return strings.Join(b.kinds, ",") }

// Address returns where the first listener of a kind is bound; "" when there is none.
func (b *Bound) Address(kind string) string {
	for i, k := range b.kinds {
		if k == kind {
			return b.addrs[i]
		}
	}
	return ""
}

// HandOver leaves what belongs to the addresses to another process: Close then
// removes no unix socket.
func (b *Bound) HandOver() { b.paths = nil }

// Close closes this process's share. Connections that wait in the queue are
// refused once no worker has its own share any more. It may be called twice.
func (b *Bound) Close() {
	for _, f := range b.files {
		_ = f.Close()
	}
	for _, path := range b.paths {
		_ = os.Remove(path)
	}
	b.files, b.paths = nil, nil
}

// Inherit takes over the listeners that a master has handed to this process as
// descriptors from first on. kinds is what its Kinds told.
func Inherit(kinds string, first uintptr) ([]Listener, error) {
	if kinds == "" {
		return nil, nil
	}
	var list []Listener
	for i, kind := range strings.Split(kinds, ",") {
		file := os.NewFile(first+uintptr(i), "shared "+kind+" listener")
		listener, err := net.FileListener(file)
		_ = file.Close()
		if err != nil {
			for _, l := range list {
				_ = l.Close()
			}
			return nil, fmt.Errorf("take over the shared %s listener: %w", kind, err)
		}
		if unix, ok := listener.(*net.UnixListener); ok {
			unix.SetUnlinkOnClose(false) // the socket is the master's
		}
		list = append(list, Listener{Listener: listener, Kind: kind})
	}
	return list, nil
}
