package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

func (s *session) pkgCommand() *cobra.Command {
	return group("pkg", "Store packages of code and choose their versions",
		s.pkgPush(), s.pkgList(), s.pkgShow(), s.pkgFiles(), s.pkgHistory(), s.pkgDiff(), s.pkgPull(), s.pkgPromote(), s.pkgRollback(), s.pkgDelete())
}

func (s *session) pkgPush() *cobra.Command {
	var channel string
	limit := configs.Default().Packages.MaxSize
	cmd := command("push DIR", "Store a folder as a version and point a channel at it", named("DIR"), func(cmd *cobra.Command, args []string) error {
		content, err := pkgstore.ReadDir(args[0], pkgstore.Limits{MaxSize: int64(limit)})
		if err != nil {
			return err
		}
		var archive bytes.Buffer
		if err := content.WriteArchive(&archive); err != nil {
			return err
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		result, err := c.Push(cmd.Context(), &archive, channel)
		return s.changed(result, err, pushText(result, content))
	})
	cmd.Long = `Store the folder as an immutable version and point a channel at it, in one step. Pushing
the same content again makes no new version. Runs that have started keep their version.`
	cmd.Flags().StringVar(&channel, "channel", task.DefaultChannel, "the channel to move")
	cmd.Flags().TextVar(&limit, "max-size", limit, "largest package that the server accepts (packages.maxSize)")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

func pushText(r client.PushResult, content *pkgstore.Content) string {
	text := "pushed " + r.Name + " " + pkgstore.Short(r.Digest)
	if !r.Created {
		text = r.Name + " " + pkgstore.Short(r.Digest) + " was there already"
	}
	text += " (" + strconv.Itoa(len(content.Files())) + " files, " + bytesText(content.Size()) + "); channel " + r.Channel + " points at it"
	if r.Release > 0 {
		text += " since release " + strconv.FormatInt(r.Release, 10)
	}
	return text
}

func (s *session) pkgList() *cobra.Command {
	return command("list", "List the packages", nothing, func(cmd *cobra.Command, _ []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		packages, err := c.Packages(cmd.Context())
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(packages))
		}
		rows := make([][]string, 0, len(packages))
		for _, p := range packages {
			rows = append(rows, []string{
				p.Name, pkgstore.Short(p.Digest), strconv.Itoa(p.Files), bytesText(p.Size), p.PushedBy, s.age(p.CreatedAt), short(p.Description, 60),
			})
		}
		return s.table("no packages; add one with catena pkg push DIR",
			[]string{"NAME", "VERSION", "FILES", "SIZE", "BY", "AGE", "DESCRIPTION"}, rows)
	})
}

// selector reads the name of a version: a digest, its first digits, or a channel.
func selector(version string) client.PackageSelector {
	hexed := strings.TrimPrefix(version, "sha256:")
	if hexed != version || (len(hexed) >= 6 && strings.Trim(hexed, "0123456789abcdef") == "") {
		return client.PackageSelector{Digest: version}
	}
	return client.PackageSelector{Channel: version}
}

// packageCommand makes a command about one version of a package.
func (s *session) packageCommand(use, short string, do func(ctx context.Context, c *client.Client, name string, which client.PackageSelector) error) *cobra.Command {
	cmd := command(use+" NAME [VERSION]", short, named("NAME", "[VERSION]"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, args[0], selector(argument(args, 1)))
	})
	cmd.Long = short + ".\n\nVERSION is a digest, its first digits, or a channel; without it, the version that is live."
	cmd.ValidArgsFunction = s.completeArgs(packageArgs, packageVersions)
	return cmd
}

func (s *session) pkgShow() *cobra.Command {
	return s.packageCommand("show", "Show a version of a package and its manifest",
		func(ctx context.Context, c *client.Client, name string, which client.PackageSelector) error {
			p, err := c.Package(ctx, name, which)
			if err != nil {
				return err
			}
			if s.json {
				return s.writeJSON(p)
			}
			return s.showPackage(ctx, c, p)
		})
}

