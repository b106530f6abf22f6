package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
)

// link passes connections on to a server, each piece of data as late as wanted.
type link struct {
	address         string
	network, target string
	delay           atomic.Int64 // nanoseconds

	listener net.Listener
	all      sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]struct{}
	closed   bool
}

// newLink listens on the given address, of which the port may be 0.
func newLink(t *testing.T, listenNetwork, address, network, target string) *link {
	t.Helper()
	listener, err := net.Listen(listenNetwork, address)
	require.NoError(t, err)
	l := &link{address: listener.Addr().String(), network: network, target: target, listener: listener, open: map[net.Conn]struct{}{}}
	l.all.Go(l.serve)
	t.Cleanup(l.close)
	return l
}

func (l *link) serve() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.all.Go(func() { l.pass(conn) })
	}
}

// pass carries one connection until either side ends it.
func (l *link) pass(near net.Conn) {
	defer near.Close()
	far, err := net.Dial(l.network, l.target)
	if err != nil {
		return
	}
	defer far.Close()
	if !l.keep(near, far) {
		return
	}
	defer l.forget(near, far)
	var both sync.WaitGroup
	both.Go(func() { l.copy(far, near) })
	both.Go(func() { l.copy(near, far) })
	both.Wait()
}

func (l *link) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if d := time.Duration(l.delay.Load()); d > 0 {
				time.Sleep(d) // the fault itself, not a wait for anything
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (l *link) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		l.open[c] = struct{}{}
	}
	return !l.closed
}

func (l *link) forget(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		delete(l.open, c)
	}
}

func (l *link) close() {
	_ = l.listener.Close()
	l.mu.Lock()
	l.closed = true
	for c := range l.open {
		_ = c.Close()
	}
	l.mu.Unlock()
	l.all.Wait()
}

// linkPostgres puts a link between Postgres and the processes of the cluster
// that start from now on, by a socket of its own.
func (c *cluster) linkPostgres() *link {
	c.t.Helper()
	dir := servertest.Dir(c.t)
	target := filepath.Join(c.postgres.Home(), "run", ".s.PGSQL.5432")
	require.Contains(c.t, c.postgres.URL, "run", "the socket of Postgres is elsewhere")
	l := newLink(c.t, "unix", filepath.Join(dir, ".s.PGSQL.5432"), "unix", target)
	c.env[0] = fmt.Sprintf("CATENA_POSTGRES_URL=postgres:///catena?host=%s&port=5432&user=catena&sslmode=disable", dir)
	return l
}

// island is a network namespace that two lines join to this machine: one to the
// servers, which can be cut, and one to the recorder, which stays: so it is seen
// what a worker does that is cut off.
type island struct {
	t                 *testing.T
	name              string
	servers, recorder string // addresses of this machine on the two lines
	lines             [2]string
}

// newIsland returns nil and why where network namespaces cannot be had.
func newIsland(t *testing.T) (*island, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("network namespaces need root")
	}
	// 198.18.0.0/15 is set aside for tests of networks (RFC 2544). The process id
	// keeps tests of several processes apart.
	n := os.Getpid() % (1 << 13)
	i := &island{t: t, name: fmt.Sprintf("catena-%d", os.Getpid())}
	address := func(line, side int) string {
		return fmt.Sprintf("198.%d.%d.%d", 18+line, n>>6, (n&63)*4+1+side)
	}
	t.Cleanup(func() { // of whatever there is
		for _, line := range i.lines {
			_ = ip("link", "del", line)
		}
		_ = ip("netns", "del", i.name)
	})
	if err := ip("netns", "add", i.name); err != nil {
		return nil, err
	}
	for line := range i.lines {
		near, far := fmt.Sprintf("ca%d-%d", line, os.Getpid()), fmt.Sprintf("cb%d-%d", line, os.Getpid())
		i.lines[line] = near
		for _, args := range []string{
			fmt.Sprintf("link add %s type veth peer name %s", near, far),
			fmt.Sprintf("link set %s netns %s", far, i.name),
			fmt.Sprintf("addr add %s/30 dev %s", address(line, 0), near),
			fmt.Sprintf("link set %s up", near),
			fmt.Sprintf("-n %s addr add %s/30 dev %s", i.name, address(line, 1), far),
			fmt.Sprintf("-n %s link set %s up", i.name, far),
		} {
			if err := ip(strings.Fields(args)...); err != nil {
				return nil, err
			}
		}
	}
	i.servers, i.recorder = address(0, 0), address(1, 0)
	return i, nil
}

// cut drops everything on the line to the servers, without a word to either side.
func (i *island) cut()  { require.NoError(i.t, ip("link", "set", i.lines[0], "down")) }
func (i *island) join() { require.NoError(i.t, ip("link", "set", i.lines[0], "up")) }

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
