package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// runFlags are the flags of task run.
type runFlags struct {
	params     []string
	paramsFile string
	at         string
	key        string
	wait       bool
	timeout    time.Duration
	from       string
	batch      string
	readonly   bool
}

func (s *session) taskRun() *cobra.Command {
	var f runFlags
	cmd := command("run NAME", "Start a run of a task, or one for each line of a file", named("NAME"), func(cmd *cobra.Command, args []string) error {
		s.ownTimeout = true
		if err := f.check(cmd); err != nil {
			return err
		}
		if f.readonly {
			return s.runReadonly(cmd, args[0], f)
		}
		s.warnOfTrace()
		if f.from != "" {
			return s.runBatch(cmd, args[0], f)
		}
		return s.runOne(cmd, args[0], f)
	})
	cmd.Long = `Start a run of a task. A value given by --param is read as JSON where it is JSON and as
text otherwise: --param count=3 --param 'tags=["a"]' --param name=world.

With --from, start one run for each line of a file, which holds the params of one run as
a JSON object. All lines are checked before the first run starts. Each run has the key
BATCH:LINE, so that the same command with --batch BATCH goes on after an interruption
without starting any run twice.

With --readonly no run is made. The chain is executed in a process of its own and what it
would do outside of itself (requests, tasks to start, waits) is shown instead of done.`
	flags := cmd.Flags()
	flags.StringArrayVar(&f.params, "param", nil, "parameter `key=value`, as often as needed")
	flags.StringVar(&f.paramsFile, "params", "", "`file` with a JSON object of parameters, or - for standard input")
	flags.StringVar(&f.at, "at", "", "not before this `time`: 2026-11-22T05:00:00Z, or +10m from now")
	flags.StringVar(&f.key, "key", "", "idempotency key: at most one run per task and key")
	flags.BoolVar(&f.wait, "wait", false, "wait for the end; exit 0 only if it succeeded")
	flags.DurationVar(&f.timeout, "timeout", 0, "stop waiting after this long; the run goes on")
	flags.StringVar(&f.from, "from", "", "JSON lines `file`, one run per line, or - for standard input")
	flags.StringVar(&f.batch, "batch", "", "go on with this batch of --from")
	flags.BoolVar(&f.readonly, "readonly", false, "make no run: execute the chain and show what it would do")
	cmd.ValidArgsFunction = s.complete(0, taskNames)
	s.completeFlagByArgs(cmd, "param", cobra.ShellCompDirectiveNoSpace, taskParams)
	return cmd
}

func (f runFlags) check(cmd *cobra.Command) error {
	switch {
	case f.from != "" && (len(f.params) > 0 || f.paramsFile != "" || f.key != ""):
		return usageOf(cmd, "--from gives the params and keys of every run: leave out --param, --params and --key")
	case f.readonly && (f.from != "" || f.at != "" || f.key != "" || f.wait || f.timeout != 0):
		return usageOf(cmd, "--readonly makes no run: leave out --from, --at, --key, --wait and --timeout")
	case f.from == "" && f.batch != "":
		return usageOf(cmd, "--batch needs --from")
	case f.timeout < 0:
		return usageOf(cmd, "--timeout %s is negative", f.timeout)
	case f.timeout > 0 && !f.wait:
		return usageOf(cmd, "--timeout needs --wait")
	case strings.ContainsAny(f.batch, " \t\n") || len(f.batch) > 100:
		return usageOf(cmd, "--batch %q is no batch id; use the one that the interrupted command printed", f.batch)
	}
	return nil
}

func (s *session) runOne(cmd *cobra.Command, name string, f runFlags) error {
	params, err := s.params(cmd, f)
	if err != nil {
		return err
	}
	at, err := s.at(cmd, f.at)
	if err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	s.warnOfUnknownParams(cmd.Context(), c, name, params)
	started, err := c.StartRun(cmd.Context(), name, client.RunRequest{Params: params, At: at, Key: f.key})
	if err != nil {
		return err
	}
	s.warnIfPaused(cmd.Context(), c, started.Run)
	if !f.wait {
		return s.reportStart(started)
	}
	return s.waitForRun(cmd.Context(), c, started.Run, f.timeout)
}

