package chain

import (
	"path"
	"strings"

	"github.com/catena-run/catena/task"
)

// File is what a task file holds.
type File struct {
	Tasks     []TaskFile
	Calendars []CalendarFile
	Sources   []SourceFile
}

// CalendarFile is one calendar of a task file: a document with the field calendar.
// What its days mean is for the scheduler to say.
type CalendarFile struct {
	Name string
	Days []string
	ICal string // an iCalendar file, beside the task file; "": none
	Line int    // where the document begins

	file   file
	source *source
}

// Locate gives an error about a field, such as days[3] or ical, the place of that
// field in the file.
func (c CalendarFile) Locate(err error) error { return c.file.located(c.source, err) }

// ICalName returns the name of the iCalendar file, seen from where the task file's
// own name is seen from; "": there is none.
func (c CalendarFile) ICalName() string {
	if c.ICal == "" {
		return ""
	}
	return path.Join(path.Dir(strings.ReplaceAll(string(c.file), `\`, "/")), c.ICal)
}

var calendarDocument = map[string]fieldKind{"calendar": fieldText, "days": fieldTexts, "ical": fieldText}

// ParseFile reads a task file: YAML documents separated by "---", or JSON (one
// document, or a list of them), each of which is a task, a calendar or a source. Every task is
// checked as far as the file alone allows, its chain included; an error names
// file:line:column.
func ParseFile(name string, text []byte) (File, error) {
	read, problems := CheckFile(name, text)
	if len(problems) > 0 {
		return File{}, problems[0]
	}
	return read, nil
}

// CheckFile reads a task file as ParseFile does, but goes on after a problem: it
// returns what is whole and every problem of the rest.
func CheckFile(name string, text []byte) (read File, problems []error) {
	f := file(name)
	roots, err := f.read(text)
	if err != nil {
		return File{}, []error{err}
	}
	if len(roots) == 1 && roots[0].kind == kindList {
		roots = roots[0].items
	}
	if len(roots) == 0 {
		return File{}, []error{f.at(1, 1, "the file has no task").Fix("write name: and chain:")}
	}
	lines := map[string]int{} // where a name was first defined
	for _, root := range roots {
		problems = append(problems, f.document(root, &read, lines)...)
	}
	return read, problems
}

// document adds one document to read, or says why not.
func (f file) document(root *source, read *File, lines map[string]int) (problems []error) {
	if root.kind != kindObject {
		return []error{f.errorf(root, "a task must be an object, not %s", root.kind.article()).Fix("write name: and chain:")}
	}
	if err := f.checkKind(root); err != nil {
		return []error{err}
	}
	var name string
	var add func()
	if root.get("source") != nil {
		var one SourceFile
		if one, problems = f.sourceOf(root); one.Definition.Name == "" {
			return problems
		}
		name, add = "source "+one.Definition.Name, func() { read.Sources = append(read.Sources, one) }
	} else if root.get("calendar") != nil && root.get("chain") == nil {
		var one CalendarFile
		if one, problems = f.calendar(root); len(problems) > 0 {
			return problems
		}
		name, add = "calendar "+one.Name, func() { read.Calendars = append(read.Calendars, one) }
	} else {
		var one TaskFile
		one, problems = f.task(root)
		if one.Definition.Name == "" {
			return problems
		}
		name, add = "task "+one.Definition.Name, func() { read.Tasks = append(read.Tasks, one) }
	}
	if first, twice := lines[name]; twice {
		problems = append(problems, f.errorf(root, "%s is on line %d and again on line %d", name, first, root.line).Fix("rename or remove one of them"))
	}
	lines[name] = root.line
	if len(problems) == 0 {
		add()
	}
	return problems
}

func (f file) calendar(s *source) (c CalendarFile, problems []error) {
	if problems := f.checkFields(s, "calendar", "calendar", calendarDocument); len(problems) > 0 {
		return c, problems
	}
	name, days, ical := s.get("calendar"), s.get("days"), s.get("ical")
	c = CalendarFile{Name: name.text, Line: s.line, file: f, source: s, Days: []string{}}
	if !task.ValidName(c.Name) {
		problems = append(problems, f.errorf(name, "%q cannot name a calendar", shorten(c.Name, 60)).
			Fix(`use lower-case letters, digits, ".", "_" and "-", with "/" between words, at most 200 characters`))
	}
	if days == nil && ical == nil {
		problems = append(problems, f.errorf(s, "calendar %s has no days", c.Name).Fix(`write days: ["2026-12-25"], ical: FILE, or both`))
	}
	if days != nil {
		for _, day := range days.items {
			c.Days = append(c.Days, day.text)
		}
	}
	if ical != nil {
		c.ICal = ical.text
		if !strings.EqualFold(path.Ext(c.ICal), ".ics") || path.IsAbs(c.ICal) || strings.Contains(c.ICal, `\`) {
			problems = append(problems, f.errorf(ical, "%q does not name an .ics file beside this one", shorten(c.ICal, 100)).Fix("write a path such as holidays.ics"))
		}
	}
	return c, problems
}
