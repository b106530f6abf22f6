package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/task"
)

// command makes a leaf of the command tree. use names the arguments, such as
// "show NAME"; args checks them.
func command(use, short string, args cobra.PositionalArgs, run func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args, RunE: run, ValidArgsFunction: cobra.NoFileCompletions}
}

// group makes an inner node of the command tree, which does nothing by itself.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use + " COMMAND", Short: short, Args: cobra.ArbitraryArgs, ValidArgsFunction: cobra.NoFileCompletions}
	g.AddCommand(children...)
	g.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 && !cmd.HasParent() {
			return cmd.Help()
		}
		if len(args) == 0 {
			return usageOf(cmd, "name a command of %s: %s", cmd.CommandPath(), strings.Join(childNames(cmd), ", "))
		}
		return unknownCommand(cmd, args[0])
	}
	return g
}

// helpCommand explains another command; unlike cobra's own it fails for an
// unknown one.
func helpCommand(root *cobra.Command) *cobra.Command {
	return command("help [COMMAND]", "Explain a command", cobra.ArbitraryArgs, func(_ *cobra.Command, args []string) error {
		target, rest, err := root.Find(args)
		if err != nil || len(rest) > 0 {
			return unknownCommand(target, strings.Join(rest, " "))
		}
		return target.Help()
	})
}

func childNames(cmd *cobra.Command) []string {
	var names []string
	for _, child := range cmd.Commands() {
		if child.IsAvailableCommand() {
			names = append(names, child.Name())
		}
	}
	return names
}

func unknownCommand(cmd *cobra.Command, name string) error {
	names := childNames(cmd)
	if near := task.Nearest(name, names); near != "" {
		return usageOf(cmd, "unknown command %q; did you mean %q?", name, cmd.CommandPath()+" "+near)
	}
	return usageOf(cmd, "unknown command %q; the commands are %s", name, strings.Join(names, ", "))
}

// nothing accepts no argument.
func nothing(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageOf(cmd, "unexpected argument %q", args[0])
	}
	return nil
}

// named wants one argument for each name; a name in brackets may be absent.
func named(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return usageOf(cmd, "%s is missing", name)
			}
		}
		if len(args) > len(names) {
			return usageOf(cmd, "unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// argument returns the argument at index, or "".
func argument(args []string, index int) string {
	if index < len(args) {
		return args[index]
	}
	return ""
}

// usageOf makes the error of a wrong call, with how to call it right.
func usageOf(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{
		message: fmt.Sprintf(format, args...),
		usage:   strings.TrimSuffix(cmd.UseLine(), " [flags]"),
		help:    cmd.CommandPath() + " --help",
	}
}
