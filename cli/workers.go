package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// orderPoll is how often an order that is waited for is looked at.
const orderPoll = 200 * time.Millisecond

func (s *session) workersShow() *cobra.Command {
	cmd := command("show ID", "Show a worker, the runs that it has in hand and those before it in its slot", named("ID"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		w, err := c.Worker(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(w)
		}
		return s.showWorker(w)
	})
	cmd.ValidArgsFunction = s.complete(0, workerIDs)
	return cmd
}

func (s *session) showWorker(w task.WorkerDetail) error {
	slot, order := "", ""
	if w.Slot != nil {
		slot = strconv.Itoa(*w.Slot)
	}
	master := w.Master
	if master == "" {
		master = "none: it was started alone"
	}
	if w.Order != nil {
		order = fmt.Sprintf("%s asked by %s: %s", w.Order.Kind, w.Order.AskedBy, orderText(*w.Order, 0))
	}
	err := s.fields(
		[2]string{"worker", w.ID}, [2]string{"state", string(w.State)}, [2]string{"reason", plainDurations(w.Reason)}, [2]string{"order", order},
		[2]string{"host", w.Host}, [2]string{"pid", strconv.Itoa(w.PID)}, [2]string{"version", w.Version},
		[2]string{"master", master}, [2]string{"slot", slot}, [2]string{"epoch", strconv.FormatInt(w.Epoch, 10)},
		[2]string{"queues", strings.Join(w.Queues, ", ")}, [2]string{"tags", strings.Join(w.Tags, ", ")},
		[2]string{"memory", bytesText(w.RSS)}, [2]string{"cpu", strconv.FormatFloat(100*w.CPU, 'f', 1, 64) + " % of a core"},
		[2]string{"clock", clockText(w.ClockOffset)}, [2]string{"age", span(time.Duration(w.Age))}, [2]string{"last beat", s.moment(&w.BeatAt)},
		[2]string{"running", fmt.Sprintf("%d of %d slots for runs", w.Running, w.Slots)},
	)
	if err != nil {
		return err
	}
	if len(w.Runs) > 0 {
		rows := make([][]string, 0, len(w.Runs))
		for _, r := range w.Runs {
			rows = append(rows, []string{r.ID.String(), r.Task, string(r.State), s.ageOf(r.StartedAt), r.Step, s.ageOf(r.StepAt)})
		}
		if err := s.println("\nruns in hand"); err != nil {
			return err
		}
		if err := writeTable(s.out, []string{"RUN", "TASK", "STATE", "FOR", "LAST STEP", "AGO"}, rows); err != nil {
			return err
		}
	}
	if len(w.Restarts) == 0 {
		return nil
	}
	rows := make([][]string, 0, len(w.Restarts))
	for _, e := range w.Restarts {
		rows = append(rows, []string{e.ID, string(e.State), span(time.Duration(e.Lived)), s.ageOf(e.EndedAt), plainDurations(e.Reason)})
	}
	if err := s.println("\nbefore it in its slot"); err != nil {
		return err
	}
	return writeTable(s.out, []string{"WORKER", "STATE", "LIVED", "ENDED", "REASON"}, rows)
}

func (s *session) workersRestart() *cobra.Command {
	var all, noWait bool
	var host string
	cmd := command("restart [ID]", "Replace a worker, or with --all every worker, without interrupting runs or requests", named("[ID]"), nil)
	cmd.Long = `Replace a worker: its master starts a replacement, and once that works the worker takes no new
work, finishes what it has and ends. With --all each master replaces one of its workers after
the other. A worker that was started without a master drains and ends; with --all it goes on.`
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case all && len(args) == 1:
			return usageOf(cmd, "%s and --all are two answers to which workers; give one of them", args[0])
		case !all && len(args) == 0:
			return usageOf(cmd, "name a worker, or give --all")
		case host != "" && !all:
			return usageOf(cmd, "--host needs --all")
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		if all {
			return s.restartAll(cmd.Context(), c, host, !noWait)
		}
		order, err := c.RestartWorker(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		s.noteEarlier(task.OrderRestart, order)
		return s.followOne(cmd.Context(), c, order, !noWait)
	}
	cmd.Flags().BoolVar(&all, "all", false, "every worker that a master supervises")
	cmd.Flags().StringVar(&host, "host", "", "with --all: only workers of this host")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it is done")
	cmd.ValidArgsFunction = s.complete(0, workerIDs)
	s.completeFlag(cmd, "host", workerHosts)
	return cmd
}

