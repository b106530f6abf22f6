package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

const (
	pollLook = 100 * time.Millisecond // pause between two looks at a source that is polled
	// pollPatience is how long a poll may take beyond the time limit of the source.
	pollPatience = 15 * time.Second
	pollItems    = 1000 // as many as one poll can give
)

// pollResult is what a poll gave.
type pollResult struct {
	Listed  int `json:"listed"`  // items in the answer
	Started int `json:"started"` // runs, of these or of items that were to be run once more
	Refused int `json:"refused"`
}

// polledSource is a source after its poll.
type polledSource struct {
	task.Source
	Poll *pollResult `json:"poll,omitempty"` // absent: it was not waited for
}

func (s *session) sourcePoll() *cobra.Command {
	var noWait bool
	cmd := command("poll NAME", "Poll a source, and tell it of outcomes, now", named("NAME"), func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		c, err := s.client()
		if err != nil {
			return err
		}
		before, err := c.Source(ctx, args[0])
		if err != nil {
			return err
		}
		asked, err := c.PollSource(ctx, args[0])
		if err != nil || noWait {
			return s.changed(polledSource{Source: asked}, err, asked.Name+" is polled in a moment; see "+s.Name+" source show "+asked.Name)
		}
		after, err := s.polled(ctx, c, before, asked)
		if err != nil {
			return err
		}
		return s.tellPoll(ctx, c, before, asked, after)
	})
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for what it gives")
	cmd.ValidArgsFunction = s.complete(0, sourceNames)
	return cmd
}

// polled waits until the poll that was asked for has ended.
func (s *session) polled(ctx context.Context, c *client.Client, before, asked task.Source) (task.Source, error) {
	patience := time.Duration(asked.Timeout) + pollPatience
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(pollLook)
	defer ticker.Stop()
	for one := asked; ; {
		if pollEnded(before, asked, one) {
			return one, nil
		}
		var err error
		select {
		case <-ticker.C:
			one, err = c.Source(limited, asked.Name)
		case <-limited.Done():
			err = limited.Err()
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return one, task.Errorf(task.CodeCancelled, "stopped waiting: %w", context.Cause(ctx))
		case err != nil && limited.Err() != nil:
			return one, task.Errorf(task.CodeTimeout, "%s has not been polled within %s; the poll stays asked for", asked.Name, durationText(patience)).
				Fix("does a master lead? see `%s masters list` and `%s source show %s`", s.Name, s.Name, asked.Name)
		case err != nil:
			return one, err
		}
	}
}

// pollEnded reports whether one is the source after the poll that asked asked for.
// A poll that was under way at that time leaves the next one due as it is.
func pollEnded(before, asked, one task.Source) bool {
	switch {
	case one.PolledAt != nil && (before.PolledAt == nil || one.PolledAt.After(*before.PolledAt)):
		return one.NextPollAt == nil || one.NextPollAt.After(*one.PolledAt)
	case one.Failures > before.Failures:
		return asked.Failures > before.Failures || one.NextPollAt == nil || asked.NextPollAt == nil || !one.NextPollAt.Equal(*asked.NextPollAt)
	}
	return false
}

// tellPoll says what a poll gave.
func (s *session) tellPoll(ctx context.Context, c *client.Client, before, asked, after task.Source) error {
	if after.Failures > 0 && (before.PolledAt == nil || !after.PolledAt.After(*before.PolledAt)) {
		return task.Errorf(task.CodeInternal, "%s cannot be polled: %s", after.Name, plain(after.Error)).At("source "+after.Name).
			Fix("it is tried again by itself; see `%s source show %s`", s.Name, after.Name)
	}
	result := pollResult{Listed: after.Listed}
	items, err := c.SourceItems(ctx, after.Name, client.SourceItemFilter{Limit: pollItems})
	if err != nil {
		return err
	}
	for _, item := range items {
		switch {
		case asked.NextPollAt != nil && item.StartedAt.Before(*asked.NextPollAt):
		case item.Run != nil:
			result.Started++
		default:
			result.Refused++
			if result.Refused <= 3 && !s.json {
				s.note("item %s was refused: %s", plain(item.Key), short(plain(item.Reason), 200))
			}
		}
	}
	if after.Error != "" {
		s.note("warning: %s", plain(after.Error))
	}
	if after.RecordError != "" {
		s.note("warning: it cannot be told of outcomes: %s", plain(after.RecordError))
	}
	if s.json {
		return s.writeJSON(polledSource{after, &result})
	}
	return s.println(after.Name + " " + result.String())
}

// String says it in a sentence without its subject.
func (r pollResult) String() string {
	switch {
	case r.Listed == 0 && r.Started == 0:
		return "listed no items"
	case r.Started == 0 && r.Refused == 0 && r.Listed == 1:
		return "listed 1 item, which is known: its run is under way, or its outcome is not recorded yet"
	case r.Started == 0 && r.Refused == 0:
		return fmt.Sprintf("listed %d items, all of which are known: their runs are under way, or their outcomes are not recorded yet", r.Listed)
	}
	started := counted(r.Started, "run") + " were started"
	if r.Started == 1 {
		started = "1 run was started"
	}
	text := "listed " + counted(r.Listed, "item") + "; " + started
	if r.Refused > 0 {
		text += ", " + counted(r.Refused, "item") + " refused"
	}
	return text
}
