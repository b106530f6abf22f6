package api

import (
	"context"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// warn tells what in the applied tasks is likely a mistake: names that no item
// makes, and functions and tasks that are not there (yet). Nothing of it keeps
// a task from being applied, so what cannot be looked up is only logged.
func (s *service) warn(ctx context.Context, read applied) (warnings, ofSources map[string][]task.Finding) {
	known := &catalogue{service: s, applied: map[string]bool{}, packages: map[string]*chain.PackageFacts{}}
	for _, t := range read.tasks {
		known.applied[t.Definition.Name] = true
	}
	warnings, ofSources = map[string][]task.Finding{}, map[string][]task.Finding{}
	for _, one := range read.sources {
		found, err := one.Resolve(ctx, known)
		if err != nil {
			s.log.WithError(err).Warn("What the applied sources name could not be looked up")
			return warnings, ofSources
		}
		ofSources[one.Definition.Name] = append(found, s.absentVariables(one)...)
	}
	for _, t := range read.tasks {
		found := t.Document.Warnings(t.Definition.Params)
		missing, err := t.Document.Resolve(ctx, known)
		if err != nil {
			s.log.WithError(err).Warn("What the applied tasks call could not be looked up")
			return warnings, ofSources
		}
		found = append(found, missing...)
		for i := range found {
			found[i].Severity, found[i].Task = task.SeverityWarning, t.Definition.Name
		}
		if len(found) > 0 {
			warnings[t.Definition.Name] = found
		}
	}
	return warnings, ofSources
}

// absentVariables warns of variables that this master, which may lead one day, could not send.
func (s *service) absentVariables(one chain.SourceFile) (found []task.Finding) {
	for _, needed := range one.Definition.HTTP.Variables() {
		if _, there := s.deps.Variable(needed.Name); !there {
			found = append(found, task.Warn(one.AtHeader(needed.Header), "the environment of the master that was asked has no variable "+needed.Name,
				"set it for every master that may lead, and restart them"))
		}
	}
	return found
}

// catalogue looks packages and tasks up for one apply.
type catalogue struct {
	*service
	applied  map[string]bool
	packages map[string]*chain.PackageFacts
}

// Package implements chain.Catalogue.
func (c *catalogue) Package(ctx context.Context, name string) (*chain.PackageFacts, error) {
	if facts, asked := c.packages[name]; asked {
		return facts, nil
	}
	version, manifest, err := c.deps.Packages.Show(ctx, name, pkgstore.Selector{})
	if task.CodeOf(err) == task.CodeNotFound {
		c.packages[name] = nil
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c.packages[name] = &chain.PackageFacts{Name: name, Digest: version.Digest, Exports: manifest.Exports, Permissions: manifest.Permissions.Lists()}
	return c.packages[name], nil
}

// PackageNames implements chain.Catalogue.
func (c *catalogue) PackageNames(ctx context.Context) ([]string, error) {
	list, err := c.deps.Packages.List(ctx)
	names := make([]string, len(list))
	for i, v := range list {
		names[i] = v.Name
	}
	return names, err
}

// HasTask implements chain.Catalogue.
func (c *catalogue) HasTask(ctx context.Context, name string) (bool, error) {
	if c.applied[name] {
		return true, nil
	}
	_, err := c.deps.Tasks.Task(ctx, name)
	if task.CodeOf(err) == task.CodeNotFound {
		return false, nil
	}
	return err == nil, err
}

// TaskNames implements chain.Catalogue: those of this apply, since a catalogue
// may hold a million.
func (c *catalogue) TaskNames(context.Context) ([]string, error) {
	names := make([]string, 0, len(c.applied))
	for name := range c.applied {
		names = append(names, name)
	}
	return names, nil
}
