package cli

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func (s *session) eventCommand() *cobra.Command {
	return group("event", "Send events to waiting runs", s.eventSend(), s.eventList())
}

func (s *session) eventSend() *cobra.Command {
	var request client.EventRequest
	var data string
	cmd := command("send NAME", "Send an event to the runs that wait for it", named("NAME"), func(cmd *cobra.Command, args []string) error {
		var err error
		if request.Data, err = s.eventData(cmd, data); err != nil {
			return err
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		request.Name = args[0]
		sent, err := c.SendEvent(cmd.Context(), request)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(sent)
		}
		return s.println(sentText(s, sent))
	})
	cmd.Long = `Send an event. Every run that waits for its name and key goes on with its data. The event
is kept for a while: a run that began before it was sent and comes to wait for it later takes it, too.`
	flags := cmd.Flags()
	flags.StringVar(&request.Key, "key", "", "what it happened to, such as the number of an order")
	flags.StringVar(&data, "data", "", "`JSON`, or @file, or @- for standard input")
	return cmd
}

func sentText(s *session, sent client.SentEvent) string {
	kept := "it is kept until " + s.moment(&sent.ExpiresAt) + " for runs that began before it"
	switch sent.Reached {
	case 0:
		return "no run waits for it now; " + kept
	case 1:
		return "it reached 1 run; " + kept
	}
	return "it reached " + counted(sent.Reached, "run") + "; " + kept
}

func (s *session) eventData(cmd *cobra.Command, text string) (json.RawMessage, error) {
	name, file := strings.CutPrefix(text, "@")
	raw := []byte(text)
	var err error
	switch {
	case file && name == "-":
		raw, err = io.ReadAll(s.in)
	case file:
		raw, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, usageOf(cmd, "--data %s cannot be read: %v", text, err)
	}
	if len(raw) > 0 && !json.Valid(raw) {
		return nil, usageOf(cmd, "--data is not JSON; put a text in quotes, such as '\"paid\"'")
	}
	return raw, nil
}

func (s *session) eventList() *cobra.Command {
	var filter client.EventFilter
	cmd := command("list", "List the events that are kept, newest first", nothing, func(cmd *cobra.Command, _ []string) error {
		if filter.Limit < 1 {
			return usageOf(cmd, "--limit %d is too small", filter.Limit)
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		var events []task.Event
		for len(events) < filter.Limit {
			page := filter
			page.Limit = min(filter.Limit-len(events), pageSize)
			if len(events) > 0 {
				page.Before = events[len(events)-1].ID
			}
			got, err := c.Events(cmd.Context(), page)
			if err != nil {
				return err
			}
			if events = append(events, got...); len(got) < page.Limit {
				break
			}
		}
		if s.json {
			return s.writeJSON(list(events))
		}
		rows := make([][]string, 0, len(events))
		for _, e := range events {
			rows = append(rows, []string{strconv.FormatInt(e.ID, 10), e.Name, e.Key, s.age(e.SentAt), e.SentBy, short(string(e.Data), 80)})
		}
		return s.table("no events", []string{"ID", "NAME", "KEY", "AGE", "SENT BY", "DATA"}, rows)
	})
	flags := cmd.Flags()
	flags.StringVar(&filter.Name, "name", "", "only events of this name")
	flags.StringVar(&filter.Key, "key", "", "only events with this key")
	flags.IntVar(&filter.Limit, "limit", 50, "at most so many")
	return cmd
}

func (s *session) runsApprove() *cobra.Command {
	var request client.ApprovalRequest
	cmd := s.runCommand("approve ID", "Approve, or reject, what a run waits for", func(ctx context.Context, c *client.Client, id uuid.UUID) error {
		run, err := c.ApproveRun(ctx, id, request)
		verdict := " is approved and goes on"
		if request.Reject {
			verdict = " is rejected: the step that waited fails"
		}
		return s.changed(run, err, "run "+id.String()+verdict)
	})
	cmd.ValidArgsFunction = s.complete(0, approvableRuns)
	cmd.Flags().BoolVar(&request.Reject, "reject", false, "do not approve: the step that waits fails, with the comment as its reason")
	cmd.Flags().StringVar(&request.Comment, "comment", "", "why")
	return cmd
}

func waitKinds() []string {
	names := make([]string, len(task.WaitKinds))
	for i, kind := range task.WaitKinds {
		names[i] = string(kind)
	}
	return names
}

func parseWaitKind(cmd *cobra.Command, name string) (task.WaitKind, error) {
	if name == "" || slices.Contains(waitKinds(), name) {
		return task.WaitKind(name), nil
	}
	if near := task.Nearest(name, waitKinds()); near != "" {
		return "", usageOf(cmd, "nothing waits for %q; did you mean %q?", name, near)
	}
	return "", usageOf(cmd, "nothing waits for %q; runs wait for %s", name, strings.Join(waitKinds(), ", "))
}

// because says why a run stands where it stands.
func (s *session) because(r task.Run) string {
	if r.Wait != nil {
		return "waits for " + s.waitText(r.Wait)
	}
	return r.Reason
}

// waitText says what a parked run waits for.
func (s *session) waitText(w *task.Waiting) string {
	if w == nil {
		return ""
	}
	var text string
	switch w.Kind {
	case task.WaitEvent:
		if text = "event " + w.Name; w.Key != "" {
			text += " with key " + w.Key
		}
	case task.WaitApproval:
		text = "the approval of the role " + w.Name
	case task.WaitDelay:
		text = "its time"
	case task.WaitChildren:
		if text = strconv.Itoa(w.Detail.Children) + " children"; w.Detail.Run != nil {
			text = "run " + w.Detail.Run.String() + " of " + w.Name
		}
	}
	if w.Until != nil {
		text += ", until " + s.moment(w.Until)
	}
	return text
}

func parentText(r task.Run) string {
	if r.Parent == nil {
		return ""
	}
	return r.Parent.String() + ", item " + r.ParentPath
}
