package devservers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/task"
)

// RedisConfig says how to run a private Redis. It keeps nothing: Redis is
// disposable in Catena.
type RedisConfig struct {
	DataDir string // for the log; made when it does not exist
	Port    int    // on 127.0.0.1; 0: a free one
	Log     logrus.FieldLogger
}

// Validate names what is missing or out of range.
func (c RedisConfig) Validate() error {
	if c.DataDir == "" {
		return task.Errorf(task.CodeInvalid, "no data folder for Redis is given").At("DataDir")
	}
	if c.Port < 0 || c.Port > 65535 {
		return task.Errorf(task.CodeInvalid, "must be a port from 0 to 65535, is %d", c.Port).At("Port")
	}
	return nil
}

// Redis is a running private Redis. Its methods may be called from several
// goroutines.
type Redis struct {
	// URL stays the same over restarts.
	URL string
	// Embedded tells that redis-server is not installed and an imitation inside
	// this process answers instead.
	Embedded bool

	cfg     RedisConfig
	program string

	mu      sync.Mutex
	child   *lifecycle.Child
	mini    *miniServer
	stopped bool
}

// StartRedis starts redis-server, or miniredis with a warning when it is not
// installed, and returns when it answers.
func StartRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	program, _ := exec.LookPath("redis-server")
	return startRedis(ctx, cfg, program)
}

func startRedis(ctx context.Context, cfg RedisConfig, program string) (*Redis, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return nil, err
	}
	r := &Redis{cfg: cfg, program: program, Embedded: program == ""}
	if r.Embedded {
		cfg.Log.Warn("redis-server is not installed: an imitation inside this process is used, which is slower and is lost with it; `apt-get install -y redis-server` installs it")
	}
	return r, r.startOnPort(ctx)
}

// startOnPort tries several ports when any will do: another process may take a
// free one before the server has it.
func (r *Redis) startOnPort(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := r.cfg.Port
	for try := 1; ; try++ {
		if wanted == 0 {
			port, err := freePort()
			if err != nil {
				return err
			}
			r.cfg.Port = port
		}
		err := r.start(ctx)
		if err == nil {
			r.URL = "redis://" + r.addr() + "/0"
			return nil
		}
		if wanted != 0 || try == 5 || ctx.Err() != nil {
			return err
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (r *Redis) addr() string    { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.cfg.Port)) }
func (r *Redis) logPath() string { return filepath.Join(r.cfg.DataDir, "redis.log") }

// start runs the server on its port; r.mu is held.
func (r *Redis) start(ctx context.Context) error {
	if r.Embedded {
		mini, err := startMini(r.addr())
		if err != nil {
			return task.Errorf(task.CodeUnavailable, "cannot start the embedded Redis: %w", err).At(r.addr())
		}
		r.mini = mini
		return nil
	}
	logFile, err := openLog(r.logPath())
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(r.program, "--port", strconv.Itoa(r.cfg.Port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
		"--maxmemory-policy", "noeviction", "--dir", r.cfg.DataDir, "--daemonize", "no")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c, err := lifecycle.StartChild(cmd, syscall.SIGKILL)
	if err != nil {
		return task.Errorf(task.CodeUnavailable, "cannot start Redis: %w", err).At(r.program)
	}
	if err := r.awaitReady(ctx, c); err != nil {
		_ = c.Stop(context.WithoutCancel(ctx), syscall.SIGTERM)
		return err
	}
	r.child = c
	return nil
}

// redisPatience is how long a Redis without data may take to answer.
const redisPatience = 10 * time.Second

func (r *Redis) awaitReady(ctx context.Context, c *lifecycle.Child) error {
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	for {
		err := answersAs(ctx, r.addr(), c.PID())
		if err == nil {
			return nil
		}
		select {
		case <-c.Done():
			return task.Errorf(task.CodeUnavailable, "Redis ended while it started (%v): %s", c.Err(), logTail(r.logPath())).
				At(r.addr()).Fix("see %s", r.logPath())
		case <-ctx.Done():
			return task.Errorf(task.CodeTimeout, "Redis does not answer: %w", err).At(r.addr()).Fix("see %s", r.logPath())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// answersAs checks that the server at addr is the process pid, not a stranger
// that has the port.
func answersAs(ctx context.Context, addr string, pid int) error {
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DisableIdentity: true})
	defer client.Close()
	info, err := client.Info(ctx, "server").Result()
	if err != nil {
		return err
	}
	if !strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", pid)) {
		return errors.New("another server has this port")
	}
	return nil
}

// Done is closed when the server process that runs now has ended; with an
// embedded server it never is until Stop.
func (r *Redis) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mini != nil {
		return r.mini.done
	}
	return doneOf(r.child)
}

// Pid is the process id of the server, 0 when it is stopped or embedded.
func (r *Redis) Pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return pidOf(r.child)
}

// Kill sends sig to the server and returns at once. An embedded server has no
// process: SIGKILL, SIGTERM and SIGINT end it, others are refused.
func (r *Redis) Kill(sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Embedded {
		if sig != syscall.SIGKILL && sig != syscall.SIGTERM && sig != syscall.SIGINT {
			return task.Errorf(task.CodeInvalid, "an embedded Redis cannot get the signal %s", sig).Fix("install redis-server")
		}
		return r.halt(context.Background())
	}
	if r.child == nil {
		return nil
	}
	return r.child.Signal(sig)
}

// Restart stops the server if it still runs and starts it, empty, on the same
// address.
func (r *Redis) Restart(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return task.Errorf(task.CodeConflict, "Redis was stopped; it cannot be restarted").At(r.addr()).Fix("start a new one with StartRedis")
	}
	if err := r.halt(ctx); err != nil {
		return err
	}
	return r.start(ctx)
}

// Stop ends the server, with SIGKILL when ctx (10 s without a deadline) is
// over. Stopping twice is fine.
func (r *Redis) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	return r.halt(ctx)
}

func (r *Redis) halt(ctx context.Context) error {
	if r.mini != nil {
		r.mini.close()
		r.mini = nil
	}
	if r.child == nil {
		return nil
	}
	if err := r.child.Stop(ctx, syscall.SIGTERM); err != nil {
		return fmt.Errorf("cannot stop Redis: %w", err)
	}
	r.child = nil
	return nil
}

// miniServer is miniredis with a clock: by itself it never lets keys expire.
type miniServer struct {
	server *miniredis.Miniredis
	quit   chan struct{}
	done   chan struct{}
}

func startMini(addr string) (*miniServer, error) {
	m := &miniServer{server: miniredis.NewMiniRedis(), quit: make(chan struct{}), done: make(chan struct{})}
	if err := m.server.StartAddr(addr); err != nil {
		return nil, err
	}
	go m.tick()
	return m, nil
}

func (m *miniServer) tick() {
	defer close(m.done)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			m.server.FastForward(time.Second)
		case <-m.quit:
			return
		}
	}
}

func (m *miniServer) close() {
	close(m.quit)
	<-m.done
	m.server.Close()
}
