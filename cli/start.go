package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/task"
)

// The modes of catena start, as other clustered servers call them.
const (
	modeMaster     = "master"
	modeStandalone = "standalone"
	modeSlave      = "slave"
)

func modes() []string { return []string{modeMaster, modeStandalone, modeSlave} }

func (s *session) startCommand() *cobra.Command {
	var f configFlags
	cmd := command("start [MODE]", "Start as master, standalone or slave", named("[MODE]"), func(cmd *cobra.Command, args []string) error {
		mode := modeMaster
		if len(args) == 1 {
			mode = args[0]
		}
		if !slices.Contains(modes(), mode) {
			if near := task.Nearest(mode, modes()); near != "" {
				return usageOf(cmd, "unknown mode %q; did you mean %q?", mode, near)
			}
			return usageOf(cmd, "unknown mode %q; use master, standalone or slave", mode)
		}
		c, err := s.processConfig(f)
		if err != nil {
			return err
		}
		return s.startAs(cmd.Context(), mode, c)
	})
	cmd.Long = `Start a process of a cluster in a mode:

    master       the same as catena master, and what is meant without MODE
    standalone   all of a cluster on this host: a master that leads and at least one worker
    slave        the same as catena worker, for hosts without a master`
	cmd.ValidArgsFunction = cobra.FixedCompletions(modes(), cobra.ShellCompDirectiveNoFileComp)
	return f.add(cmd)
}

func (s *session) startAs(ctx context.Context, mode string, c configs.Config) error {
	start, what := s.Processes.Master, "run a master"
	switch mode {
	case modeSlave:
		start, what = s.Processes.Worker, "run a worker"
	case modeStandalone:
		c.Master.Leader, c.Master.Workers = true, max(c.Master.Workers, 1)
	}
	if start == nil {
		return absent(what)
	}
	return start(ctx, c, s.processOptions())
}
