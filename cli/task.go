package cli

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func (s *session) taskCommand() *cobra.Command {
	return group("task", "Create, look at and run tasks",
		s.taskApply(), s.taskList(), s.taskShow(), s.taskRun(), s.taskPause(), s.taskResume(), s.taskBackfill(), s.taskDelete())
}

func (s *session) taskApply() *cobra.Command {
	var from string
	var dryRun bool
	cmd := command("apply -f FILE|DIR", "Create or change the tasks of task files, all or none", nothing,
		func(cmd *cobra.Command, _ []string) error { return s.apply(cmd, from, dryRun) })
	cmd.Long = `Create or change every task of a file, or of all .yaml, .yml and .json files below a
folder, and every calendar and source among them, in one step: either all of them or, on any error, none. Applying the same files
again changes nothing. "-f -" reads one file from standard input.`
	cmd.Flags().StringVarP(&from, "filename", "f", "", "task file, folder, or - for standard input")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check everything and change nothing")
	return cmd
}

func (s *session) apply(cmd *cobra.Command, from string, dryRun bool) error {
	if from == "" {
		return usageOf(cmd, "-f is missing: name a task file or a folder")
	}
	files, err := s.taskFiles(from)
	if err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	result, err := c.ApplyTasks(cmd.Context(), client.ApplyRequest{Files: files, DryRun: dryRun})
	return s.applied(result, err, from, dryRun)
}

// applied reports what an apply made.
func (s *session) applied(result client.ApplyResult, err error, from string, dryRun bool) error {
	if err != nil {
		return err
	}
	if s.json {
		return s.writeJSON(result)
	}
	s.noteWarnings(result)
	rows := make([][]string, 0, len(result.Results))
	for _, r := range result.Results {
		change := string(r.Change)
		if dryRun {
			change += " (dry run)"
		}
		rows = append(rows, []string{strings.TrimSpace(r.Kind + " " + r.Name), change})
	}
	return s.table("no tasks in "+from, nil, rows)
}

// noteWarnings writes the warnings of an apply to stderr.
func (s *session) noteWarnings(result client.ApplyResult) {
	for _, r := range result.Results {
		for _, w := range r.Warnings {
			fix := ""
			if w.Remedy != "" {
				fix = "; " + w.Remedy
			}
			s.note("warning: %s: %s%s", w.Where, plain(w.Message), plain(fix))
		}
	}
}

// taskFiles reads a file, standard input, or the task files below a folder in
// the order of their paths.
func (s *session) taskFiles(from string) ([]client.File, error) {
	if from == "-" {
		text, err := io.ReadAll(s.in)
		if err != nil {
			return nil, err
		}
		return withICal([]client.File{{Name: "stdin", Content: string(text)}})
	}
	info, err := os.Stat(from)
	if err != nil {
		return nil, fileError(err)
	}
	paths := []string{from}
	if info.IsDir() {
		if paths, err = taskFilesBelow(from); err != nil {
			return nil, err
		}
	}
	files := make([]client.File, 0, len(paths))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fileError(err)
		}
		files = append(files, client.File{Name: path, Content: string(text)})
	}
	return withICal(files)
}

func taskFilesBelow(dir string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fileError(err)
		case path != dir && strings.HasPrefix(entry.Name(), "."):
			if entry.IsDir() {
				return filepath.SkipDir
			}
		case entry.Type().IsRegular() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			paths = append(paths, path)
		}
		return nil
	})
	if err == nil && len(paths) == 0 {
		err = task.Errorf(task.CodeNotFound, "no task file is below the folder").At(dir).Fix("task files end in .yaml, .yml or .json")
	}
	return paths, err
}

// fileError gives an error of the file system, which names its path, a code.
func fileError(err error) error {
	if os.IsNotExist(err) {
		return task.Errorf(task.CodeNotFound, "%w", err).Fix("check the path")
	}
	return task.Errorf(task.CodeInternal, "%w", err)
}

