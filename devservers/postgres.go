package devservers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/task"
)

const (
	postgresUser = "catena"
	postgresPort = "5432" // only part of the socket's name
	// DatabaseName is the database that StartPostgres creates.
	DatabaseName = "catena"
)

// PostgresConfig says where a private PostgreSQL keeps its data.
type PostgresConfig struct {
	// DataDir is made when it does not exist. When this process is root and the
	// server's user cannot enter DataDir, the data is put under /var/lib/catena
	// and DataDir/elsewhere links to it.
	DataDir string
	// StartTimeout also covers the recovery after a crash; 0: 60 s.
	StartTimeout time.Duration
	Log          logrus.FieldLogger
}

// Validate names what is missing.
func (c PostgresConfig) Validate() error {
	if c.DataDir == "" {
		return task.Errorf(task.CodeInvalid, "no data folder for PostgreSQL is given").At("DataDir")
	}
	if c.StartTimeout < 0 {
		return task.Errorf(task.CodeInvalid, "must not be negative, is %s", c.StartTimeout).At("StartTimeout")
	}
	return nil
}

// Postgres is a running private PostgreSQL. Its methods may be called from
// several goroutines.
type Postgres struct {
	// URL connects to the database DatabaseName as a superuser, by Unix socket.
	URL string

	cfg     PostgresConfig
	home    string // holds data, server.log and most often the socket
	sockets string
	account *account
	inst    installation
	lock    *dirLock

	mu    sync.Mutex
	child *lifecycle.Child
}

// StartPostgres starts PostgreSQL on cfg.DataDir, making the data first when
// there is none, and returns when it answers. It recovers from a server that
// was killed, and refuses data that another live process uses.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	p := &Postgres{cfg: cfg}
	if err := p.prepare(ctx); err != nil {
		p.cleanUp()
		return nil, err
	}
	p.mu.Lock()
	err := p.start(ctx)
	p.mu.Unlock()
	if err != nil {
		p.cleanUp()
		return nil, err
	}
	if err := p.createDatabase(ctx); err != nil {
		return nil, errors.Join(err, p.Stop(context.WithoutCancel(ctx)))
	}
	return p, nil
}

func (p *Postgres) prepare(ctx context.Context) (err error) {
	if p.account, err = serverAccount(); err != nil {
		return err
	}
	if p.home, err = chooseHome(p.cfg.DataDir, p.account, p.cfg.Log); err != nil {
		return err
	}
	if p.lock, err = lockDir(p.home); err != nil {
		return err
	}
	if p.inst, err = findPostgres(p.dataPath()); err != nil {
		return err
	}
	if err := p.chooseSockets(); err != nil {
		return err
	}
	return p.initialize(ctx)
}

// Program returns the path of a program of the running installation, such as
// pg_dump, which must not be older than the server.
func (p *Postgres) Program(name string) string { return p.inst.program(name) }

func (p *Postgres) dataPath() string { return filepath.Join(p.home, "data") }
func (p *Postgres) logPath() string  { return filepath.Join(p.home, "server.log") }

// chooseSockets picks a folder whose socket path fits into sun_path: 104 bytes
// with the final zero on macOS, 108 on Linux.
func (p *Postgres) chooseSockets() (err error) {
	p.sockets = filepath.Join(p.home, "run")
	if len(filepath.Join(p.sockets, ".s.PGSQL."+postgresPort)) < 104 && !strings.ContainsAny(p.sockets, `",`) {
		err = os.MkdirAll(p.sockets, 0o755)
	} else {
		p.sockets, err = os.MkdirTemp("/tmp", "catena-pg-")
	}
	if err != nil {
		return err
	}
	p.URL = p.urlOf(DatabaseName)
	return p.account.own(p.sockets)
}

func (p *Postgres) urlOf(database string) string {
	query := url.Values{"host": {p.sockets}, "port": {postgresPort}, "user": {postgresUser}, "sslmode": {"disable"}}
	return "postgres:///" + database + "?" + query.Encode()
}

// initialize makes the data beside its final name, so that an interrupted
// initdb leaves nothing that looks complete.
func (p *Postgres) initialize(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(p.dataPath(), "PG_VERSION")); err == nil {
		return nil
	}
	fresh := filepath.Join(p.home, "data.new")
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	if err := p.account.own(fresh); err != nil {
		return err
	}
	cmd := p.command(ctx, "initdb", "-D", fresh, "-U", postgresUser, "--auth=trust", "--locale=C", "-E", "UTF8", "--no-instructions")
	if out, err := cmd.CombinedOutput(); err != nil {
		return task.Errorf(task.CodeUnavailable, "initdb failed: %w: %s", err, strings.TrimSpace(string(out))).At(p.home)
	}
	return os.Rename(fresh, p.dataPath())
}

