package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// completer gives the candidates for an argument.
type completer func(ctx context.Context, c *client.Client) ([]string, error)

// completionTime bounds how long a shell waits for the server.
const completionTime = 2 * time.Second

// complete offers candidates for the argument at index and files for none.
func (s *session) complete(index int, find completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) != index {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(contextOf(cmd), completionTime)
		defer cancel()
		c, err := s.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, err := find(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func contextOf(cmd *cobra.Command) context.Context {
	if ctx := cmd.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}

func taskNames(ctx context.Context, c *client.Client) ([]string, error) {
	tasks, err := c.Tasks(ctx)
	names := make([]string, 0, len(tasks))
	for _, t := range tasks {
		names = append(names, cobra.CompletionWithDesc(t.Name, plain(t.Description)))
	}
	return names, err
}

func runIDs(ctx context.Context, c *client.Client) ([]string, error) {
	runs, err := c.Runs(ctx, client.RunFilter{Limit: 50})
	ids := make([]string, 0, len(runs))
	for _, r := range runs {
		ids = append(ids, cobra.CompletionWithDesc(r.ID.String(), r.Task+" "+string(r.State)))
	}
	return ids, err
}

// approvableRuns offers the runs that wait for an approval.
func approvableRuns(ctx context.Context, c *client.Client) ([]string, error) {
	runs, err := c.Runs(ctx, client.RunFilter{WaitingFor: task.WaitApproval, Limit: 50})
	ids := make([]string, 0, len(runs))
	for _, r := range runs {
		ids = append(ids, cobra.CompletionWithDesc(r.ID.String(), r.Task))
	}
	return ids, err
}

func packageNames(ctx context.Context, c *client.Client) ([]string, error) {
	packages, err := c.Packages(ctx)
	names := make([]string, 0, len(packages))
	for _, p := range packages {
		names = append(names, cobra.CompletionWithDesc(p.Name, plain(p.Description)))
	}
	return names, err
}

func tokenIDs(ctx context.Context, c *client.Client) ([]string, error) {
	tokens, err := c.Tokens(ctx)
	ids := make([]string, 0, len(tokens))
	for _, t := range tokens {
		ids = append(ids, cobra.CompletionWithDesc(t.ID, plain(t.Name)))
	}
	return ids, err
}

func sourceNames(ctx context.Context, c *client.Client) ([]string, error) {
	sources, err := c.Sources(ctx)
	names := make([]string, 0, len(sources))
	for _, one := range sources {
		names = append(names, cobra.CompletionWithDesc(one.Name, plain(one.Description)))
	}
	return names, err
}

func calendarNames(ctx context.Context, c *client.Client) ([]string, error) {
	calendars, err := c.Calendars(ctx)
	names := make([]string, 0, len(calendars))
	for _, k := range calendars {
		names = append(names, k.Name)
	}
	return names, err
}