func (s *session) showPackage(ctx context.Context, c *client.Client, p client.Package) error {
	var manifest pkgstore.Manifest
	if err := json.Unmarshal(p.Manifest, &manifest); err != nil && len(p.Manifest) > 0 {
		return task.Errorf(task.CodeInternal, "the manifest cannot be read: %w", err).At(p.Name)
	}
	versions, err := c.PackageVersions(ctx, p.Name)
	if err != nil {
		return err
	}
	permissions := manifest.Permissions
	err = s.fields(
		[2]string{"package", p.Name}, [2]string{"description", p.Description}, [2]string{"digest", p.Digest},
		[2]string{"channels", strings.Join(p.Channels, ", ")}, [2]string{"size", strconv.Itoa(p.Files) + " files, " + bytesText(p.Size)},
		[2]string{"pushed", s.moment(&p.CreatedAt)}, [2]string{"by", p.PushedBy}, [2]string{"exports", strings.Join(manifest.Exports, ", ")},
		[2]string{"http", strings.Join(permissions.HTTP, ", ")}, [2]string{"secrets", strings.Join(permissions.Secrets, ", ")},
		[2]string{"services", strings.Join(permissions.Services, ", ")}, [2]string{"tasks", strings.Join(permissions.Tasks, ", ")},
	)
	if err != nil || len(versions) == 0 {
		return err
	}
	rows := make([][]string, 0, len(versions))
	for _, v := range versions {
		rows = append(rows, []string{pkgstore.Short(v.Digest), strings.Join(v.Channels, ","), bytesText(v.Size), v.PushedBy, s.age(v.CreatedAt)})
	}
	if err := s.println(); err != nil {
		return err
	}
	return writeTable(s.out, []string{"VERSION", "CHANNELS", "SIZE", "BY", "AGE"}, rows)
}

func (s *session) pkgFiles() *cobra.Command {
	return s.packageCommand("files", "List the files of a version",
		func(ctx context.Context, c *client.Client, name string, which client.PackageSelector) error {
			files, err := c.PackageFiles(ctx, name, which)
			if err != nil {
				return err
			}
			if s.json {
				return s.writeJSON(list(files))
			}
			rows := make([][]string, 0, len(files))
			for _, f := range files {
				rows = append(rows, []string{f.Path, bytesText(f.Size), pkgstore.Short(f.Digest)})
			}
			return s.table("no files", []string{"PATH", "SIZE", "DIGEST"}, rows)
		})
}

func (s *session) pkgHistory() *cobra.Command {
	cmd := command("history NAME", "List the changes of a package's channels, newest first", named("NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		releases, err := c.PackageReleases(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(releases))
		}
		rows := make([][]string, 0, len(releases))
		for _, r := range releases {
			rows = append(rows, []string{strconv.FormatInt(r.ID, 10), r.Channel, r.Action, pkgstore.Short(r.Digest), r.By, s.age(r.At)})
		}
		return s.table("no releases", []string{"RELEASE", "CHANNEL", "ACTION", "VERSION", "BY", "AGE"}, rows)
	})
	cmd.ValidArgsFunction = s.complete(0, packageNames)
	return cmd
}

func (s *session) pkgPromote() *cobra.Command {
	var channel string
	cmd := command("promote NAME VERSION", "Point a channel at a version", named("NAME", "VERSION"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		release, err := c.Promote(cmd.Context(), args[0], args[1], channel)
		return s.changed(release, err, releaseText(release))
	})
	cmd.Long = "Point a channel at a version.\n\nVERSION is a digest, its first digits, or a channel to take the version from."
	cmd.Flags().StringVar(&channel, "channel", task.DefaultChannel, "the channel to move")
	cmd.ValidArgsFunction = s.completeArgs(packageArgs, packageVersions)
	s.completeFlagByArgs(cmd, "channel", 0, packageChannels)
	return cmd
}

func (s *session) pkgRollback() *cobra.Command {
	var channel string
	cmd := command("rollback NAME", "Point a channel at the version it had before", named("NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		release, err := c.Rollback(cmd.Context(), args[0], channel)
		return s.changed(release, err, releaseText(release))
	})
	cmd.Flags().StringVar(&channel, "channel", task.DefaultChannel, "the channel to move")
	cmd.ValidArgsFunction = s.complete(0, packageNames)
	s.completeFlagByArgs(cmd, "channel", 0, packageChannels)
	return cmd
}

func releaseText(r task.Release) string {
	return r.Package + ": channel " + r.Channel + " points at " + pkgstore.Short(r.Digest) + " since release " + strconv.FormatInt(r.ID, 10)
}

func (s *session) pkgDelete() *cobra.Command {
	var yes bool
	cmd := command("delete NAME [DIGEST]", "Delete a version, or, with --yes, the whole package", named("NAME", "[DIGEST]"), func(cmd *cobra.Command, args []string) error {
		digest := argument(args, 1)
		if digest == "" && !yes {
			return usageOf(cmd, "name the DIGEST of a version, or add --yes to delete %s with every version", args[0])
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		err = c.DeletePackage(cmd.Context(), args[0], digest)
		what := strings.TrimSpace(args[0] + " " + pkgstore.Short(digest))
		return s.changed(map[string]any{"name": args[0], "digest": digest, "deleted": true}, err, what+" is deleted")
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "delete the package with every version")
	cmd.ValidArgsFunction = s.completeArgs(packageArgs, packageDigests)
	return cmd
}
