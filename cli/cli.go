package cli

import (
	"context"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
)

// Program is the command line and what it may use of the world around it.
type Program struct {
	Version   string           // "": what the Go toolchain recorded
	Name      string           // how it was called, for commands to be pasted; "": catena
	Processes Processes        // how processes are started
	Environ   []string         // as os.Environ gives it
	Command   []string         // program and arguments that started this process
	Dir       string           // the folder in which a running dev is looked for
	Now       func() time.Time // nil: time.Now
}

// Main runs the command line of the process and ends it with the exit code.
// The first interrupt or SIGTERM ends the command in order, a second one at once.
func Main(version string) {
	ctx, end := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go heed(signals, end, os.Stderr, os.Exit) // as long as the process lives
	dir, err := os.Getwd()
	if err != nil {
		dir = "."
	}
	program := Program{Version: version, Name: calledAs(os.Args), Processes: processes(), Environ: os.Environ(), Dir: dir, Command: commandLine()}
	os.Exit(program.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// commandLine is how this process was started, with the path of the program
// made absolute but its symbolic links left, so that a newer one is found there.
func commandLine() []string {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		if path, err = os.Executable(); err != nil {
			return nil
		}
	}
	return append([]string{path}, os.Args[1:]...)
}

// Run runs one command and returns its exit code. args lack the name of the program.
func (p Program) Run(ctx context.Context, args []string, in io.Reader, out, err io.Writer) int {
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.Name == "" {
		p.Name = "catena"
	}
	if p.Version == "" {
		p.Version = recordedVersion()
	}
	s := &session{Program: p, in: in, out: out, err: err}
	root := s.root()
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(err)
	failure := root.ExecuteContext(ctx)
	for _, c := range s.clients {
		c.Close()
	}
	if code, yes := interruptedCode(ctx, failure); yes {
		s.finish(args, failure)
		return code
	}
	return s.finish(args, failure)
}

// calledAs returns the name by which a shell finds this program again.
func calledAs(args []string) string {
	if len(args) == 0 || args[0] == "" {
		return ""
	}
	return quoted(args[0])
}

func recordedVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// session is one command while it runs.
type session struct {
	Program
	in      io.Reader
	out     io.Writer
	err     io.Writer
	json    bool
	server  string        // --server
	token   string        // --token
	timeout time.Duration // --timeout, of an answer

	ownTimeout bool             // the command has a --timeout of its own
	clients    []*client.Client // to be closed at the end
	guessed    bool             // nothing named the server
	supervisor string           // --supervised-by of a worker
	listeners  string           // --shared-listeners of a worker
}

const rootLong = `Catena runs scheduled chains of package code on a cluster of workers.

Start everything on this machine:    catena dev
Store a package, then its tasks:     catena pkg push DIR; catena task apply -f FILE
Run a task and see what became:      catena task run NAME --wait; catena runs list

The server is named by --server or CATENA_SERVER, the token by --token or
CATENA_TOKEN. Without them, a dev that runs in this folder or one above it is used.`

func (s *session) root() *cobra.Command {
	root := group("catena", "Run scheduled chains of package code on a cluster of workers")
	root.Long = rootLong
	root.Version = s.Version
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageOf(cmd, "%v", err) })
	root.SetHelpCommand(helpCommand(root))
	flags := root.PersistentFlags()
	flags.StringVar(&s.server, "server", "", "address of the server (CATENA_SERVER; default "+client.DefaultServer+")")
	flags.StringVar(&s.token, "token", "", "token for the server (CATENA_TOKEN)")
	flags.DurationVar(&s.timeout, "timeout", defaultTimeout, "how long the server may take to answer")
	flags.BoolVar(&s.json, "json", false, "write JSON")
	root.AddCommand(
		s.devCommand(), s.masterCommand(), s.workerCommand(), s.startCommand(), s.migrateCommand(), s.configCommand(),
		s.pkgCommand(), s.taskCommand(), s.calendarCommand(), s.sourceCommand(), s.runsCommand(), s.eventCommand(), s.firesCommand(), s.backfillCommand(), s.workersCommand(), s.mastersCommand(),
		s.tokenCommand(), s.adminCommand(), s.doctorCommand(), s.checkCommand(), s.versionCommand(),
	)
	return root
}

func (s *session) versionCommand() *cobra.Command {
	return command("version", "Print the version", nothing, func(*cobra.Command, []string) error {
		if s.json {
			return s.writeJSON(map[string]string{"version": s.Version})
		}
		return s.println(s.Version)
	})
}
