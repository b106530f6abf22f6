package cli

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func (s *session) runsWhy() *cobra.Command {
	cmd := s.runCommand("why ID", "Say what a run waits for", func(ctx context.Context, c *client.Client, id uuid.UUID) error {
		why, err := c.Why(ctx, id)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(why)
		}
		return s.println(whyText(why))
	})
	cmd.Long = "Say in one sentence what a waiting run waits for: the end of a pause, its time, a worker with its tags, a token of\n" +
		"a rate limit, a place of a concurrency limit, an earlier run of its schedule, or room; with its place in line and an estimate."
	return cmd
}

func whyText(why task.Why) string {
	text := plain(why.Sentence)
	if why.Estimate != nil && why.Waits != task.WaitTime {
		text += "; about " + span(time.Duration(*why.Estimate)) + " by the usual length of the runs before it"
	}
	return text
}
