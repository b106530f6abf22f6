package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

func (s *session) runsCommand() *cobra.Command {
	return group("runs", "Look at runs, cancel, retry and approve them",
		s.runsList(), s.runsShow(), s.runsWhy(), s.runsLogs(), s.runsTree(), s.runsCancel(), s.runsRetry(), s.runsApprove())
}

// pageSize is how many runs one request asks for.
const pageSize = 1000

func (s *session) runsList() *cobra.Command {
	var filter client.RunFilter
	var states []string
	var since, waitingFor string
	cmd := command("list", "List runs, newest first", nothing, func(cmd *cobra.Command, _ []string) error {
		var err error
		if filter.States, err = parseStates(cmd, states); err != nil {
			return err
		}
		if filter.Since, err = s.since(cmd, since); err != nil {
			return err
		}
		if filter.WaitingFor, err = parseWaitKind(cmd, waitingFor); err != nil {
			return err
		}
		if filter.Limit < 1 {
			return usageOf(cmd, "--limit %d is too small", filter.Limit)
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		runs, err := fetchRuns(cmd.Context(), c, filter)
		if err != nil {
			return err
		}
		return s.listRuns(runs)
	})
	flags := cmd.Flags()
	flags.StringVar(&filter.Task, "task", "", "only runs of this task")
	flags.StringSliceVar(&states, "state", nil, "only runs in this state: "+strings.Join(stateNames(), ", "))
	flags.StringVar(&waitingFor, "waiting-for", "", "only runs that wait for: "+strings.Join(waitKinds(), ", "))
	flags.StringVar(&since, "since", "", "only runs created since then: 2h, 7d or a time")
	flags.IntVar(&filter.Limit, "limit", 50, "at most so many")
	s.completeFlag(cmd, "task", taskNames)
	s.completeFlag(cmd, "waiting-for", func(context.Context, *client.Client) ([]string, error) { return waitKinds(), nil })
	s.completeFlag(cmd, "state", func(context.Context, *client.Client) ([]string, error) { return stateNames(), nil })
	return cmd
}

func (s *session) completeFlag(cmd *cobra.Command, flag string, find completer) {
	inner := s.complete(0, find)
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return inner(cmd, nil, word)
	})
}

func stateNames() []string {
	names := make([]string, 0, len(task.States))
	for _, state := range task.States {
		names = append(names, string(state))
	}
	return names
}

func parseStates(cmd *cobra.Command, names []string) ([]task.State, error) {
	states := make([]task.State, 0, len(names))
	for _, name := range names {
		if task.State(name).Valid() {
			states = append(states, task.State(name))
			continue
		}
		if near := task.Nearest(name, stateNames()); near != "" {
			return nil, usageOf(cmd, "unknown state %q; did you mean %q?", name, near)
		}
		return nil, usageOf(cmd, "unknown state %q; the states are %s", name, strings.Join(stateNames(), ", "))
	}
	return states, nil
}

// fetchRuns asks page by page until it has filter.Limit runs or there are no more.
func fetchRuns(ctx context.Context, c *client.Client, filter client.RunFilter) ([]task.Run, error) {
	var runs []task.Run
	for want := filter.Limit; want > 0; want = filter.Limit - len(runs) {
		page := filter
		page.Limit = min(want, pageSize)
		if len(runs) > 0 {
			page.Before = runs[len(runs)-1].ID
		}
		got, err := c.Runs(ctx, page)
		if err != nil {
			return nil, err
		}
		runs = append(runs, got...)
		if len(got) == 0 || len(got) < min(want, 100) { // the server may give fewer than asked, but not that few
			break
		}
	}
	return runs, nil
}

func (s *session) listRuns(runs []task.Run) error {
	if s.json {
		return s.writeJSON(list(runs))
	}
	rows := make([][]string, 0, len(runs))
	for _, r := range runs {
		rows = append(rows, []string{
			r.ID.String(), r.Task, string(r.State), strconv.Itoa(r.Attempt), s.age(r.CreatedAt), took(r.StartedAt, r.FinishedAt), short(s.because(r), 80),
		})
	}
	return s.table("no runs", []string{"ID", "TASK", "STATE", "ATTEMPT", "AGE", "TOOK", "REASON"}, rows)
}

// runCommand makes a command about one run.
func (s *session) runCommand(use, short string, do func(ctx context.Context, c *client.Client, id uuid.UUID) error) *cobra.Command {
	cmd := command(use, short, named("ID"), func(cmd *cobra.Command, args []string) error {
		id, err := uuid.Parse(args[0])
		if err != nil {
			return usageOf(cmd, "%q is no run id; catena runs list shows them", args[0])
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, id)
	})
	cmd.ValidArgsFunction = s.complete(0, runIDs)
	return cmd
}

