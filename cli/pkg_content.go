package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// pullLimits bound what a server may make this process hold.
func pullLimits() pkgstore.Limits { return pkgstore.Limits{MaxSize: 512 << 20, MaxFiles: 100_000} }

// fetch downloads a version and checks it as a push is checked.
func fetch(ctx context.Context, c *client.Client, name string, which client.PackageSelector) (*pkgstore.Content, error) {
	var archive bytes.Buffer
	if err := c.PackageArchive(ctx, name, which, &archive); err != nil {
		return nil, err
	}
	return pkgstore.ReadArchive(&archive, pullLimits())
}

func (s *session) pkgPull() *cobra.Command {
	var version string
	cmd := command("pull NAME DIR", "Write the files of a version into a new folder", named("NAME", "DIR"), func(cmd *cobra.Command, args []string) error {
		if err := mustBeFree(args[1]); err != nil {
			return err
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		content, err := fetch(cmd.Context(), c, args[0], selector(version))
		if err != nil {
			return err
		}
		err = content.WriteDir(args[1])
		sentence := args[0] + " " + pkgstore.Short(content.Digest()) + ": " + strconv.Itoa(len(content.Files())) + " files are in " + args[1]
		return s.changed(map[string]any{"name": args[0], "digest": content.Digest(), "files": content.Files()}, err, sentence)
	})
	cmd.Flags().StringVar(&version, "version", "", "a digest, its first digits, or a channel; default: what is live")
	cmd.ValidArgsFunction = s.complete(0, packageNames)
	s.completeFlagByArgs(cmd, "version", 0, packageVersions)
	return cmd
}

// mustBeFree refuses a folder that holds something.
func mustBeFree(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist) || (err == nil && len(entries) == 0):
		return nil
	case err != nil:
		return fileError(err)
	}
	return task.Errorf(task.CodeConflict, "the folder is not empty").At(dir).Fix("name a new folder")
}

func (s *session) pkgDiff() *cobra.Command {
	cmd := command("diff NAME [A] [B]", "Show what changed between two versions", named("NAME", "[A]", "[B]"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		a, b, err := s.versionsOf(cmd.Context(), c, args)
		if err != nil {
			return err
		}
		changes := diffContents(a, b)
		if s.json {
			return s.writeJSON(map[string]any{"from": a.Digest(), "to": b.Digest(), "files": list(changes)})
		}
		return s.printDiff(changes)
	})
	cmd.Long = `Show what changed between two versions of a package, as a unified diff.

A and B are digests, their first digits, channels, or folders (./DIR). Without B, A is
compared with what is live; without both, what was live before with what is live.`
	cmd.ValidArgsFunction = s.completeArgs(packageArgs, packageVersions, packageVersions)
	return cmd
}

func (s *session) versionsOf(ctx context.Context, c *client.Client, args []string) (a, b *pkgstore.Content, err error) {
	from, to := argument(args, 1), argument(args, 2)
	if from == "" {
		if from, err = versionBefore(ctx, c, args[0]); err != nil {
			return nil, nil, err
		}
	}
	if isFolder(from) && to == "" {
		from, to = task.DefaultChannel, from // a local change reads forwards
	}
	if a, err = load(ctx, c, args[0], from); err != nil {
		return nil, nil, err
	}
	b, err = load(ctx, c, args[0], to)
	return a, b, err
}

func isFolder(version string) bool {
	return strings.HasPrefix(version, ".") || strings.Contains(version, "/")
}

func load(ctx context.Context, c *client.Client, name, version string) (*pkgstore.Content, error) {
	if isFolder(version) {
		return pkgstore.ReadDir(version, pullLimits())
	}
	return fetch(ctx, c, name, selector(version))
}

// versionBefore finds the version that was live before the one that is.
func versionBefore(ctx context.Context, c *client.Client, name string) (string, error) {
	releases, err := c.PackageReleases(ctx, name)
	if err != nil {
		return "", err
	}
	current := ""
	for _, r := range releases {
		switch {
		case r.Channel != task.DefaultChannel || r.Digest == "":
		case current == "":
			current = r.Digest
		case r.Digest != current:
			return r.Digest, nil
		}
	}
	return "", task.Errorf(task.CodeNotFound, "%s has only ever had one live version", name).Fix("name the versions to compare: catena pkg diff %s A B", name)
}

// fileChange is what happened to one file.
type fileChange struct {
	Path   string `json:"path"`
	Change string `json:"change"` // added removed changed
	Diff   string `json:"diff,omitempty"`
}

func diffContents(a, b *pkgstore.Content) []fileChange {
	var changes []fileChange
	for _, info := range a.Files() {
		before, _ := a.File(info.Path)
		after, ok := b.File(info.Path)
		switch {
		case !ok:
			changes = append(changes, fileChange{info.Path, "removed", textDiff(info.Path, before, nil)})
		case !bytes.Equal(before, after):
			changes = append(changes, fileChange{info.Path, "changed", textDiff(info.Path, before, after)})
		}
	}
	for _, info := range b.Files() {
		if _, ok := a.File(info.Path); !ok {
			after, _ := b.File(info.Path)
			changes = append(changes, fileChange{info.Path, "added", textDiff(info.Path, nil, after)})
		}
	}
	return changes
}

// textDiff returns "" for what is not text.
func textDiff(path string, before, after []byte) string {
	for _, data := range [][]byte{before, after} {
		if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
			return ""
		}
	}
	return unifiedDiff(path, string(before), string(after))
}

func (s *session) printDiff(changes []fileChange) error {
	if len(changes) == 0 {
		return s.println("the versions are the same")
	}
	for _, change := range changes {
		text := change.Diff
		if text == "" {
			text = "binary file " + change.Path + " was " + change.Change + "\n"
		}
		if err := s.printf("%s", text); err != nil {
			return err
		}
	}
	return nil
}
