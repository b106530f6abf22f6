package cli

import (
	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// runReadonly has the server execute the chain without its effects.
func (s *session) runReadonly(cmd *cobra.Command, name string, f runFlags) error {
	params, err := s.params(cmd, f)
	if err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	result, err := c.ReadonlyRun(cmd.Context(), name, client.ReadonlyRequest{Params: params})
	if err != nil {
		return err
	}
	if s.json {
		err = s.writeJSON(result)
	} else {
		err = s.showReadonly(result)
	}
	if err == nil && result.State != task.StateSucceeded {
		err = errQuiet
	}
	return err
}

func (s *session) showReadonly(r task.ReadonlyRun) error {
	err := s.fields(
		[2]string{"task", r.Task}, [2]string{"state", string(r.State) + " (readonly: nothing was done)"},
		[2]string{"reason", plain(r.Outcome.Reason)}, [2]string{"data", short(string(r.Outcome.Data), 2000)},
		[2]string{"took", durationText(r.Took)},
	)
	if err != nil {
		return err
	}
	tables := []struct {
		headers []string
		rows    [][]string
	}{{headers: []string{"STEP", "NAME", "OUTCOME"}}, {headers: []string{"STEP", "WOULD DO", "WHAT"}}, {headers: []string{"STEP", "LEVEL", "LOG"}}}
	for _, step := range r.Steps {
		tables[0].rows = append(tables[0].rows, []string{step.Path, step.Name, stepText(step)})
	}
	for _, e := range r.WouldDo {
		tables[1].rows = append(tables[1].rows, []string{e.Step, e.Kind, short(e.What, 200)})
	}
	for _, line := range r.Log {
		tables[2].rows = append(tables[2].rows, []string{line.Step, line.Level, short(line.Message, 500)})
	}
	for _, t := range tables {
		if len(t.rows) == 0 {
			continue
		}
		if err := s.println(); err != nil {
			return err
		}
		if err := writeTable(s.out, t.headers, t.rows); err != nil {
			return err
		}
	}
	return nil
}

func stepText(step task.Step) string {
	switch {
	case step.Outcome == nil:
		return ""
	case !step.Outcome.Success:
		return "failed: " + step.Outcome.Reason
	case len(step.Outcome.Data) > 0:
		return short(string(step.Outcome.Data), 200)
	}
	return "ok"
}
