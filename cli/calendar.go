package cli

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func (s *session) calendarCommand() *cobra.Command {
	return group("calendar", "Keep named days, such as public holidays, that schedules exclude",
		s.calendarApply(), s.calendarList(), s.calendarShow(), s.calendarDelete())
}

func (s *session) calendarApply() *cobra.Command {
	var from string
	var dryRun bool
	cmd := command("apply -f FILE|DIR", "Create or change the calendars of files, all or none", nothing, func(cmd *cobra.Command, _ []string) error {
		if from == "" {
			return usageOf(cmd, "-f is missing: name a file of calendars or a folder")
		}
		files, err := s.taskFiles(from)
		if err != nil {
			return err
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		result, err := c.ApplyCalendars(cmd.Context(), client.ApplyRequest{Files: files, DryRun: dryRun})
		return s.applied(result, err, from, dryRun)
	})
	cmd.Long = `Create or change every calendar of a file, or of all .yaml, .yml and .json files below a
folder, in one step. Schedules that exclude a changed calendar follow within a second.

    calendar: holidays/fr
    days: ["2026-12-24/2026-12-26", "--07-14"]   # days, spans of days, days of every year
    ical: holidays.ics                           # and those of an iCalendar file beside it`
	cmd.Flags().StringVarP(&from, "filename", "f", "", "file of calendars, folder, or - for standard input")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check everything and change nothing")
	return cmd
}

func (s *session) calendarList() *cobra.Command {
	return command("list", "List the calendars", nothing, func(cmd *cobra.Command, _ []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		calendars, err := c.Calendars(cmd.Context())
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(calendars))
		}
		rows := make([][]string, 0, len(calendars))
		for _, k := range calendars {
			rows = append(rows, []string{k.Name, strconv.Itoa(len(k.Days)), strconv.Itoa(k.Schedules), s.age(k.UpdatedAt), k.Invalid})
		}
		return s.table("no calendars; add some with catena calendar apply -f FILE", []string{"NAME", "ENTRIES", "SCHEDULES", "CHANGED", "INVALID"}, rows)
	})
}

func (s *session) calendarShow() *cobra.Command {
	cmd := command("show NAME", "Show the days of a calendar", named("NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		k, err := c.Calendar(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(k)
		}
		err = s.fields([2]string{"calendar", k.Name}, [2]string{"invalid", k.Invalid},
			[2]string{"excluded by", strconv.Itoa(k.Schedules) + " schedules"}, [2]string{"changed", s.moment(&k.UpdatedAt)})
		for _, day := range k.Days {
			if err == nil {
				err = s.println(plain(day))
			}
		}
		return err
	})
	cmd.ValidArgsFunction = s.complete(0, calendarNames)
	return cmd
}

func (s *session) calendarDelete() *cobra.Command {
	var force bool
	cmd := command("delete NAME", "Delete a calendar that no schedule excludes", named("NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		err = c.DeleteCalendar(cmd.Context(), args[0], force)
		return s.changed(map[string]any{"name": args[0], "deleted": true}, err, args[0]+" is deleted")
	})
	cmd.Flags().BoolVar(&force, "force", false, "also when schedules exclude it: they are then invalid and fire no more")
	cmd.ValidArgsFunction = s.complete(0, calendarNames)
	return cmd
}

// withICal adds the iCalendar files that task files name. A task file that cannot be
// read is left for the server to refuse.
func withICal(files []client.File) ([]client.File, error) {
	sent := map[string]bool{}
	for _, file := range files[:len(files):len(files)] {
		read, err := chain.ParseFile(file.Name, []byte(file.Content))
		if err != nil {
			continue
		}
		for _, k := range read.Calendars {
			name := k.ICalName()
			if name == "" || sent[name] {
				continue
			}
			text, err := os.ReadFile(filepath.FromSlash(name))
			if err != nil {
				return nil, k.Locate(task.Errorf(task.CodeInvalid, "%w", err).At("ical").Fix("check the path; it is seen from the folder of this file"))
			}
			sent[name] = true
			files = append(files, client.File{Name: name, Content: string(text)})
		}
	}
	return files, nil
}
