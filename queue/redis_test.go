package queue_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/queue"
)

func TestMain(m *testing.M) {
	queue.DriverLog(logrus.StandardLogger())
	goleak.VerifyTestMain(m, servertest.LeakOptions()...)
}

// server is a Redis process of one test, which the test may flush, kill and
// start again.
type server struct {
	t      *testing.T
	port   int
	dir    string
	config string
	args   []string
	cmd    *exec.Cmd
}

// freePort is free when it returns; the kernel does not hand it out again soon.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func newServer(t *testing.T, config string, args ...string) *server {
	t.Helper()
	s := &server{t: t, port: freePort(t), dir: t.TempDir(), args: args}
	s.config = fmt.Sprintf("port %d\nbind 127.0.0.1\nsave \"\"\nappendonly no\ndir %s\n%s\n", s.port, s.dir, config)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "redis.conf"), []byte(s.config), 0o600))
	t.Cleanup(s.kill)
	s.start()
	return s
}

func (s *server) start() {
	s.t.Helper()
	path, err := exec.LookPath("redis-server")
	require.NoError(s.t, err, "these tests need redis-server: apt-get install redis-server")
	s.cmd = exec.Command(path, append([]string{filepath.Join(s.dir, "redis.conf")}, s.args...)...)
	require.NoError(s.t, s.cmd.Start())
	require.Eventually(s.t, func() bool {
		conn, err := net.DialTimeout("tcp", s.addr(), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 10*time.Second, 5*time.Millisecond)
}

func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }
func (s *server) url() string  { return "redis://" + s.addr() + "/0" }

// do runs one command as a stranger would.
func (s *server) do(args ...any) any {
	s.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.addr()})
	defer client.Close()
	v, err := client.Do(context.Background(), args...).Result()
	require.NoError(s.t, err)
	return v
}

// logbook collects log lines.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func newLog() (*logrus.Logger, *logbook) {
	book, log := &logbook{}, logrus.New()
	log.SetOutput(book)
	return log, book
}

func open(t *testing.T, cfg queue.Config) (*queue.Asynq, *logbook) {
	t.Helper()
	if cfg.Namespace == "" {
		cfg.Namespace = "test"
	}
	log, book := newLog()
	q, err := queue.Open(cfg, log)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, q.Close()) })
	return q, book
}
