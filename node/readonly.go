package node

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/master"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/script"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/worker"
)

// ReadonlyFlag makes a worker process execute one readonly run, which it is
// given on its standard input, and end.
const ReadonlyFlag = "--readonly-run"

// ReadonlyRun is the process of one readonly run.
func ReadonlyRun(ctx context.Context, in io.Reader, out, err io.Writer) error {
	return worker.ReadonlyRun(ctx, in, out, logTo(configs.Default(), err))
}

// readonlyRuns answers the API: it reads what a run would be made of and has a
// process execute it.
type readonlyRuns struct {
	cfg       configs.Config
	store     *store.Store
	packages  *pkgstore.Cache
	processes *master.ReadonlyRuns
}

func newReadonlyRuns(b *base, log io.Writer) *readonlyRuns {
	return &readonlyRuns{
		cfg: b.cfg, store: b.store, packages: pkgstore.NewCache(b.packages, int64(b.cfg.Packages.CacheSize)),
		processes: master.NewReadonlyRuns(func() *exec.Cmd { return readonlyCommand(log) }, uint64(b.cfg.Worker.MaxMemory)),
	}
}

func readonlyCommand(log io.Writer) *exec.Cmd {
	binary, err := os.Executable()
	if err != nil {
		binary = "catena" // starting it then says why not
	}
	cmd := exec.Command(binary, "worker", ReadonlyFlag)
	cmd.Stderr = log
	cmd.Env = withoutSettings(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// ReadonlyRun implements api.ReadonlyRunner.
func (r *readonlyRuns) ReadonlyRun(ctx context.Context, name string, params json.RawMessage) (*task.ReadonlyRun, error) {
	t, release, err := r.store.TaskAt(ctx, name)
	if err != nil {
		return nil, err
	}
	if t.Invalid != "" {
		return nil, task.Errorf(task.CodeInvalid, "task %s cannot run: %s", name, t.Invalid).Fix("correct the task and apply it again")
	}
	merged, err := overlay(t.Params, params)
	if err != nil {
		return nil, err
	}
	limits, err := json.Marshal(scriptConfig(r.cfg))
	if err != nil {
		return nil, err
	}
	job := task.ReadonlyJob{
		Task: t.Name, Revision: t.Revision, Chain: t.Chain, Params: merged, Script: limits,
		Timeout:  min(t.Normalize().Timeout, task.Duration(task.MaxReadonly)),
		LogLimit: int64(r.cfg.Worker.LogLimit), MaxOutcome: int(r.cfg.Script.MaxOutput),
	}
	return r.processes.Run(ctx, job, func(ctx context.Context, pkg string) (*pkgstore.Version, error) {
		return r.packages.Resolve(ctx, pkg, release)
	})
}

func scriptConfig(cfg configs.Config) script.Config {
	return script.Config{
		Timeout: time.Duration(cfg.Script.Timeout), StackDepth: cfg.Script.StackDepth,
		MaxOutput: int(cfg.Script.MaxOutput), HeapLimit: int64(cfg.Script.HeapLimit),
	}
}

// overlay lets the params of a run override those of the task, key by key.
func overlay(own, given json.RawMessage) (json.RawMessage, error) {
	merged := map[string]json.RawMessage{}
	for _, params := range []json.RawMessage{own, given} {
		if len(params) == 0 {
			continue
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(params, &object); err != nil {
			return nil, task.Errorf(task.CodeInvalid, "params are not a JSON object").At("params")
		}
		maps.Copy(merged, object)
	}
	return json.Marshal(merged)
}