func (s *session) workersDrain() *cobra.Command {
	var noWait bool
	cmd := command("drain ID", "Have a worker take no new work, finish what it has and end", named("ID"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		order, err := c.DrainWorker(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		s.noteEarlier(task.OrderDrain, order)
		return s.followOne(cmd.Context(), c, order, !noWait)
	})
	cmd.Long = "Have a worker take no new work, finish what it has and end. A master fills the place of a worker of\nits own again, once that has ended; `catena workers restart` has the replacement work first."
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it has ended")
	cmd.ValidArgsFunction = s.complete(0, workerIDs)
	return cmd
}

func (s *session) restartAll(ctx context.Context, c *client.Client, host string, wait bool) error {
	result, err := c.RestartWorkers(ctx, client.RestartRequest{Host: host})
	if err != nil {
		return err
	}
	for _, id := range result.Alone {
		s.note("worker %s goes on: it was started without a master, so nobody would start it again; use `%s workers drain %s`", id, s.Name, id)
	}
	if len(result.Orders) == 0 {
		return s.nothingToRestart(ctx, c, host)
	}
	s.noteEarlier(task.OrderRestart, result.Orders...)
	if wait {
		if result.Orders, err = s.follow(ctx, c, result.Orders); err != nil {
			return err
		}
	}
	if s.json {
		result.Orders, result.Alone = list(result.Orders), list(result.Alone)
		return s.writeJSON(result)
	}
	return s.println(replaced(len(result.Orders), wait))
}

func replaced(workers int, wait bool) string {
	switch {
	case wait && workers == 1:
		return "1 worker was replaced"
	case wait:
		return counted(workers, "worker") + " were replaced"
	case workers == 1:
		return "1 worker will be replaced"
	}
	return counted(workers, "worker") + " will be replaced one after the other"
}

// nothingToRestart says why no worker is replaced.
func (s *session) nothingToRestart(ctx context.Context, c *client.Client, host string) error {
	none := task.Errorf(task.CodeNotFound, "no master supervises a worker").Fix("see `%s workers list` and `%s masters list`", s.Name, s.Name)
	if host == "" {
		return none
	}
	hosts, err := workerHosts(ctx, c)
	if err != nil {
		return err
	}
	none.Message += " on the host " + host
	if !slices.Contains(hosts, host) && len(hosts) > 0 {
		none = none.Fix("%s", task.DidYouMean(host, hosts, "the hosts with workers are "+strings.Join(hosts, ", ")))
	}
	return none
}

// noteEarlier tells of orders that stood when another was asked for: they go on as
// they were given, and are waited for.
func (s *session) noteEarlier(asked task.OrderKind, orders ...task.WorkerOrder) {
	for _, o := range orders {
		if !o.Earlier || o.State == task.OrderDone || o.State == task.OrderFailed {
			continue
		}
		text := fmt.Sprintf("%s was already asked to %s, %s ago by %s", o.Worker, o.Kind, s.age(o.AskedAt), o.AskedBy)
		if o.Kind == task.OrderDrain && asked == task.OrderRestart {
			text += "; it ends first, and its place is filled after that"
		}
		if o.Kind == task.OrderRestart && asked == task.OrderDrain {
			text += "; its replacement works first, then it drains"
		}
		s.note("%s", text)
	}
}

func (s *session) followOne(ctx context.Context, c *client.Client, order task.WorkerOrder, wait bool) error {
	if order.Detail != "" && order.State == task.OrderAsked {
		s.note("%s: %s", order.Worker, order.Detail)
	}
	if wait {
		orders, err := s.follow(ctx, c, []task.WorkerOrder{order})
		if err != nil {
			return err
		}
		order = orders[0]
	}
	return s.changed(order, nil, "worker "+order.Worker+" "+orderText(order, 0))
}

// follow shows how the orders come along until all are carried out. One that
// failed is an error once the others are done.
func (s *session) follow(ctx context.Context, c *client.Client, orders []task.WorkerOrder) ([]task.WorkerOrder, error) {
	ticker := time.NewTicker(orderPoll)
	defer ticker.Stop()
	said := make([]string, len(orders))
	for {
		open := 0
		for i := range orders {
			o := &orders[i]
			if o.State == task.OrderDone || o.State == task.OrderFailed {
				continue
			}
			running, err := s.refresh(ctx, c, o)
			if err != nil {
				return orders, err
			}
			if text := orderText(*o, running); text != said[i] && !s.json {
				said[i] = text
				s.note("%s %s", o.Worker, text)
			}
			if o.State != task.OrderDone && o.State != task.OrderFailed {
				open++
			}
		}
		if open == 0 {
			return orders, failures(orders)
		}
		select {
		case <-ctx.Done():
			return orders, task.Errorf(task.CodeCancelled, "stopped waiting: %w", context.Cause(ctx)).Fix("the orders stand; see `%s workers list`", s.Name)
		case <-ticker.C:
		}
	}
}

func (s *session) refresh(ctx context.Context, c *client.Client, o *task.WorkerOrder) (running int, err error) {
	w, err := c.Worker(ctx, o.Worker)
	switch {
	case task.CodeOf(err) == task.CodeNotFound && err != nil:
		o.State = task.OrderDone
		return 0, nil
	case task.CodeOf(err) == task.CodeUnavailable && err != nil && ctx.Err() == nil:
		return 0, nil // a master that is replaced itself; the client has tried again already
	case err != nil:
		return 0, err
	case w.Order != nil:
		*o = *w.Order
	}
	return w.Running, nil
}

func failures(orders []task.WorkerOrder) error {
	var failed []string
	for _, o := range orders {
		if o.State == task.OrderFailed {
			failed = append(failed, o.Worker+": "+o.Detail)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return task.Errorf(task.CodeInternal, "%s", strings.Join(failed, "; ")).Fix("read the log of its master")
}

// orderText says how far an order has come.
func orderText(o task.WorkerOrder, running int) string {
	switch o.State {
	case task.OrderReplacing:
		return "is being replaced: its replacement starts"
	case task.OrderDraining:
		text := "drains"
		if running > 0 {
			text += ": " + counted(running, "run") + " to finish"
		}
		return text
	case task.OrderDone:
		if o.Successor != "" {
			return "has ended; " + o.Successor + " works in its place"
		}
		return "has ended"
	case task.OrderFailed:
		return "goes on: " + o.Detail
	}
	return "was asked to " + string(o.Kind)
}

func workerIDs(ctx context.Context, c *client.Client) ([]string, error) {
	workers, err := c.Workers(ctx, false)
	ids := make([]string, 0, len(workers))
	for _, w := range workers {
		ids = append(ids, cobra.CompletionWithDesc(w.ID, fmt.Sprintf("%s, %d running, %s", w.State, w.Running, bytesText(w.RSS))))
	}
	return ids, err
}

func workerHosts(ctx context.Context, c *client.Client) ([]string, error) {
	workers, err := c.Workers(ctx, false)
	var hosts []string
	seen := map[string]bool{}
	for _, w := range workers {
		if !seen[w.Host] {
			hosts = append(hosts, w.Host)
		}
		seen[w.Host] = true
	}
	return hosts, err
}

// sayCrashLoops tells, below a list of workers, of slots that have none.
func (s *session) sayCrashLoops(ctx context.Context, c *client.Client) {
	masters, err := c.Masters(ctx, false)
	if err != nil {
		return // a remark; a server of the version before has no masters to show
	}
	for _, m := range masters {
		for _, slot := range m.Slots {
			if slot.State == task.SlotCrashLoop {
				s.note("slot %d of %s: %s", slot.Slot, m.Name, slotText(slot))
			}
		}
	}
}

func slotText(slot task.Slot) string {
	text := strings.ReplaceAll(string(slot.State), "-", " ")
	if slot.NextStart > 0 {
		text += ", next start in " + span(time.Duration(slot.NextStart))
	}
	if slot.State == task.SlotCrashLoop && slot.Last != "" {
		text += ", last: " + short(plain(slot.Last), 200)
	}
	return text
}
