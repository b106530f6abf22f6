package check

import (
	"context"
	"maps"
	"slices"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// catalogue is what chains may name: package folders go before the cluster's
// packages, and the tasks of the files before its tasks. Without either nothing
// is known of packages.
type catalogue struct {
	folders *pkgstore.Folders // nil: none were given
	cluster Cluster           // nil: not connected
	tasks   map[string]bool
	known   map[string]*chain.PackageFacts // looked up before; nil: there is none
	broken  []task.Finding                 // of packages in folders
}

// Package implements chain.Catalogue.
func (c *catalogue) Package(ctx context.Context, name string) (*chain.PackageFacts, error) {
	if facts, asked := c.known[name]; asked {
		return facts, nil
	}
	facts, err := c.find(ctx, name)
	if err == nil {
		c.known[name] = facts
	}
	return facts, err
}

func (c *catalogue) find(ctx context.Context, name string) (*chain.PackageFacts, error) {
	if c.folders != nil && slices.Contains(c.folders.Names(), name) {
		version, err := c.folders.Load(ctx, name)
		if err == nil {
			return Facts(name, version.Digest, version.Manifest), nil
		}
		c.broken = append(c.broken, found(err, "package "+name))
		return &chain.PackageFacts{Name: name, Unknown: true}, nil
	}
	switch {
	case c.cluster != nil:
		return c.cluster.Package(ctx, name)
	case c.folders != nil:
		return nil, nil
	}
	return &chain.PackageFacts{Name: name, Unknown: true}, nil
}

// PackageNames implements chain.Catalogue.
func (c *catalogue) PackageNames(ctx context.Context) (names []string, err error) {
	if c.cluster != nil {
		names, err = c.cluster.PackageNames(ctx)
	}
	if c.folders != nil {
		names = append(names, c.folders.Names()...)
	}
	return names, err
}

// HasTask implements chain.Catalogue.
func (c *catalogue) HasTask(_ context.Context, name string) (bool, error) { return c.tasks[name], nil }

// TaskNames implements chain.Catalogue.
func (c *catalogue) TaskNames(context.Context) ([]string, error) {
	return slices.Collect(maps.Keys(c.tasks)), nil
}

// called lists the packages that were found, with their permissions.
func (c *catalogue) called() []chain.PackageFacts {
	list := []chain.PackageFacts{}
	for _, name := range slices.Sorted(maps.Keys(c.known)) {
		if facts := c.known[name]; facts != nil && !facts.Unknown {
			list = append(list, *facts)
		}
	}
	return list
}
