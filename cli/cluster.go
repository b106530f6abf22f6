package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func (s *session) firesCommand() *cobra.Command {
	var filter client.FireFilter
	var since, outcome string
	listing := command("list", "List due times, newest first, and what became of each", nothing, func(cmd *cobra.Command, _ []string) error {
		var err error
		if filter.Since, err = s.since(cmd, since); err != nil {
			return err
		}
		filter.Outcome = task.FireOutcome(outcome)
		if outcome != "" && !slices.Contains(task.FireOutcomes[:], filter.Outcome) {
			return usageOf(cmd, "--outcome %q is none; use one of %v", outcome, task.FireOutcomes)
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		if filter.Limit < 1 {
			return usageOf(cmd, "--limit %d is too small", filter.Limit)
		}
		fires, err := fetchFires(cmd.Context(), c, filter)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(fires))
		}
		return s.table("no due time has passed yet", []string{"DUE", "TASK", "OUTCOME", "COUNT", "REASON", "RUN"}, fireRows(fires))
	})
	listing.Flags().StringVar(&filter.Task, "task", "", "only due times of this task")
	listing.Flags().StringVar(&outcome, "outcome", "", "only due times of which this became: started, caught_up, buffered, skipped, missed or paused")
	listing.Flags().StringVar(&since, "since", "", "only due times since then: 2h, 7d or a time")
	listing.Flags().IntVar(&filter.Limit, "limit", 50, "at most so many")
	s.completeFlag(listing, "task", taskNames)
	return group("fires", "Look at the due times of schedules", listing)
}

// fetchFires asks page by page until it has filter.Limit fires or there are no more.
func fetchFires(ctx context.Context, c *client.Client, filter client.FireFilter) ([]task.Fire, error) {
	var fires []task.Fire
	for len(fires) < filter.Limit {
		page := filter
		page.Limit = min(filter.Limit-len(fires), pageSize)
		if len(fires) > 0 {
			page.Before = &fires[len(fires)-1]
		}
		got, err := c.Fires(ctx, page)
		if err != nil {
			return nil, err
		}
		fires = append(fires, got...)
		if len(got) < page.Limit {
			break
		}
	}
	return fires, nil
}

func fireRows(fires []task.Fire) [][]string {
	rows := make([][]string, 0, len(fires))
	for _, f := range fires {
		due, run := f.DueAt.UTC().Format("2006-01-02T15:04:05Z"), ""
		if f.Count > 1 {
			due += " to " + f.LastDueAt.UTC().Format("2006-01-02T15:04:05Z")
		}
		if f.Run != nil {
			run = f.Run.String()
		}
		rows = append(rows, []string{due, f.Task, string(f.Outcome), strconv.FormatInt(f.Count, 10), short(plainDurations(f.Reason), 80), run})
	}
	return rows
}

// servedText lists a worker's queues, and its tags as lanes do.
func servedText(w task.Worker) string {
	return strings.Join(append([]string{strings.Join(w.Queues, ",")}, w.Tags...), "+")
}

// clockText says how far a clock is ahead (+) of the database's, or behind.
func clockText(ms *float64) string {
	if ms == nil {
		return "-"
	}
	offset := time.Duration(*ms * float64(time.Millisecond))
	sign := "+"
	if offset < 0 {
		sign = "-"
	}
	return sign + durationText(offset.Abs().Round(100*time.Microsecond))
}

func (s *session) workersCommand() *cobra.Command {
	var all bool
	listing := command("list", "List the workers of the cluster", nothing, func(cmd *cobra.Command, _ []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		workers, err := c.Workers(cmd.Context(), all)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(workers))
		}
		rows := make([][]string, 0, len(workers))
		for _, w := range workers {
			rows = append(rows, []string{
				w.ID, w.Host, strconv.Itoa(w.PID), string(w.State), strconv.Itoa(w.Running) + "/" + strconv.Itoa(w.Slots),
				bytesText(w.RSS), span(time.Duration(w.Age)), clockText(w.ClockOffset), servedText(w), w.Version, short(plainDurations(w.Reason), 60),
			})
		}
		err = s.table("no worker is alive; start one with catena worker",
			[]string{"ID", "HOST", "PID", "STATE", "RUNNING", "RSS", "AGE", "CLOCK", "QUEUES", "VERSION", "REASON"}, rows)
		s.sayCrashLoops(cmd.Context(), c)
		return err
	})
	listing.Flags().BoolVar(&all, "all", false, "also those that have ended")
	return group("workers", "Look at the workers, replace and drain them", listing, s.workersShow(), s.workersRestart(), s.workersDrain())
}
