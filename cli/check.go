package cli

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/check"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// checkFlags are the flags of check.
type checkFlags struct {
	configFlags
	tasks    string
	packages []string
	connect  bool
	until    string
	duration time.Duration
}

// checkOutput is what check writes as JSON.
type checkOutput struct {
	Valid         bool           `json:"valid"`
	Configuration map[string]any `json:"configuration"`
	Connected     string         `json:"connected,omitempty"` // to what
	*check.Report
}

func (s *session) checkCommand() *cobra.Command {
	var f checkFlags
	cmd := command("check", "Check configuration, tasks and what they call, and simulate their schedules; changes nothing", nothing,
		func(cmd *cobra.Command, _ []string) error { return s.check(cmd, f) })
	cmd.Aliases = []string{"checkconfig"}
	cmd.Long = `Check the configuration, every task of the task files and every name in their chains,
and play their schedules on a simulated clock. Nothing is written anywhere.

With --connect, packages and tasks are looked up in a cluster: straight in Postgres and
Redis when the configuration names them (--config, CATENA_POSTGRES_URL), through read-only
transactions; else at the server named by --server or CATENA_SERVER. Without -f the tasks
of the cluster are checked.

Exit 0: no problem, 1: problems were found, 3: the cluster cannot be reached.`
	f.add(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&f.tasks, "filename", "f", "", "task `file`, folder, or - for standard input")
	flags.StringArrayVar(&f.packages, "packages", nil, "package `folder`, or folder of package folders, to resolve calls with")
	flags.BoolVar(&f.connect, "connect", false, "compare with a cluster")
	flags.StringVar(&f.until, "until", "", "simulate up to this `time`: 2026-12-31T00:00:00Z, or +30d from now (default a month)")
	flags.DurationVar(&f.duration, "duration", check.DefaultDuration, "how long a run takes that nobody has measured")
	return cmd
}

func (s *session) check(cmd *cobra.Command, f checkFlags) error {
	in := check.Input{Clock: check.Clock{From: s.Now(), Duration: f.duration}}
	until, err := s.timeFlag(cmd, "--until", f.until)
	if err != nil {
		return err
	}
	if until != nil {
		in.Clock.Until = *until
	}
	if f.duration <= 0 {
		return usageOf(cmd, "--duration %s is no duration of a run", f.duration)
	}
	if err := in.Clock.Validate(); err != nil {
		return usageOf(cmd, "%v", err)
	}
	if f.tasks != "" {
		if in.Files, err = s.taskFiles(f.tasks); err != nil {
			return err
		}
	}
	c, findings := s.checkConfig(f.configFlags)
	in.Slots = c.Master.Workers * c.Worker.Slots
	broken, err := readFolders(f.packages, &in)
	if err != nil {
		return err
	}
	out := checkOutput{Configuration: c.Masked().Tree()}
	if f.connect {
		done, err := s.connect(cmd.Context(), c, &in, &out)
		if err != nil {
			return err
		}
		defer done()
	}
	if out.Report, err = check.Run(cmd.Context(), in); err != nil {
		return err
	}
	return s.reportCheck(c, f, out, append(findings, broken...))
}

// connect finds the cluster to compare with. A database that the configuration
// names goes before a server, unless a flag names the server: it also shows
// what this machine can reach, and needs neither a running master nor a token.
func (s *session) connect(ctx context.Context, c configs.Config, in *check.Input, out *checkOutput) (done func(), err error) {
	if s.server == "" && c.Postgres.URL != "" {
		if s.Processes.Cluster == nil {
			return nil, absent("connect to a database")
		}
		out.Connected = c.Masked().Postgres.URL
		in.Cluster, done, err = s.Processes.Cluster(ctx, c, s.err)
		return done, err
	}
	remote, err := s.client()
	if err != nil {
		return nil, err
	}
	out.Connected = remote.Server()
	in.Cluster = check.NewServer(remote)
	return func() {}, nil
}

// checkConfig loads the configuration and finds what is wrong with it. A value
// that cannot be used keeps its default.
func (s *session) checkConfig(f configFlags) (configs.Config, []task.Finding) {
	c, err := s.config(f)
	findings := []task.Finding{}
	if err != nil {
		for _, d := range details(err) {
			findings = append(findings, task.Finding{Severity: task.SeverityError, Where: d.Where, Message: d.Message, Remedy: d.Remedy})
		}
		c = configs.Default()
	}
	if s.configPath(f) != "" {
		for _, missing := range c.Missing() {
			for _, d := range details(missing) {
				findings = append(findings, task.Warn(d.Where, d.Message+": a master and a worker need it", d.Remedy))
			}
		}
	}
	return c, append(findings, c.Warnings()...)
}

// readFolders reads package folders, and the package folders within folders.
func readFolders(dirs []string, in *check.Input) (findings []task.Finding, err error) {
	if len(dirs) == 0 {
		return nil, nil
	}
	var contents []*pkgstore.Content
	for _, dir := range dirs {
		packages, err := packageFolders(dir)
		if err != nil {
			return nil, err
		}
		for _, folder := range packages {
			content, err := pkgstore.ReadDir(folder, pkgstore.Limits{})
			if err == nil {
				_, err = content.Manifest()
			}
			if err != nil {
				d := details(err)[0]
				findings = append(findings, task.Finding{Severity: task.SeverityError, Where: filepath.Join(folder, d.Where), Message: d.Message, Remedy: d.Remedy})
				continue
			}
			contents = append(contents, content)
		}
	}
	in.Folders, err = pkgstore.NewFolders(contents)
	return findings, err
}

// packageFolders lists dir itself, or the folders below it that hold a package.
func packageFolders(dir string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(dir, pkgstore.ManifestFile)); err == nil {
		return []string{dir}, nil
	}
	manifests, err := filepath.Glob(filepath.Join(dir, "*", pkgstore.ManifestFile))
	if err != nil || len(manifests) == 0 {
		return nil, task.Errorf(task.CodeNotFound, "no package is in the folder or right below it").At(dir).Fix("name a folder that has a %s", pkgstore.ManifestFile)
	}
	for i, manifest := range manifests {
		manifests[i] = filepath.Dir(manifest)
	}
	return manifests, nil
}
