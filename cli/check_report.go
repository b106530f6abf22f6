package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/catena-run/catena/check"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/task"
)

// shownTasks bounds the tables of the simulation; --json has all.
const shownTasks = 20

// reportCheck writes what was found and fails when something cannot work.
func (s *session) reportCheck(c configs.Config, f checkFlags, out checkOutput, first []task.Finding) error {
	out.Findings = append(first, out.Findings...)
	out.Valid = !out.Problems()
	err := s.writeCheck(c, f, out)
	if err == nil && !out.Valid {
		err = errQuiet
	}
	return err
}

func (s *session) writeCheck(c configs.Config, f checkFlags, out checkOutput) error {
	if s.json {
		return s.writeJSON(out)
	}
	for _, part := range []func() error{
		func() error { return s.writeConfiguration(c, f) },
		func() error { return s.writeConnection(out) },
		func() error { return s.writePackages(out.Report) },
		func() error { return s.writeForecast(out.Forecast) },
		func() error { return s.writeFindings(out) },
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// writeConfiguration shows the effective configuration where one is named or
// nothing else is asked for.
func (s *session) writeConfiguration(c configs.Config, f checkFlags) error {
	if s.configPath(f.configFlags) == "" && len(f.set) == 0 && f.tasks != "" {
		return nil
	}
	text, err := c.Masked().YAML()
	if err != nil {
		return err
	}
	return s.printf("effective configuration\n\n  %s\n", strings.ReplaceAll(strings.TrimRight(string(text), "\n"), "\n", "\n  "))
}

func (s *session) writeConnection(out checkOutput) error {
	if out.Connected == "" {
		return nil
	}
	if err := s.printf("\nconnected to %s\n\n", out.Connected); err != nil {
		return err
	}
	rows := make([][]string, 0, len(out.Checks))
	for _, one := range out.Checks {
		mark := "ok"
		if !one.OK {
			mark = "FAIL"
		}
		rows = append(rows, []string{"  " + mark, one.Name, one.Detail})
	}
	return writeTable(s.out, nil, rows)
}

func (s *session) writePackages(r *check.Report) error {
	if len(r.Packages) == 0 {
		return nil
	}
	rows := [][]string{}
	for _, p := range r.Packages {
		permissions := []string{}
		for _, name := range []string{"http", "readonly_http", "secrets", "services", "tasks"} {
			if list := p.Permissions[name]; len(list) > 0 {
				permissions = append(permissions, name+" "+strings.Join(list, ", "))
			}
		}
		if len(permissions) == 0 {
			permissions = []string{"none"}
		}
		rows = append(rows, []string{p.Name, strconv.Itoa(len(p.Exports)), strings.Join(permissions, "; ")})
	}
	if err := s.println(); err != nil {
		return err
	}
	return writeTable(s.out, []string{"PACKAGE", "EXPORTS", "MAY REACH"}, rows)
}

func (s *session) writeForecast(f *check.Forecast) error {
	if f == nil {
		return nil
	}
	days := f.Until.Sub(f.From).Hours() / 24
	err := s.printf("\nsimulated %s to %s (%.1f days, %d schedules) in %v\n\n", f.From.Format(time.RFC3339), f.Until.Format(time.RFC3339), days, f.Schedules,
		time.Duration(f.TookMS)*time.Millisecond)
	if err != nil {
		return err
	}
	err = s.fields(
		[2]string{"due times", strconv.FormatInt(f.Total.Fires, 10) + flowText(f.Total)},
		[2]string{"most starts in a second", peakText(f.Second)},
		[2]string{"most starts in a minute", peakText(f.Minute)},
		[2]string{"most running at once", peakText(f.Running)},
	)
	if err != nil {
		return err
	}
	if err := s.writeQueues(f); err != nil {
		return err
	}
	return s.writeTasks(f)
}

func peakText(p check.Peak) string {
	if p.Count == 0 {
		return "0"
	}
	return fmt.Sprintf("%d, first at %s", p.Count, p.At.Format(time.RFC3339))
}

// flowText tells what a flow has beside its due times.
func flowText(f check.Flow) string {
	text := ": " + strconv.FormatInt(f.Started, 10) + " started"
	for _, part := range []struct {
		count int64
		what  string
	}{{f.Skipped, "skipped"}, {f.Buffered, "buffered"}, {f.Overruns, "overruns of a buffer"}, {f.Cancelled, "cancelled"}, {f.Rejected, "rejected"},
		{f.Delayed, "delayed by a limit"}, {f.Waiting, "still waiting at the end"}} {
		if part.count > 0 {
			text += fmt.Sprintf(", %d %s", part.count, part.what)
		}
	}
	if f.LongestMS > 0 {
		text += fmt.Sprintf(", longest wait %s", durationText(time.Duration(f.LongestMS)*time.Millisecond))
	}
	return text
}

func (s *session) writeQueues(f *check.Forecast) error {
	rows := make([][]string, 0, len(f.Queues))
	for _, q := range f.Queues {
		slots, share := "unknown", ""
		if q.Slots > 0 {
			slots = strconv.Itoa(q.Slots)
			share = strconv.FormatFloat(100*q.Average/float64(q.Slots), 'f', 1, 64) + " %"
		}
		rows = append(rows, []string{q.Queue, strconv.FormatInt(q.Most.Count, 10), strconv.FormatFloat(q.Average, 'f', 2, 64), slots, share})
	}
	if err := s.println(); err != nil {
		return err
	}
	return writeTable(s.out, []string{"QUEUE", "MOST RUNNING", "AVERAGE", "SLOTS", "BUSY"}, rows)
}

func (s *session) writeTasks(f *check.Forecast) error {
	rows := [][]string{}
	for _, t := range f.Tasks[:min(len(f.Tasks), shownTasks)] {
		duration := durationText(t.Duration)
		if !t.Measured {
			duration += " (assumed)"
		}
		for i, one := range t.Schedules {
			next := one.Never
			if next == "" && len(one.Next) > 0 {
				next = one.Next[0].Format(time.RFC3339)
			}
			name := t.Task
			if i > 0 {
				name, duration = "", ""
			}
			rows = append(rows, []string{name, one.Text, strconv.FormatInt(one.Fires, 10), next, duration})
		}
		if rest := flowText(t.Flow); strings.Contains(rest, ",") {
			rows = append(rows, []string{"", strings.TrimPrefix(rest, ": "), "", "", ""})
		}
	}
	if err := s.println(); err != nil {
		return err
	}
	if err := writeTable(s.out, []string{"TASK", "SCHEDULE", "FIRES", "NEXT", "A RUN TAKES"}, rows); err != nil {
		return err
	}
	if more := len(f.Tasks) - shownTasks; more > 0 {
		return s.printf("and %d tasks more; --json shows all\n", more)
	}
	return nil
}

func (s *session) writeFindings(out checkOutput) error {
	findings := slices.Clone(out.Findings)
	slices.SortStableFunc(findings, func(a, b task.Finding) int { return strings.Compare(string(a.Severity), string(b.Severity)) })
	if len(findings) > 0 {
		if err := s.println(); err != nil {
			return err
		}
	}
	problems, warnings := 0, 0
	for _, one := range out.Checks {
		if !one.OK {
			problems++
		}
	}
	for _, f := range findings {
		if f.Severity == task.SeverityError {
			problems++
		} else {
			warnings++
		}
		if err := s.writeFinding(f); err != nil {
			return err
		}
	}
	from := ""
	if out.Files > 0 {
		from = " in " + counted(out.Files, "file")
	}
	subjects := counted(out.Tasks, "task")
	if out.Sources > 0 {
		subjects += " and " + counted(out.Sources, "source")
	}
	return s.printf("\n%s%s checked: %s, %s\n", subjects, from, counted(problems, "problem"), counted(warnings, "warning"))
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func (s *session) writeFinding(f task.Finding) error {
	text := string(f.Severity) + ": "
	if f.Where != "" {
		text += f.Where + ": "
	}
	text += plain(f.Message)
	if f.Remedy != "" {
		text += "\n  fix: " + plain(f.Remedy)
	}
	return s.println(text)
}
