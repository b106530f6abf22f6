package cli

import (
	"errors"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/task"
)

// configFlags are the flags of every command that reads the configuration.
type configFlags struct {
	file string
	set  []string
}

func (f *configFlags) add(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&f.file, "config", "", "configuration `file` (CATENA_CONFIG)")
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "`path=value` that overrides the configuration, as often as needed")
	return cmd
}

// path returns the file that the flag or the environment names.
func (s *session) configPath(f configFlags) string {
	if f.file != "" {
		return f.file
	}
	return s.env(envConfig)
}

func (s *session) config(f configFlags) (configs.Config, error) {
	if s.supervisor != "" {
		text, err := io.ReadAll(s.in)
		if err != nil {
			return configs.Config{}, task.Errorf(task.CodeInternal, "read the configuration from the master: %w", err)
		}
		return configs.Load(configs.Source{File: "standard input", Text: text})
	}
	c, notice, err := configs.LoadNoting(configs.Source{File: s.configPath(f), Environ: s.Environ, Set: f.set})
	if notice != "" {
		s.note("note: %s", notice)
	}
	return c, err
}

// processConfig also wants what a master or worker cannot start without.
func (s *session) processConfig(f configFlags) (configs.Config, error) {
	c, err := s.config(f)
	if err != nil {
		return c, err
	}
	return c, errors.Join(c.Missing()...)
}

// absent is the error of a command whose function is not part of the binary.
func absent(what string) error {
	return task.Errorf(task.CodeInternal, "this binary cannot %s", what).Fix("build catena from its cmd/catena")
}

func (s *session) masterCommand() *cobra.Command {
	var f configFlags
	readonly := false
	cmd := command("master --config FILE", "Run a master: control plane, admin API and supervised workers", nothing,
		func(cmd *cobra.Command, _ []string) error {
			if readonly {
				return s.observe(cmd, f)
			}
			c, err := s.processConfig(f)
			if err != nil {
				return err
			}
			if s.Processes.Master == nil {
				return absent("run a master")
			}
			return s.Processes.Master(cmd.Context(), c, s.processOptions())
		})
	cmd.Long = `Run a master. With --readonly it only does the rounds of a master and prints what it would
do: runs it would start, dispatch or take back, workers it would replace. It then takes no
lease, opens no address, starts no worker and writes neither to Postgres nor to Redis.`
	cmd.Flags().BoolVar(&readonly, "readonly", false, "do nothing, print what would be done")
	return f.add(cmd)
}

func (s *session) observe(cmd *cobra.Command, f configFlags) error {
	c, err := s.databaseConfig(f)
	if err != nil {
		return err
	}
	if s.Processes.Observe == nil {
		return absent("run a master that only looks")
	}
	o := s.processOptions()
	o.JSON = s.json
	return s.Processes.Observe(cmd.Context(), c, o)
}

func (s *session) processOptions() ProcessOptions {
	return ProcessOptions{Version: s.Version, Supervisor: s.supervisor, Listeners: s.listeners, Command: s.Command, Out: s.out, Err: s.err}
}

// workerCommand has hidden flags for the master that starts workers: such a
// worker reads its whole configuration from standard input, so that secrets
// are in no argument and no file.
func (s *session) workerCommand() *cobra.Command {
	var f configFlags
	readonly := false
	cmd := command("worker --config FILE", "Run a worker without a master on this host", nothing, func(cmd *cobra.Command, _ []string) error {
		if readonly {
			if s.Processes.ReadonlyRun == nil {
				return absent("execute a readonly run")
			}
			return s.Processes.ReadonlyRun(cmd.Context(), s.in, s.out, s.err)
		}
		c, err := s.processConfig(f)
		if err != nil {
			return err
		}
		if s.Processes.Worker == nil {
			return absent("run a worker")
		}
		return s.Processes.Worker(cmd.Context(), c, s.processOptions())
	})
	cmd.Flags().StringVar(&s.supervisor, "supervised-by", "", "the master that starts this worker")
	cmd.Flags().StringVar(&s.listeners, "shared-listeners", "", "the kinds of the listeners that the master hands over")
	cmd.Flags().BoolVar(&readonly, "readonly-run", false, "execute the readonly run that the master gives on standard input")
	for _, name := range []string{"supervised-by", "shared-listeners", "readonly-run"} {
		cmd.Flags().Lookup(name).Hidden = true
	}
	return f.add(cmd)
}