// command prepares one of PostgreSQL's programs: its own account, a clean
// environment, and a process group of its own, so that a Ctrl-C in the terminal
// reaches only this process, which then stops the server in order.
func (p *Postgres) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.inst.program(program), args...)
	cmd.Dir = p.home
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "LC_") })
	cmd.Env = append(cmd.Env, "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: p.account.credential()}
	return cmd
}

// settings suit a small machine. Durability stays on: what is measured and
// tested here is what production does.
func (p *Postgres) settings() []string {
	return []string{
		"listen_addresses=",
		`unix_socket_directories="` + p.sockets + `"`,
		"unix_socket_permissions=0700",
		"port=" + postgresPort,
		"fsync=on",
		"synchronous_commit=on",
		"full_page_writes=on",
		"shared_buffers=256MB",
		"max_connections=200",
		"max_wal_size=2GB",
		"logging_collector=off",
		"log_checkpoints=off",
	}
}

// start launches the server and waits until it answers; p.mu is held.
func (p *Postgres) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	if err := clearStalePid(ctx, p.dataPath()); err != nil {
		return err
	}
	logFile, err := openLog(p.logPath())
	if err != nil {
		return err
	}
	defer logFile.Close()
	args := []string{"-D", p.dataPath()}
	for _, s := range p.settings() {
		args = append(args, "-c", s)
	}
	cmd := p.command(context.WithoutCancel(ctx), "postgres", args...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// SIGQUIT: the postmaster takes its own children along, SIGKILL would not.
	c, err := lifecycle.StartChild(cmd, syscall.SIGQUIT)
	if err != nil {
		return task.Errorf(task.CodeUnavailable, "cannot start PostgreSQL: %w", err).At(p.inst.program("postgres"))
	}
	if err := p.awaitReady(ctx, c); err != nil {
		_ = c.Stop(context.WithoutCancel(ctx), syscall.SIGINT, syscall.SIGQUIT)
		return err
	}
	p.child = c
	return nil
}

func (p *Postgres) awaitReady(ctx context.Context, c *lifecycle.Child) error {
	var last error
	for {
		if last = p.exec(ctx, "SELECT 1"); last == nil {
			return nil
		}
		select {
		case <-c.Done():
			return task.Errorf(task.CodeUnavailable, "PostgreSQL ended while it started (%v): %s", c.Err(), logTail(p.logPath())).
				At(p.home).Fix("see %s", p.logPath())
		case <-ctx.Done():
			return task.Errorf(task.CodeTimeout, "PostgreSQL does not answer (%v): %s", last, logTail(p.logPath())).
				At(p.home).Fix("see %s", p.logPath())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// exec runs one statement in the maintenance database.
func (p *Postgres) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, p.urlOf("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

func (p *Postgres) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.urlOf("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", DatabaseName).Scan(&there); err != nil || there {
		return err
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+DatabaseName); err != nil {
		return fmt.Errorf("cannot create the database %s: %w", DatabaseName, err)
	}
	return nil
}

// Home is the folder that holds the data and server.log.
func (p *Postgres) Home() string { return p.home }

// Done is closed when the server process that runs now has ended, for whatever
// reason. After Restart there is a new one.
func (p *Postgres) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return doneOf(p.child)
}

// Pid is the process id of the server, 0 when it is stopped.
func (p *Postgres) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return pidOf(p.child)
}

// Kill sends sig to the server and returns at once. SIGKILL goes to all of its
// processes, as a crash of the machine would.
func (p *Postgres) Kill(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil || !p.child.Alive() {
		return nil
	}
	if sig == syscall.SIGKILL {
		return killBackends(p.child.PID())
	}
	return p.child.Signal(sig)
}

// Restart stops the server if it still runs and starts it again on the same
// data and URL.
func (p *Postgres) Restart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lock == nil {
		return task.Errorf(task.CodeConflict, "PostgreSQL was stopped; it cannot be restarted").At(p.home).Fix("start a new one with StartPostgres")
	}
	if err := p.halt(ctx); err != nil {
		return err
	}
	return p.start(ctx)
}

// Stop ends the server: a fast shutdown first, an immediate one when ctx (10 s
// without a deadline) is over, then SIGKILL. Stopping twice is fine.
func (p *Postgres) Stop(ctx context.Context) error {
	p.mu.Lock()
	err := p.halt(ctx)
	p.mu.Unlock()
	p.cleanUp()
	return err
}

func (p *Postgres) halt(ctx context.Context) error {
	if p.child == nil {
		return nil
	}
	if err := p.child.Stop(ctx, syscall.SIGINT, syscall.SIGQUIT); err != nil {
		return fmt.Errorf("cannot stop PostgreSQL: %w", err)
	}
	p.child = nil
	return nil
}

func (p *Postgres) cleanUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sockets != "" && !strings.HasPrefix(p.sockets, p.home) {
		_ = os.RemoveAll(p.sockets)
	}
	p.lock.release()
	p.lock = nil
}
