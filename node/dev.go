package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/devservers"
	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/migrations"
	"github.com/catena-run/catena/server"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// DevFileName is the file in the data folder by which commands find a running dev.
const DevFileName = "dev.json"

// DevFile is its content, mode 0600.
type DevFile struct {
	Admin string `json:"admin"`
	HTTP  string `json:"http"`
	Token string `json:"token"`
	PID   int    `json:"pid"`
}

// DevOptions of a developer's cluster.
type DevOptions struct {
	Options
	Data     string // folder of the private servers
	Examples string // folder with packages/ and tasks/ to load; "": none
	JSON     bool   // the ready line is JSON
	Name     string // how the program was called, for commands to be pasted; "": catena
}

// devToken names the tokens that dev makes for itself.
const devToken = "catena dev"

// RunDev runs a master with its workers on this machine, on private servers
// unless the configuration names others, until ctx ends.
func RunDev(ctx context.Context, cfg configs.Config, o DevOptions) error {
	log := newLog(cfg, o.Options)
	d := &dev{cfg: cfg, o: o, log: log, open: lifecycle.NewGroup(lifecycle.GroupConfig{})}
	defer d.close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	release, err := lockData(o.Data)
	if err != nil {
		return err
	}
	defer release()
	l, err := listen(cfg, nil)
	if err != nil {
		return err
	}
	defer l.close()
	if err := d.startServers(ctx, stop); err != nil {
		return err
	}
	token, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	m, err := newMaster(ctx, d.cfg, o.Options, log, l)
	if err != nil {
		return err
	}
	defer m.close()
	ended := make(chan error, 1)
	go func() { ended <- m.run(ctx, o.Options) }()
	if err := d.announce(ctx, m, token); err != nil {
		stop(err)
		return errors.Join(err, <-ended)
	}
	err = <-ended
	_ = os.Remove(filepath.Join(o.Data, DevFileName)) // a file that stays names a dead process
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

type dev struct {
	cfg  configs.Config
	o    DevOptions
	log  logrus.FieldLogger
	open *lifecycle.Group

	private string // URL of the private database; "": another is used
}

func (d *dev) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	if err := d.open.Close(ctx); err != nil {
		d.log.WithError(err).Warn("the private servers did not stop in order")
	}
}

// lockData keeps a second dev from the same folder, also when neither has
// private servers. The kernel releases the lock when the process ends in any way.
func lockData(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, task.Errorf(task.CodeInvalid, "cannot use the data folder: %w", err).At("--data")
	}
	file, err := os.OpenFile(filepath.Join(dir, "dev.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, task.Errorf(task.CodeInvalid, "cannot use the data folder: %w", err).At("--data")
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = heldData(dir)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}

// heldData names the dev that holds the lock of a folder; one that is just starting,
// or ending, has no address.
func heldData(dir string) error {
	err := task.Errorf(task.CodeConflict, "another dev is starting or ending in %s", dir)
	var running DevFile
	text, failure := os.ReadFile(filepath.Join(dir, DevFileName))
	if failure == nil && json.Unmarshal(text, &running) == nil && running.PID > 0 && syscall.Kill(running.PID, 0) == nil {
		err = task.Errorf(task.CodeConflict, "a dev runs in %s already: %s (process %d)", dir, running.Admin, running.PID)
	}
	return err.Fix("use it, stop it with Ctrl-C, or start this one with --data FOLDER")
}

// startServers starts what the configuration does not name. fail ends the
// whole dev when a private server dies.
func (d *dev) startServers(ctx context.Context, fail context.CancelCauseFunc) error {
	if d.cfg.Postgres.URL == "" {
		p, err := devservers.StartPostgres(ctx, devservers.PostgresConfig{DataDir: filepath.Join(d.o.Data, "postgres"), Log: d.log})
		if err != nil {
			return err
		}
		d.cfg.Postgres.URL, d.private = p.URL, p.URL
		if err := d.keep(ctx, "postgres", p.Done(), p.Stop, fail); err != nil {
			return err
		}
	}
	if d.cfg.Redis.URL == "" && d.cfg.Redis.Sentinel.Master == "" {
		r, err := devservers.StartRedis(ctx, devservers.RedisConfig{DataDir: filepath.Join(d.o.Data, "redis"), Log: d.log})
		if err != nil {
			return err
		}
		d.cfg.Redis.URL = r.URL
		return d.keepRedis(ctx, r)
	}
	return nil
}

// keepRedis starts the private Redis again whenever it dies: it holds nothing
// that is not found again.
func (d *dev) keepRedis(ctx context.Context, r *devservers.Redis) error {
	if err := d.open.Add("redis", r.Stop); err != nil {
		return err
	}
	watch := lifecycle.NewService("watch redis", func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-r.Done():
			}
			d.log.Warn("the private redis died: starting it again")
			if err := r.Restart(ctx); err != nil && ctx.Err() == nil {
				d.log.WithError(err).Error("cannot start redis")
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		}
	})
	return d.open.Start(context.WithoutCancel(ctx), "watch redis", watch)
}