// warnOfUnknownParams tells of params that the task does not name. The chain may
// read more than the task's own params, so this is no error.
func (s *session) warnOfUnknownParams(ctx context.Context, c *client.Client, name string, params json.RawMessage) {
	if params == nil {
		return
	}
	t, err := c.Task(ctx, name)
	if err != nil {
		return // starting the run says what is wrong
	}
	var own, given map[string]json.RawMessage
	if json.Unmarshal(t.Params, &own) != nil || json.Unmarshal(params, &given) != nil || len(own) == 0 {
		return
	}
	known := slices.Sorted(maps.Keys(own))
	for _, key := range slices.Sorted(maps.Keys(given)) {
		if _, there := own[key]; there {
			continue
		}
		s.note("warning: task %s names no param %q; %s", name, key, task.DidYouMean(key, known, "its params are "+strings.Join(known, ", ")))
	}
}

// warnIfPaused says why a run that was just accepted does not start.
func (s *session) warnIfPaused(ctx context.Context, c *client.Client, run task.Run) {
	if s.json || run.State != task.StateQueued {
		return
	}
	t, err := c.Task(ctx, run.Task)
	if err != nil || !t.Paused {
		return // it is only a hint
	}
	reason := ""
	if t.Note != "" {
		reason = " (" + t.Note + ")"
	}
	s.note("task %s is paused%s: the run waits until %s task resume %s", run.Task, reason, s.Name, run.Task)
}

func (s *session) reportStart(started client.Started) error {
	if s.json {
		return s.writeJSON(started.Run)
	}
	if started.Duplicate {
		s.note("the key had started this run before")
	}
	return s.printf("run %s of %s is %s; follow it with %s runs logs -f %s\n", started.ID, started.Task, started.State, s.Name, started.ID)
}

func (s *session) waitForRun(ctx context.Context, c *client.Client, run task.Run, timeout time.Duration) error {
	waiting, cancel := within(ctx, timeout)
	defer cancel()
	ended, err := c.WaitRun(waiting, run.ID)
	if err != nil {
		if waiting.Err() != nil {
			s.note("run %[1]s goes on; see it with %[2]s runs show %[1]s, end it with %[2]s runs cancel %[1]s", run.ID, s.Name)
		}
		if ctx.Err() == nil && errors.Is(waiting.Err(), context.DeadlineExceeded) {
			return task.Errorf(task.CodeTimeout, "run %s has not ended within %s", run.ID, durationText(timeout)).Fix("wait longer, or look at it later")
		}
		return err
	}
	if s.json {
		err = s.writeJSON(ended)
	} else {
		err = s.showRun(ended)
	}
	if err == nil && ended.State != task.StateSucceeded {
		err = errQuiet
	}
	return err
}

// within limits ctx; 0 means no limit.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout > 0 {
		return context.WithTimeout(ctx, timeout)
	}
	return context.WithCancel(ctx)
}

// params merges --params and --param into one object; nil when there is none.
func (s *session) params(cmd *cobra.Command, f runFlags) (json.RawMessage, error) {
	values := map[string]json.RawMessage{}
	if f.paramsFile != "" {
		text, err := s.readFile(f.paramsFile)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &values); err != nil || values == nil {
			return nil, badObject(err).At(f.paramsFile)
		}
	}
	for _, assignment := range f.params {
		key, value, ok := strings.Cut(assignment, "=")
		if !ok || key == "" {
			return nil, usageOf(cmd, "--param %q has no value; write --param key=value", assignment)
		}
		values[key] = paramValue(value)
	}
	if len(values) == 0 {
		return nil, nil
	}
	return json.Marshal(values)
}

func badObject(err error) *task.Error {
	if err == nil {
		err = errors.New("it is null")
	}
	return task.Errorf(task.CodeInvalid, "params are no JSON object: %v", err).Fix(`write an object, such as {"month": "2026-11"}`)
}

// paramValue reads JSON where text is JSON and takes it as it is otherwise.
func paramValue(text string) json.RawMessage {
	if json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		return json.RawMessage(`""`)
	}
	return quoted
}

// readFile reads a file, or standard input for "-".
func (s *session) readFile(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(s.in)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fileError(err)
	}
	return text, nil
}