func (s *session) runsShow() *cobra.Command {
	return s.runCommand("show ID", "Show a run with its steps", func(ctx context.Context, c *client.Client, id uuid.UUID) error {
		run, err := c.Run(ctx, id)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(run)
		}
		return s.showRun(run)
	})
}

func (s *session) runsCancel() *cobra.Command {
	var reason string
	var now bool
	cmd := command("cancel [ID]", "Ask a run to end, or every run that the flags select", named("[ID]"), nil)
	cmd.ValidArgsFunction = s.complete(0, runIDs)
	f := s.bulkFlags(cmd, "every state of a run that has not ended", false)
	s.oneOrMany(cmd, f, func(ctx context.Context, c *client.Client, id uuid.UUID) error {
		ask := c.CancelRun
		if now {
			ask = c.CancelRunNow
		}
		run, err := ask(ctx, id, reason)
		sentence := "run " + id.String() + " is " + string(run.State)
		if !run.State.Terminal() {
			sentence += " and will end soon"
		}
		return s.changed(run, err, sentence)
	}, func(cmd *cobra.Command, c *client.Client, filter client.BulkFilter) error {
		b := bulk{session: s, verb: "cancel", done: "cancelled or asked to end", yes: f.yes,
			change: func(ctx context.Context, filter client.BulkFilter) (client.BulkResult, error) {
				return c.CancelRuns(ctx, client.BulkCancel{BulkFilter: filter, Reason: reason, Now: now})
			}}
		return b.run(cmd, filter)
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	cmd.Flags().BoolVar(&now, "now", false, "leave its code no grace to end by itself")
	return cmd
}

func (s *session) runsRetry() *cobra.Command {
	var from string
	cmd := command("retry [ID]", "Run an ended run again from the step that failed, or every run that the flags select", named("[ID]"), nil)
	cmd.ValidArgsFunction = s.complete(0, runIDs)
	f := s.bulkFlags(cmd, "failed and timed_out", true)
	s.oneOrMany(cmd, f, func(ctx context.Context, c *client.Client, id uuid.UUID) error {
		run, err := c.RetryRun(ctx, id, from)
		return s.changed(run, err, "run "+id.String()+" is "+string(run.State)+" again")
	}, func(cmd *cobra.Command, c *client.Client, filter client.BulkFilter) error {
		if from != "" {
			return usageOf(cmd, "--from is for one run")
		}
		b := bulk{session: s, verb: "retry", done: "queued again", yes: f.yes,
			change: func(ctx context.Context, filter client.BulkFilter) (client.BulkResult, error) {
				return c.RetryRuns(ctx, client.BulkRetry{BulkFilter: filter})
			}}
		return b.run(cmd, filter)
	})
	cmd.Flags().StringVar(&from, "from", "", "`step` to begin at, by its path or name; outcomes of earlier steps are reused")
	s.completeFlagByArgs(cmd, "from", 0, runSteps)
	return cmd
}

func (s *session) showRun(r task.Run) error {
	err := s.fields(
		[2]string{"run", r.ID.String()}, [2]string{"task", r.Task + " (revision " + strconv.FormatInt(r.Revision, 10) + ")"},
		[2]string{"state", string(r.State)}, [2]string{"reason", r.Reason}, [2]string{"waits", s.waitText(r.Wait)}, [2]string{"attempt", attemptText(r)},
		[2]string{"queue", r.Queue + ", priority " + strconv.Itoa(r.Priority)}, [2]string{"due", s.moment(r.DueAt)},
		[2]string{"created", s.moment(&r.CreatedAt)}, [2]string{"retried", s.retriedText(r)}, [2]string{"not before", s.notBefore(r)},
		[2]string{"started", s.moment(r.StartedAt)}, [2]string{"finished", s.moment(r.FinishedAt)},
		[2]string{"cancel asked", s.moment(r.CancelAskedAt)}, [2]string{"interrupted", s.moment(r.InterruptedAt)},
		[2]string{"killed", s.moment(r.KilledAt)},
		[2]string{"took", took(r.StartedAt, r.FinishedAt)}, [2]string{"worker", r.Worker}, [2]string{"parent", parentText(r)}, [2]string{"trace", r.TraceID},
		[2]string{"packages", packagesText(r)}, [2]string{"params", short(string(r.Params), 200)}, [2]string{"data", dataText(r.Outcome)},
	)
	if err != nil {
		return err
	}
	if err := s.showSteps(r.Steps); err != nil {
		return err
	}
	return s.showCallStack(r.Outcome)
}

func attemptText(r task.Run) string {
	text := strconv.Itoa(r.Attempt)
	if r.Losses > 0 {
		text += " (" + counted(r.Losses, "worker") + " lost)"
	}
	if r.CancelRequested && !r.State.Terminal() {
		text += ", cancel requested"
	}
	return text
}

// notBefore is the time that a run waits for.
func (s *session) notBefore(r task.Run) string {
	if r.State != task.StateQueued || r.AvailableAt == nil {
		return ""
	}
	return s.moment(r.AvailableAt)
}

func (s *session) retriedText(r task.Run) string {
	if r.RetriedAt == nil {
		return ""
	}
	return strings.TrimSuffix(s.moment(r.RetriedAt)+" by "+r.RetriedBy, " by ")
}

func packagesText(r task.Run) string {
	texts := make([]string, 0, len(r.Packages))
	for name, digest := range r.Packages {
		texts = append(texts, name+"@"+pkgstore.Short(digest))
	}
	if len(texts) == 0 {
		return r.PackageVersion
	}
	slices.Sort(texts)
	return strings.Join(texts, ", ")
}

func dataText(o *task.Outcome) string {
	if o == nil || string(o.Data) == "null" {
		return ""
	}
	return short(string(o.Data), 200)
}

func (s *session) showSteps(steps []task.Step) error {
	if len(steps) == 0 {
		return nil
	}
	rows := make([][]string, 0, len(steps))
	for _, step := range steps {
		result, detail := "failed", ""
		if step.Outcome != nil {
			detail = short(step.Outcome.Reason, 80)
			if step.Outcome.Success {
				result, detail = "ok", short(dataText(step.Outcome), 80)
			}
		}
		path := step.Path
		if step.Iteration > 0 {
			path += " #" + strconv.Itoa(step.Iteration)
		}
		rows = append(rows, []string{path, step.Name, strconv.Itoa(step.Attempt), result, took(&step.StartedAt, &step.FinishedAt), detail})
	}
	if err := s.println(); err != nil {
		return err
	}
	return writeTable(s.out, []string{"STEP", "NAME", "ATTEMPT", "RESULT", "TOOK", "OUTCOME"}, rows)
}

func (s *session) showCallStack(o *task.Outcome) error {
	if o == nil || len(o.CallStack) == 0 {
		return nil
	}
	rows := make([][]string, 0, len(o.CallStack))
	for _, frame := range o.CallStack {
		rows = append(rows, []string{frame.Module, frame.Index, frame.Source, frame.Item})
	}
	if err := s.println("\ncall stack, innermost first"); err != nil {
		return err
	}
	return writeTable(s.out, []string{"MODULE", "INDEX", "SOURCE", "ITEM"}, rows)
}

func (s *session) runsLogs() *cobra.Command {
	var follow bool
	cmd := s.runCommand("logs ID", "Print the log of a run", func(ctx context.Context, c *client.Client, id uuid.UUID) error {
		if follow {
			return s.followLogs(ctx, c, id)
		}
		lines, err := allLogs(ctx, c, id)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(lines))
		}
		for _, line := range lines {
			if err := s.println(logText(line)); err != nil {
				return err
			}
		}
		return nil
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print new lines until the run ends")
	return cmd
}

// followLogs prints one line, or one JSON object, for each line of the log.
func (s *session) followLogs(ctx context.Context, c *client.Client, id uuid.UUID) error {
	return c.FollowLogs(ctx, id, func(line task.LogLine) {
		text := logText(line)
		if s.json {
			object, err := json.Marshal(line)
			if err != nil {
				return
			}
			text = string(object)
		}
		_ = s.println(text) // a closed pipe ends the process by SIGPIPE
	})
}

func allLogs(ctx context.Context, c *client.Client, id uuid.UUID) ([]task.LogLine, error) {
	var all []task.LogLine
	var after int64
	for {
		lines, err := c.Logs(ctx, id, after, pageSize)
		if err != nil || len(lines) == 0 {
			return all, err
		}
		all = append(all, lines...)
		after = lines[len(lines)-1].Seq
	}
}

func logText(line task.LogLine) string {
	text := fmt.Sprintf("%s %-5s ", line.At.UTC().Format(time.TimeOnly+".000"), strings.ToUpper(line.Level))
	if line.Step != "" {
		text += "[" + plain(line.Step) + "] "
	}
	return text + plain(line.Message)
}