// keep stops a private server at the end and ends dev when the server dies first.
func (d *dev) keep(ctx context.Context, name string, done <-chan struct{}, stop func(context.Context) error, fail context.CancelCauseFunc) error {
	watch := lifecycle.NewService("watch "+name, func(ctx context.Context) error {
		select {
		case <-done:
			fail(task.Errorf(task.CodeUnavailable, "the private %s died", name).Fix("start dev again; its data are kept"))
		case <-ctx.Done():
		}
		return nil
	})
	if err := d.open.Add(name, stop); err != nil {
		return err
	}
	return d.open.Start(context.WithoutCancel(ctx), "watch "+name, watch)
}

// prepare brings the schema up and makes this dev's token; those of earlier
// ones are revoked.
func (d *dev) prepare(ctx context.Context) (token string, err error) {
	s, err := store.Open(ctx, store.Config{URL: d.cfg.Postgres.URL, MaxConns: 2})
	if err != nil {
		return "", err
	}
	defer s.Close()
	if err := migrations.Up(ctx, s.Pool(), d.log); err != nil {
		return "", err
	}
	old, err := s.Tokens(ctx)
	if err != nil {
		return "", err
	}
	for _, t := range old {
		if t.Name == devToken && t.RevokedAt == nil {
			if err := s.RevokeToken(ctx, t.ID); err != nil {
				return "", err
			}
		}
	}
	return createToken(ctx, s, "admin", devToken, 0)
}

// announce loads the examples, waits for the workers and prints the ready line.
func (d *dev) announce(ctx context.Context, m *masterNode, token string) error {
	file := DevFile{Admin: "http://" + m.admin.Addr().String(), Token: token, PID: os.Getpid()}
	if http := m.shared.Address(server.KindHTTP); http != "" {
		file.HTTP = "http://" + http
	}
	if d.o.Examples != "" {
		c, err := client.New(client.Config{Server: file.Admin, Token: token})
		if err != nil {
			return err
		}
		defer c.Close()
		if err := loadExamples(ctx, c, d.o.Examples); err != nil {
			return err
		}
	}
	if err := waitForWorkers(ctx, m.store, d.cfg.Master.Workers); err != nil {
		return err
	}
	text, err := json.Marshal(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.o.Data, DevFileName), text, 0o600); err != nil {
		return err
	}
	return d.ready(file)
}

func (d *dev) ready(file DevFile) error {
	if d.o.JSON {
		line, err := json.Marshal(map[string]any{"ready": true, "admin": file.Admin, "http": file.HTTP, "token": file.Token})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(d.o.Out, string(line))
		return err
	}
	database := ""
	if d.private != "" {
		database = "  database       " + d.private + "\n"
	}
	_, err := fmt.Fprintf(d.o.Out, `
Catena is ready.
  dashboard      %s/#token=%s
  admin API      %s
  shared server  %s/status
  token          in %s
%s
In another terminal, %s:  %s
Ctrl-C stops everything; the data stay in %s.
`, file.Admin, file.Token, file.Admin, file.HTTP, filepath.Join(d.o.Data, DevFileName), database, d.where(), d.command(file), d.o.Data)
	return err
}

// DevData is where dev keeps its data, below the folder it is started in, unless told otherwise.
const DevData = ".catena/dev"

// found tells whether commands find this dev by its folder.
func (d *dev) found() bool { return filepath.Clean(d.o.Data) == filepath.FromSlash(DevData) }

func (d *dev) where() string {
	if d.found() {
		return "in this folder or below"
	}
	return "in this folder"
}

// command is one that can be pasted into another terminal.
func (d *dev) command(file DevFile) string {
	name := d.o.Name
	if name == "" {
		name = "catena"
	}
	if d.found() {
		return name + " task list"
	}
	return "CATENA_SERVER=" + file.Admin + " CATENA_TOKEN=" + file.Token + " " + name + " task list"
}

// workersPatience is how long the workers may take to register.
const workersPatience = 30 * time.Second

func waitForWorkers(ctx context.Context, s *store.Store, want int) error {
	ctx, cancel := context.WithTimeout(ctx, workersPatience)
	defer cancel()
	for {
		workers, err := s.Workers(ctx, false)
		if err == nil && len(workers) >= want {
			return nil
		}
		select {
		case <-ctx.Done():
			return task.Errorf(task.CodeTimeout, "the workers did not register in %v", workersPatience).Fix("read the log above for the reason")
		case <-time.After(10 * time.Millisecond):
		}
	}
}
