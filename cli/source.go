package cli

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func (s *session) sourceCommand() *cobra.Command {
	return group("source", "Look at and steer sources: what lists work from elsewhere",
		s.sourceList(), s.sourceShow(), s.sourcePause(), s.sourceResume(), s.sourcePoll(), s.sourceDelete())
}

func (s *session) sourceList() *cobra.Command {
	return command("list", "List the sources", nothing, func(cmd *cobra.Command, _ []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		sources, err := c.Sources(cmd.Context())
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(sources))
		}
		rows := make([][]string, 0, len(sources))
		for _, one := range sources {
			rows = append(rows, []string{one.Name, string(one.Status), asked(one), s.nextPoll(one), s.ageOf(one.PolledAt),
				count(one.Running), count(one.Ended + one.Refused), short(sourceProblem(one), 80)})
		}
		return s.table("no sources; add some with catena task apply -f FILE", []string{"NAME", "STATUS", "ASKS", "NEXT", "POLLED", "RUNNING", "UNRECORDED", "PROBLEM"}, rows)
	})
}

// asked is who lists the work.
func asked(one task.Source) string {
	if one.HTTP != nil {
		return short(one.HTTP.URL, 60)
	}
	return one.Call
}

func (s *session) nextPoll(one task.Source) string {
	switch {
	case one.PollRun != nil:
		return "under way"
	case one.Paused || one.NextPollAt == nil:
		return ""
	}
	if wait := one.NextPollAt.Sub(s.Now()); wait > 0 {
		return "in " + span(wait)
	}
	return "now"
}

func sourceProblem(one task.Source) string {
	if one.Error != "" {
		return one.Error
	}
	if one.RecordError != "" {
		return "record: " + one.RecordError
	}
	return ""
}

func count(n int64) string { return strconv.FormatInt(n, 10) }

// shownSource is a source with its items.
type shownSource struct {
	task.Source
	Items []task.SourceItem `json:"items"`
}

func (s *session) sourceShow() *cobra.Command {
	var state string
	var limit int
	var document bool
	cmd := command("show NAME", "Show a source and what it has listed", named("NAME"), func(cmd *cobra.Command, args []string) error {
		filter := client.SourceItemFilter{Limit: limit}
		if limit < 1 || limit > 1000 {
			return usageOf(cmd, "--limit %d is out of range; use 1 to 1000", limit)
		}
		for _, word := range split(state) {
			if !validItemState(word) {
				return usageOf(cmd, "unknown state %q; %s", word, task.DidYouMean(word, itemStates(), "use "+strings.Join(itemStates(), ", ")))
			}
			filter.States = append(filter.States, task.SourceItemState(word))
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		one, err := c.Source(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if document {
			return s.sourceDocument(one)
		}
		items, err := c.SourceItems(cmd.Context(), args[0], filter)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(shownSource{one, list(items)})
		}
		return s.showSource(one, items)
	})
	cmd.Flags().StringVar(&state, "state", "", "only items in this `state`: running, ended, refused or recorded, several with commas")
	cmd.Flags().IntVar(&limit, "limit", 20, "most items")
	cmd.Flags().BoolVar(&document, "document", false, "only its definition, as JSON for catena task apply -f")
	completeWords(cmd, "state", itemStates())
	cmd.ValidArgsFunction = s.complete(0, sourceNames)
	return cmd
}

func itemStates() []string {
	words := make([]string, len(task.SourceItemStates))
	for i, state := range task.SourceItemStates {
		words[i] = string(state)
	}
	return words
}

func validItemState(word string) bool {
	for _, known := range task.SourceItemStates {
		if word == string(known) {
			return true
		}
	}
	return false
}

func split(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// sourceDocument writes the definition as a document of a task file.
func (s *session) sourceDocument(one task.Source) error {
	text, err := json.Marshal(one.SourceDefinition)
	if err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	fields["source"] = fields["name"]
	delete(fields, "name")
	return s.writeJSON(fields)
}

func (s *session) showSource(one task.Source, items []task.SourceItem) error {
	loop := "every " + durationText(one.Every) + " after the last poll"
	if one.Loop != nil && !*one.Loop {
		loop = "once"
	}
	pollRun := ""
	if one.PollRun != nil {
		pollRun = one.PollRun.String()
	}
	endpoint := ""
	if one.HTTP != nil {
		endpoint = one.HTTP.Method + " " + one.HTTP.URL
	}
	err := s.fields([2]string{"source", one.Name}, [2]string{"description", one.Description},
		[2]string{"status", string(one.Status)}, [2]string{"note", one.Note},
		[2]string{"http", endpoint}, [2]string{"call", one.Call},
		[2]string{"polled", loop + ", at most " + counted(one.Limit, "item") + " within " + durationText(one.Timeout)},
		[2]string{"runtime", one.Runtime}, [2]string{"queue", one.Queue}, [2]string{"task", one.Task}, [2]string{"params", string(one.Params)},
		[2]string{"last poll", s.moment(one.PolledAt)}, [2]string{"listed", counted(one.Listed, "item")}, [2]string{"next poll", s.nextPoll(one)}, [2]string{"poll run", pollRun},
		[2]string{"error", one.Error}, [2]string{"record error", one.RecordError}, [2]string{"record again", s.moment(one.RecordAt)},
		[2]string{"items", count(one.Running) + " running, " + count(one.Ended) + " ended and " + count(one.Refused) + " refused of which it has not been told"},
		[2]string{"changed", s.moment(&one.UpdatedAt)})
	if err != nil || len(items) == 0 {
		return err
	}
	rows := make([][]string, 0, len(items))
	for _, item := range items {
		run, result, problem := "", string(item.Result), item.Error
		if item.Run != nil {
			run = item.Run.String()
		}
		if problem == "" {
			problem = item.Reason
		}
		rows = append(rows, []string{short(item.Key, 60), strconv.Itoa(item.Attempt), string(item.State), result, item.Task, run, s.age(item.StartedAt), short(problem, 100)})
	}
	if err := s.println(); err != nil {
		return err
	}
	return writeTable(s.out, []string{"KEY", "ATTEMPT", "STATE", "RESULT", "TASK", "RUN", "STARTED", "PROBLEM"}, rows)
}

func (s *session) sourcePause() *cobra.Command {
	var note string
	cmd := command("pause NAME", "Keep a source from being polled; outcomes are still recorded", named("NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		one, err := c.PauseSource(cmd.Context(), args[0], note)
		return s.changed(one, err, one.Name+" is paused; go on with catena source resume "+one.Name)
	})
	cmd.Flags().StringVar(&note, "note", "", "why")
	cmd.ValidArgsFunction = s.complete(0, sourceNames)
	return cmd
}

func (s *session) sourceResume() *cobra.Command {
	cmd := command("resume NAME", "End the pause of a source", named("NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		one, err := c.ResumeSource(cmd.Context(), args[0])
		return s.changed(one, err, one.Name+" is resumed")
	})
	cmd.ValidArgsFunction = s.complete(0, sourceNames)
	return cmd
}

func (s *session) sourceDelete() *cobra.Command {
	var force bool
	cmd := command("delete NAME", "Delete a source that has been told of all outcomes", named("NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		err = c.DeleteSource(cmd.Context(), args[0], force)
		return s.changed(map[string]any{"name": args[0], "deleted": true}, err, args[0]+" is deleted")
	})
	cmd.Flags().BoolVar(&force, "force", false, "also when outcomes are not recorded: the runs go on, and the source is told nothing")
	cmd.ValidArgsFunction = s.complete(0, sourceNames)
	return cmd
}
