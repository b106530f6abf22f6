package cli

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/pkgstore"
)

// argsCompleter gives candidates that depend on the arguments before them.
type argsCompleter func(ctx context.Context, c *client.Client, args []string) ([]string, error)

// completeArgs offers the candidates of finders, each for the argument at its index.
func (s *session) completeArgs(finders ...argsCompleter) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(finders) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		find := func(ctx context.Context, c *client.Client) ([]string, error) { return finders[len(args)](ctx, c, args) }
		return s.complete(0, find)(cmd, nil, word)
	}
}

// completeFlagByArgs offers candidates for a flag that depend on the command's
// first argument; none while that is missing.
func (s *session) completeFlagByArgs(cmd *cobra.Command, flag string, directive cobra.ShellCompDirective, find argsCompleter) {
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, got := s.complete(0, func(ctx context.Context, c *client.Client) ([]string, error) { return find(ctx, c, args) })(cmd, nil, word)
		return found, got | directive
	})
}

// completeWords offers fixed candidates for a flag.
func completeWords(cmd *cobra.Command, flag string, words []string) {
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

func packageArgs(ctx context.Context, c *client.Client, _ []string) ([]string, error) {
	return packageNames(ctx, c)
}

// packageVersions offers the channels of a package and the digests of its versions.
func packageVersions(ctx context.Context, c *client.Client, args []string) ([]string, error) {
	versions, err := c.PackageVersions(ctx, args[0])
	var found, digests []string
	for _, v := range versions {
		digest := pkgstore.Short(v.Digest)
		for _, channel := range v.Channels {
			found = append(found, cobra.CompletionWithDesc(channel, digest))
		}
		digests = append(digests, cobra.CompletionWithDesc(digest, v.CreatedAt.UTC().Format("2006-01-02 15:04")+" "+strings.Join(v.Channels, ", ")))
	}
	return append(found, digests...), err
}

// packageDigests offers the digests of a package's versions.
func packageDigests(ctx context.Context, c *client.Client, args []string) ([]string, error) {
	versions, err := c.PackageVersions(ctx, args[0])
	var found []string
	for _, v := range versions {
		found = append(found, cobra.CompletionWithDesc(pkgstore.Short(v.Digest), strings.Join(v.Channels, ", ")))
	}
	return found, err
}

// packageChannels offers the channels that a package has or had.
func packageChannels(ctx context.Context, c *client.Client, args []string) ([]string, error) {
	releases, err := c.PackageReleases(ctx, args[0])
	var found []string
	for _, r := range releases {
		found = append(found, r.Channel)
	}
	slices.Sort(found)
	return slices.Compact(found), err
}

// runSteps offers the steps that a run has made.
func runSteps(ctx context.Context, c *client.Client, args []string) ([]string, error) {
	id, err := uuid.Parse(args[0])
	if err != nil {
		return nil, err
	}
	run, err := c.Run(ctx, id)
	var found []string
	for _, step := range run.Steps {
		text := "failed"
		if step.Outcome != nil && step.Outcome.Success {
			text = "ok"
		}
		found = append(found, cobra.CompletionWithDesc(step.Path, strings.TrimPrefix(plain(step.Name)+" "+text, " ")))
	}
	return found, err
}

// taskParams offers the params that a task names, each with = for its value.
func taskParams(ctx context.Context, c *client.Client, args []string) ([]string, error) {
	t, err := c.Task(ctx, args[0])
	if err != nil {
		return nil, err
	}
	var own map[string]json.RawMessage
	if err := json.Unmarshal(t.Params, &own); err != nil {
		return nil, err
	}
	var found []string
	for _, key := range slices.Sorted(maps.Keys(own)) {
		found = append(found, cobra.CompletionWithDesc(key+"=", "now "+short(plain(string(own[key])), 60)))
	}
	return found, nil
}
