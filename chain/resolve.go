package chain

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/catena-run/catena/task"
)

// Catalogue knows what chains may name: the packages of a cluster or of
// folders, and tasks. Its lists may be empty where they are not known; they
// only serve suggestions.
type Catalogue interface {
	// Package returns the live version of a package; nil: there is none.
	Package(ctx context.Context, name string) (*PackageFacts, error)
	PackageNames(ctx context.Context) ([]string, error)
	HasTask(ctx context.Context, name string) (bool, error)
	TaskNames(ctx context.Context) ([]string, error)
}

// PackageFacts are what a caller can know of a package version.
type PackageFacts struct {
	Name        string              `json:"name"`
	Digest      string              `json:"digest,omitempty"`
	Exports     []string            `json:"exports"`               // module?function
	Permissions map[string][]string `json:"permissions,omitempty"` // http, readonly_http, secrets, services, tasks
	Unknown     bool                `json:"-"`                     // nobody can tell: whatever is called is taken to be there
}

// Resolve looks up every function and task that the document names, as far as
// the text says which. A function that is not there is an error, a task a
// warning, since it may come later. An error means that the catalogue could not
// be asked.
func (d *Document) Resolve(ctx context.Context, c Catalogue) ([]task.Finding, error) {
	var found []task.Finding
	seen := map[any]bool{}
	for _, m := range d.mentions {
		key := any(m.call)
		if m.task != "" {
			key = m.task
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		message, remedy, err := m.resolve(ctx, c)
		if err != nil {
			return found, err
		}
		if message != "" {
			f := d.warn(m.item, m.item.line, m.item.col, message, remedy)
			if m.task == "" {
				f.Severity = task.SeverityError
			}
			found = append(found, f)
		}
	}
	return found, nil
}

func (m mention) resolve(ctx context.Context, c Catalogue) (message, remedy string, err error) {
	if m.task != "" {
		return resolveTask(ctx, c, m.task)
	}
	facts, err := c.Package(ctx, m.call.Package)
	if err != nil {
		return "", "", err
	}
	if facts == nil {
		names, err := c.PackageNames(ctx)
		return fmt.Sprintf("there is no package %s", m.call.Package), near(m.call.Package, names, "push it: `catena pkg push DIR`"), err
	}
	if facts.Unknown || slices.Contains(facts.Exports, m.call.Export()) {
		return "", "", nil
	}
	exports := "it exports nothing"
	if len(facts.Exports) > 0 {
		exports = "it exports " + strings.Join(facts.Exports, ", ")
	}
	known := slices.ContainsFunc(facts.Exports, func(e string) bool { return strings.HasPrefix(e, m.call.Module+"?") })
	if !known {
		return fmt.Sprintf("package %s exports nothing of a module %s; %s", m.call.Package, m.call.Module, exports),
			near(m.call.Export(), facts.Exports, "add it to exports in its catena.yaml and push it"), nil
	}
	return fmt.Sprintf("module %s of package %s exports no function %s; %s", m.call.Module, m.call.Package, m.call.Function, exports),
		near(m.call.Export(), facts.Exports, "add it to exports in its catena.yaml and push it"), nil
}

func resolveTask(ctx context.Context, c Catalogue, name string) (message, remedy string, err error) {
	there, err := c.HasTask(ctx, name)
	if err != nil || there {
		return "", "", err
	}
	names, err := c.TaskNames(ctx)
	return fmt.Sprintf("there is no task %s", name), near(name, names, "apply it too, or correct the name"), err
}

// near suggests the nearest known word that is close.
func near(word string, known []string, otherwise string) string {
	set := make(map[string]bool, len(known))
	for _, k := range known {
		set[k] = true
	}
	return orSuggest(word, set, otherwise)
}