func (s *session) devCommand() *cobra.Command {
	var f configFlags
	o := DevOptions{}
	cmd := command("dev", "Run everything on this machine, with private servers", nothing, func(cmd *cobra.Command, _ []string) error {
		c, err := s.config(f)
		if err != nil {
			return err
		}
		if o.Workers < 0 {
			return usageOf(cmd, "--workers %d is negative", o.Workers)
		}
		if err := checkFolder(cmd, o.Examples); err != nil {
			return err
		}
		if s.Processes.Dev == nil {
			return absent("run dev")
		}
		return s.Processes.Dev(cmd.Context(), s.devOptions(cmd, c, o))
	})
	cmd.Long = `Run a master with its workers and, unless CATENA_POSTGRES_URL and CATENA_REDIS_URL name
others, a private Postgres and a private Redis whose data stay in a folder. Commands that
are started in the same folder, or below it, find it without flags. Ctrl-C waits for the
runs that are on and stops all of it; a second Ctrl-C stops it at once.`
	flags := cmd.Flags()
	flags.StringVar(&o.Data, "data", DevData, "`folder` of the data")
	flags.StringVar(&o.Admin, "admin", "", "host:port of the admin API (master.admin)")
	flags.StringVar(&o.HTTP, "http", "", "host:port of the shared server (server.http)")
	flags.IntVar(&o.Workers, "workers", 0, "number of worker processes (master.workers)")
	flags.StringVar(&o.Examples, "examples", "", "`folder` of packages and tasks to load at the start")
	return f.add(cmd)
}

// devOptions lets the flags that were given win over the configuration.
func (s *session) devOptions(cmd *cobra.Command, c configs.Config, o DevOptions) DevOptions {
	if o.Admin == "" {
		o.Admin = c.Master.Admin
	}
	if !cmd.Flags().Changed("http") {
		o.HTTP = c.Server.HTTP
	}
	if !cmd.Flags().Changed("workers") {
		o.Workers = c.Master.Workers
	}
	c.Master.Admin, c.Server.HTTP, c.Master.Workers = o.Admin, o.HTTP, o.Workers
	o.Config, o.JSON, o.Version, o.Name, o.Out, o.Err = c, s.json, s.Version, s.Name, s.out, s.err
	return o
}

func checkFolder(cmd *cobra.Command, dir string) error {
	if dir == "" {
		return nil
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return usageOf(cmd, "--examples %s is no folder", dir)
	}
	return nil
}

func (s *session) migrateCommand() *cobra.Command {
	return group("migrate", "Bring the database schema to a version",
		s.migrateAction(MigrateUp, "Apply the migrations that are missing"),
		s.migrateAction(MigrateDown, "Undo the newest migration"),
		s.migrateAction(MigrateStatus, "Show the schema version and its migrations"))
}

func (s *session) migrateAction(action MigrateAction, short string) *cobra.Command {
	var f configFlags
	o, sure := MigrateOptions{Action: action, Err: s.err}, false
	cmd := command(string(action), short, nothing, func(cmd *cobra.Command, _ []string) error {
		if action == MigrateDown && !sure {
			return usageOf(cmd, "this takes back the newest migration with everything that only it can hold, such as limits, waits, calendars and sources; "+
				"to run the previous binary no migration has to be taken back. Make a backup and repeat it with --yes")
		}
		if o.To < 0 {
			return usageOf(cmd, "--to %d is negative", o.To)
		}
		c, err := s.databaseConfig(f)
		if err != nil {
			return err
		}
		if s.Processes.Migrate == nil {
			return absent("migrate")
		}
		result, err := s.Processes.Migrate(cmd.Context(), c, o)
		if err != nil {
			return err
		}
		return s.reportMigrate(result)
	})
	if action == MigrateDown {
		cmd.Flags().Int64Var(&o.To, "to", 0, "the `version` to go down to")
		cmd.Flags().BoolVar(&sure, "yes", false, "lose what only the newer schema can hold")
	}
	return f.add(cmd)
}

// databaseConfig wants postgres.url, but no Redis.
func (s *session) databaseConfig(f configFlags) (configs.Config, error) {
	c, err := s.config(f)
	if err == nil && c.Postgres.URL == "" {
		err = c.Missing()[0]
	}
	return c, err
}

func (s *session) reportMigrate(r MigrateResult) error {
	if s.json {
		r.Changed, r.Migrations = list(r.Changed), list(r.Migrations)
		return s.writeJSON(r)
	}
	err := s.fields(
		[2]string{"schema", strconv.FormatInt(r.Version, 10)},
		[2]string{"newest known", strconv.FormatInt(r.Newest, 10)},
		[2]string{"min_compatible", strconv.FormatInt(r.MinCompatible, 10)},
		[2]string{"changed now", strconv.Itoa(len(r.Changed))},
	)
	if err != nil || len(r.Migrations) == 0 {
		return err
	}
	rows := make([][]string, 0, len(r.Migrations))
	for _, m := range r.Migrations {
		applied := "pending"
		if m.Applied {
			applied = "applied"
		}
		rows = append(rows, []string{strconv.FormatInt(m.Version, 10), m.Name, applied, s.moment(m.AppliedAt)})
	}
	if err := s.println(); err != nil {
		return err
	}
	return writeTable(s.out, []string{"VERSION", "NAME", "STATE", "APPLIED"}, rows)
}
