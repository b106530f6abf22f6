package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

// bulkFlags select runs for a command that changes one run or many.
type bulkFlags struct {
	task   string
	states []string
	since  string
	yes    bool
}

func (s *session) bulkFlags(cmd *cobra.Command, states string, ended bool) *bulkFlags {
	var f bulkFlags
	flags := cmd.Flags()
	flags.StringVar(&f.task, "task", "", "every run of this task")
	flags.StringSliceVar(&f.states, "state", nil, "every run in this state; default "+states)
	flags.StringVar(&f.since, "since", "", "every run created since then: 2h, 7d or a time")
	flags.BoolVar(&f.yes, "yes", false, "do not ask whether to change so many")
	s.completeFlag(cmd, "task", taskNames)
	s.completeFlag(cmd, "state", func(context.Context, *client.Client) ([]string, error) {
		var names []string
		for _, state := range task.States {
			if state.Terminal() == ended && state != task.StateSucceeded {
				names = append(names, string(state))
			}
		}
		return names, nil
	})
	return &f
}

func (f *bulkFlags) given() bool { return f.task != "" || len(f.states) > 0 || f.since != "" }

func (s *session) bulkFilter(cmd *cobra.Command, f *bulkFlags) (filter client.BulkFilter, err error) {
	filter.Task = f.task
	if filter.States, err = parseStates(cmd, f.states); err != nil {
		return filter, err
	}
	filter.Since, err = s.since(cmd, f.since)
	return filter, err
}

// oneOrMany makes a command about the run that its argument names, or about
// those that its flags select.
func (s *session) oneOrMany(cmd *cobra.Command, f *bulkFlags, one func(ctx context.Context, c *client.Client, id uuid.UUID) error, many func(*cobra.Command, *client.Client, client.BulkFilter) error) {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 && !f.given():
			return usageOf(cmd, "ID is missing; name a run, or select runs with --task, --state and --since")
		case len(args) > 0 && (f.given() || f.yes):
			return usageOf(cmd, "name one run, or select runs with --task, --state and --since, not both")
		}
		if len(args) > 0 {
			id, err := uuid.Parse(args[0])
			if err != nil {
				return usageOf(cmd, "%q is no run id; catena runs list shows them", args[0])
			}
			c, err := s.client()
			if err != nil {
				return err
			}
			return one(cmd.Context(), c, id)
		}
		filter, err := s.bulkFilter(cmd, f)
		if err != nil {
			return err
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		return many(cmd, c, filter)
	}
}

// bulk is one change of many runs.
type bulk struct {
	*session
	verb   string // cancel
	done   string // asked to end
	yes    bool
	change func(context.Context, client.BulkFilter) (client.BulkResult, error)
}

// run counts, asks, and changes one batch after the other. What was changed is
// selected no more, so the same command goes on after an interruption.
func (b *bulk) run(cmd *cobra.Command, filter client.BulkFilter) error {
	ctx := cmd.Context()
	count := filter
	count.DryRun = true
	counted, err := b.walk(ctx, count, "counted", 0)
	if err != nil {
		return err
	}
	if counted.Matched > 0 {
		if err := b.confirm(cmd, counted.Matched); err != nil {
			return err
		}
		filter.Expected = &counted.Matched
		if counted, err = b.walk(ctx, filter, b.done, counted.Matched); err != nil {
			b.note("%s %s %s; the same command goes on with the others", runsText(counted.Done), verb(counted.Done), b.done)
			return err
		}
	}
	return b.report(counted)
}

func (b *bulk) walk(ctx context.Context, filter client.BulkFilter, what string, total int) (sum client.BulkResult, err error) {
	p := newProgress(b.session)
	defer p.end()
	for {
		did, err := b.change(ctx, filter)
		if err != nil {
			return sum, err
		}
		sum.Add(did)
		if sum.Next == nil {
			return sum, nil
		}
		p.show(what, sum.Matched, max(total, sum.Matched))
		filter.Before, filter.Expected = sum.Next, nil
	}
}

// confirm asks a person; where there is none, --yes must have been given.
func (b *bulk) confirm(cmd *cobra.Command, count int) error {
	if b.yes {
		return nil
	}
	if in, ok := b.in.(io.Writer); !ok || !telemetry.IsTerminal(in) {
		return usageOf(cmd, "this would %s %s; add --yes to do it", b.verb, runsText(count))
	}
	fmt.Fprintf(b.err, "%s %s? [y/N] ", strings.ToUpper(b.verb[:1])+b.verb[1:], runsText(count))
	line, _ := bufio.NewReader(b.in).ReadString('\n') // no answer means no
	if word := strings.ToLower(strings.TrimSpace(line)); word != "y" && word != "yes" {
		b.note("nothing was done")
		return errQuiet
	}
	return nil
}

func (b *bulk) report(sum client.BulkResult) error {
	var err error
	switch {
	case b.json:
		err = b.writeJSON(sum)
	case sum.Matched == 0:
		b.note("no runs match")
	default:
		err = b.printf("%d of %s %s %s (%d had changed meanwhile, %d failed)\n", sum.Done, runsText(sum.Matched), verb(sum.Done), b.done, sum.Skipped, sum.Failed)
		for _, fault := range sum.Faults {
			b.note("run %s: %s", fault.Run, plain(fault.Reason))
		}
	}
	if err == nil && sum.Failed > 0 {
		err = errQuiet
	}
	return err
}

func runsText(n int) string { return counted(n, "run") }

func verb(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