func (s *session) taskList() *cobra.Command {
	return command("list", "List the tasks", nothing, func(cmd *cobra.Command, _ []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		tasks, err := c.Tasks(cmd.Context())
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(tasks))
		}
		rows := make([][]string, 0, len(tasks))
		for _, t := range tasks {
			rows = append(rows, []string{t.Name, taskStatus(t), schedules(t), s.nextDue(t), s.age(t.UpdatedAt), short(t.Description, 60)})
		}
		return s.table("no tasks; add some with catena task apply -f FILE", []string{"NAME", "STATUS", "SCHEDULE", "NEXT", "CHANGED", "DESCRIPTION"}, rows)
	})
}

func taskStatus(t task.Task) string {
	switch {
	case t.Invalid != "":
		return "invalid"
	case t.Paused:
		return "paused"
	case slices.ContainsFunc(t.Schedule, func(s task.Schedule) bool { return s.Invalid != "" }):
		return "invalid schedule"
	}
	return "ready"
}

func (s *session) taskShow() *cobra.Command {
	var next int
	cmd := command("show NAME", "Show a task, when it is due and what its chain does", named("NAME"), func(cmd *cobra.Command, args []string) error {
		if next < 0 || next > 1000 {
			return usageOf(cmd, "--next %d is out of range; use 0 to 1000", next)
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		t, err := c.Task(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		due, err := dueOf(cmd.Context(), c, t, next)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(shownTask{t, list(due)})
		}
		return s.showTask(t, due)
	})
	cmd.Flags().IntVar(&next, "next", 5, "how many due times of each schedule to show")
	cmd.ValidArgsFunction = s.complete(0, taskNames)
	return cmd
}

func keepText(keep task.Duration) string {
	if keep == 0 {
		return ""
	}
	return "runs for " + durationText(keep)
}

func (s *session) showTask(t task.Task, due []client.ScheduleDue) error {
	d := t.Normalize()
	err := s.fields(
		[2]string{"task", t.Name}, [2]string{"description", t.Description},
		[2]string{"status", taskStatus(t)}, [2]string{"note", t.Note}, [2]string{"invalid", t.Invalid},
		[2]string{"revision", strconv.FormatInt(t.Revision, 10)},
		[2]string{"queue", d.Queue + ", priority " + strconv.Itoa(*d.Priority)},
		[2]string{"timeout", durationText(d.Timeout)},
		[2]string{"attempts", strconv.Itoa(d.Retry.Attempts)},
		[2]string{"durable", strconv.FormatBool(*d.Durable)}, [2]string{"keep", keepText(d.Keep)},
		[2]string{"params", string(d.Params)},
		[2]string{"changed", s.moment(&t.UpdatedAt)},
	)
	if err != nil {
		return err
	}
	if err := s.showSchedules(t, due); err != nil {
		return err
	}
	return s.showChain(t)
}

// showChain explains the chain; one that does not parse is shown as it is.
func (s *session) showChain(t task.Task) error {
	if err := s.println(); err != nil {
		return err
	}
	document, err := chain.Parse(t.Name, t.Chain)
	if err != nil {
		return s.println("chain", plain(string(t.Chain)))
	}
	var rows [][]string
	for _, item := range document.Explain() {
		rows = append(rows, []string{item.Path, item.Kind, short(item.Text, 120)})
	}
	return writeTable(s.out, []string{"STEP", "KIND", "ITEM"}, rows)
}

func (s *session) taskDelete() *cobra.Command {
	cmd := command("delete NAME", "Delete a task and its schedules; its runs stay", named("NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		err = c.DeleteTask(cmd.Context(), args[0])
		return s.changed(map[string]any{"name": args[0], "deleted": true}, err, args[0]+" is deleted")
	})
	cmd.ValidArgsFunction = s.complete(0, taskNames)
	return cmd
}

// changed reports what a change made: the answer as JSON, or a sentence.
func (s *session) changed(answer any, err error, sentence string) error {
	switch {
	case err != nil:
		return err
	case s.json:
		return s.writeJSON(answer)
	}
	return s.println(sentence)
}
