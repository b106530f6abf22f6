package pkgstore

import (
	"context"

	"github.com/catena-run/catena/task"
)

// Folders are packages that lie in folders, not in a database. They import each
// other; whatever version or channel a manifest wants, the folder stands for it.
type Folders struct {
	limit    int64
	packages map[string]*Content
}

// NewFolders takes the contents of package folders, as ReadDir gives them. Two of
// the same name are refused.
func NewFolders(contents []*Content) (*Folders, error) {
	f := &Folders{limit: Config{}.WithDefaults().MaxBundle, packages: map[string]*Content{}}
	for _, c := range contents {
		manifest, err := c.Manifest()
		if err != nil {
			return nil, err
		}
		if f.packages[manifest.Name] != nil {
			return nil, task.Errorf(task.CodeInvalid, "two folders hold the package %s", manifest.Name).Fix("leave one of them out")
		}
		f.packages[manifest.Name] = c
	}
	return f, nil
}

// Names lists the packages.
func (f *Folders) Names() []string { return sortedKeys(f.packages) }

// Load bundles a package as a push does, with every check of a push.
func (f *Folders) Load(ctx context.Context, name string) (*Version, error) {
	content := f.packages[name]
	if content == nil {
		return nil, task.Errorf(task.CodeNotFound, "no folder holds the package %s", name)
	}
	made, err := bundle(ctx, content, f, f.limit)
	if err != nil {
		return nil, err
	}
	return &Version{Name: name, Digest: content.Digest(), Manifest: made.manifest, Modules: made.modules}, nil
}

// find makes Folders a library for the bundler.
func (f *Folders) find(_ context.Context, name, _ string) (*imported, error) {
	content := f.packages[name]
	if content == nil {
		return nil, task.Errorf(task.CodeNotFound, "no folder holds the package %s", name)
	}
	manifest, err := content.Manifest()
	if err != nil {
		return nil, err
	}
	return &imported{content: content, manifest: manifest}, nil
}
