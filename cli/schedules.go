package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func (s *session) taskPause() *cobra.Command {
	var note string
	var schedule int64
	cmd := command("pause NAME", "Keep the schedules of a task, or one of them, from starting runs", named("NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("schedule") {
			t, err := c.PauseSchedule(cmd.Context(), args[0], schedule, note)
			return s.changed(t, err, "schedule "+strconv.FormatInt(schedule, 10)+" of "+t.Name+" is paused")
		}
		t, err := c.PauseTask(cmd.Context(), args[0], note)
		return s.changed(t, err, t.Name+" is paused; go on with catena task resume "+t.Name)
	})
	cmd.Flags().StringVar(&note, "note", "", "why")
	cmd.Flags().Int64Var(&schedule, "schedule", 0, "only this schedule, by the `id` that task show tells")
	cmd.ValidArgsFunction = s.complete(0, taskNames)
	return cmd
}

func (s *session) taskResume() *cobra.Command {
	var schedule int64
	cmd := command("resume NAME", "End the pause of a task, or of one of its schedules", named("NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("schedule") {
			t, err := c.ResumeSchedule(cmd.Context(), args[0], schedule)
			return s.changed(t, err, "schedule "+strconv.FormatInt(schedule, 10)+" of "+t.Name+" is resumed")
		}
		t, err := c.ResumeTask(cmd.Context(), args[0])
		return s.changed(t, err, t.Name+" is resumed")
	})
	cmd.Flags().Int64Var(&schedule, "schedule", 0, "only this schedule, by the `id` that task show tells")
	cmd.ValidArgsFunction = s.complete(0, taskNames)
	return cmd
}

// backfillFlags are the flags of task backfill.
type backfillFlags struct {
	from, to, overlap string
	schedule          int64
	dryRun, wait      bool
	timeout           time.Duration
}

func (s *session) taskBackfill() *cobra.Command {
	var f backfillFlags
	cmd := command("backfill NAME --from TIME --to TIME", "Make runs of the past due times of a schedule", named("NAME"), func(cmd *cobra.Command, args []string) error {
		s.ownTimeout = true
		return s.backfill(cmd, args[0], f)
	})
	cmd.Long = `Make a run for each due time that a schedule had, or would have had, in a past span of
time. --from is included, --to is not. The leader makes the runs in the background, behind
those of the present; see catena backfill show. The ledger (catena fires) is not touched: it
tells what the schedule did itself.

With --overlap buffer-all, the default, one run begins when the one before has ended; with
allow-all they run side by side; with skip only the first due time gets a run, since all the
others have come while it has not ended.`
	flags := cmd.Flags()
	flags.StringVar(&f.from, "from", "", "first `time` of the span: 2026-11-22T05:00:00Z, 2026-11-22, or 7d for a week ago")
	flags.StringVar(&f.to, "to", "", "end `time` of the span, not included")
	flags.Int64Var(&f.schedule, "schedule", 0, "of this schedule, by the `id` that task show tells")
	flags.StringVar(&f.overlap, "overlap", "", "skip, buffer-all or allow-all")
	flags.BoolVar(&f.dryRun, "dry-run", false, "only count the due times")
	flags.BoolVar(&f.wait, "wait", false, "wait for the end of all runs; exit 0 only if all succeeded")
	flags.DurationVar(&f.timeout, "timeout", 0, "stop waiting after this long; the backfill goes on")
	cmd.ValidArgsFunction = s.complete(0, taskNames)
	return cmd
}

// instant reads a time, or a span before now.
func (s *session) instant(cmd *cobra.Command, flag, text string) (time.Time, error) {
	if d, ok := parseSpan(text); ok && text != "" {
		return s.Now().Add(-d).UTC(), nil
	}
	if t, ok := parseTime(text); ok {
		return t.UTC(), nil
	}
	if text == "" {
		return time.Time{}, usageOf(cmd, "--%s is missing; write a time such as 2026-11-22T05:00:00Z, or a span before now such as 7d", flag)
	}
	return time.Time{}, usageOf(cmd, "--%s %q is no time; write a time such as 2026-11-22T05:00:00Z, or a span before now such as 7d", flag, text)
}

func (s *session) backfill(cmd *cobra.Command, name string, f backfillFlags) error {
	from, err := s.instant(cmd, "from", f.from)
	if err != nil {
		return err
	}
	to, err := s.instant(cmd, "to", f.to)
	if err != nil {
		return err
	}
	if f.timeout < 0 || f.timeout > 0 && !f.wait {
		return usageOf(cmd, "--timeout needs --wait and is positive")
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	result, err := c.Backfill(cmd.Context(), name, client.BackfillRequest{Schedule: f.schedule, From: from, To: to, Overlap: task.Overlap(f.overlap), DryRun: f.dryRun})
	if err != nil {
		return err
	}
	if f.wait && !f.dryRun {
		return s.waitForBackfill(cmd.Context(), c, result.Backfill, f.timeout)
	}
	if s.json {
		return s.writeJSON(result)
	}
	span := plural(result.Total) + " of schedule " + strconv.FormatInt(result.Schedule, 10) + ", from " + stamp(result.First) + " to " + stamp(result.Last)
	if f.dryRun {
		return s.println("a backfill would have " + span)
	}
	id := strconv.FormatInt(result.ID, 10)
	return s.println("backfill " + id + " has " + span + "; follow it with catena backfill show " + id)
}

func plural(n int64) string {
	if n == 1 {
		return "1 due time"
	}
	return strconv.FormatInt(n, 10) + " due times"
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// backfillEvery is how often a waiting command asks.
const backfillEvery = 500 * time.Millisecond

func (s *session) waitForBackfill(ctx context.Context, c *client.Client, b task.Backfill, timeout time.Duration) error {
	waiting, cancel := within(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(backfillEvery)
	defer ticker.Stop()
	for b.State == task.BackfillRunning {
		select {
		case <-waiting.Done():
			s.note("backfill %d goes on; see it with catena backfill show %d, end it with catena backfill cancel %d", b.ID, b.ID, b.ID)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return task.Errorf(task.CodeTimeout, "backfill %d has not ended within %s", b.ID, durationText(timeout)).Fix("wait longer, or look at it later")
		case <-ticker.C:
		}
		next, err := c.BackfillByID(ctx, b.ID)
		if err != nil {
			return err
		}
		b = next
	}
	err := s.showBackfill(b)
	if err == nil && (b.State != task.BackfillDone || b.Failed > 0) {
		err = errQuiet
	}
	return err
}

func (s *session) backfillCommand() *cobra.Command {
	return group("backfill", "Look at and cancel backfills, which catena task backfill makes", s.backfillList(), s.backfillShow(), s.backfillCancel())
}

func (s *session) backfillList() *cobra.Command {
	var name string
	cmd := command("list", "List backfills, newest first", nothing, func(cmd *cobra.Command, _ []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		backfills, err := c.Backfills(cmd.Context(), name)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(backfills))
		}
		rows := make([][]string, 0, len(backfills))
		for _, b := range backfills {
			rows = append(rows, []string{strconv.FormatInt(b.ID, 10), b.Task, string(b.State), stamp(b.From), stamp(b.To), progressText(b), s.age(b.CreatedAt)})
		}
		return s.table("no backfills; make one with catena task backfill NAME --from TIME --to TIME",
			[]string{"ID", "TASK", "STATE", "FROM", "TO", "PROGRESS", "CREATED"}, rows)
	})
	cmd.Flags().StringVar(&name, "task", "", "only backfills of this task")
	s.completeFlag(cmd, "task", taskNames)
	return cmd
}

// progressText says how many of the due times are dealt with.
func progressText(b task.Backfill) string {
	text := strconv.FormatInt(b.Ended+b.Skipped, 10) + "/" + strconv.FormatInt(b.Total, 10)
	if b.Failed > 0 {
		text += ", " + strconv.FormatInt(b.Failed, 10) + " failed"
	}
	return text
}

// backfillOne makes a command about one backfill.
func (s *session) backfillOne(use, short string, do func(context.Context, *client.Client, int64) error) *cobra.Command {
	return command(use, short, named("ID"), func(cmd *cobra.Command, args []string) error {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return usageOf(cmd, "%q is not the id of a backfill; catena backfill list shows them", args[0])
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, id)
	})
}

func (s *session) backfillShow() *cobra.Command {
	return s.backfillOne("show ID", "Show a backfill and its progress", func(ctx context.Context, c *client.Client, id int64) error {
		b, err := c.BackfillByID(ctx, id)
		if err != nil {
			return err
		}
		return s.showBackfill(b)
	})
}

func (s *session) showBackfill(b task.Backfill) error {
	if s.json {
		return s.writeJSON(b)
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return s.fields(
		[2]string{"backfill", number(b.ID)}, [2]string{"task", b.Task}, [2]string{"schedule", number(b.Schedule)},
		[2]string{"state", string(b.State)}, [2]string{"reason", b.Reason}, [2]string{"from", stamp(b.From)}, [2]string{"to", stamp(b.To)},
		[2]string{"overlap", string(b.Overlap)}, [2]string{"due times", number(b.Total)}, [2]string{"started", number(b.Started)},
		[2]string{"skipped", number(b.Skipped)}, [2]string{"ended", number(b.Ended)}, [2]string{"failed", number(b.Failed)},
		[2]string{"next", s.moment(b.NextDue)}, [2]string{"by", b.CreatedBy}, [2]string{"created", s.moment(&b.CreatedAt)}, [2]string{"finished", s.moment(b.FinishedAt)},
	)
}

func (s *session) backfillCancel() *cobra.Command {
	var reason string
	cmd := s.backfillOne("cancel ID", "End the making of runs; those made go on", func(ctx context.Context, c *client.Client, id int64) error {
		b, err := c.CancelBackfill(ctx, id, reason)
		return s.changed(b, err, "backfill "+strconv.FormatInt(id, 10)+" is cancelled after "+counted(int(b.Started), "run"))
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	return cmd
}
