package cli

import (
	"context"
	"io"
	"time"

	"github.com/catena-run/catena/check"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/node"
)

// Processes are the functions behind the commands that start a process or work
// on the database without a server. Each returns when its work is done or, for
// a process, when ctx is done and it has stopped in order.
type Processes struct {
	Dev         func(ctx context.Context, o DevOptions) error
	Master      func(ctx context.Context, c configs.Config, o ProcessOptions) error
	Observe     func(ctx context.Context, c configs.Config, o ProcessOptions) error // a master that only looks
	Worker      func(ctx context.Context, c configs.Config, o ProcessOptions) error
	ReadonlyRun func(ctx context.Context, in io.Reader, out, log io.Writer) error // the process of one readonly run
	Migrate     func(ctx context.Context, c configs.Config, o MigrateOptions) (MigrateResult, error)
	Cluster     func(ctx context.Context, c configs.Config, log io.Writer) (cluster check.Cluster, done func(), err error) // for looking only
	CreateToken func(ctx context.Context, c configs.Config, role, name string, ttl time.Duration) (token string, err error)
}

// DevOptions are the options of catena dev. Dev writes its ready line to Out,
// its log to Err and a DevFile into Data.
type DevOptions struct {
	Config   configs.Config // what is not named below
	Data     string         // folder of the private servers
	Admin    string         // host:port of the admin API
	HTTP     string         // host:port of the shared server
	Workers  int
	JSON     bool   // write the ready line as JSON
	Examples string // folder of packages and tasks to load; "": none
	Version  string
	Name     string // how the program was called
	Out      io.Writer
	Err      io.Writer
}

// ProcessOptions tell a master or worker what its configuration does not.
type ProcessOptions struct {
	Version    string
	Supervisor string   // the master that started this worker; "": it runs alone
	Listeners  string   // kinds of the shared listeners that this master hands it
	Command    []string // program and arguments of this process
	JSON       bool     // what a master that only looks would do is written as JSON
	Out        io.Writer
	Err        io.Writer
}

// MigrateAction is a command of catena migrate.
type MigrateAction string

// The actions of catena migrate.
const (
	MigrateUp     MigrateAction = "up"
	MigrateDown   MigrateAction = "down"
	MigrateStatus MigrateAction = "status"
)

// MigrateOptions say what to do with the schema. To is the version that down
// goes to; 0 means one version less.
type MigrateOptions struct {
	Action MigrateAction
	To     int64
	Err    io.Writer // its log
}

// MigrateResult is the state of the schema after the action.
type MigrateResult struct {
	Version       int64       `json:"version"`        // of the database
	Newest        int64       `json:"newest"`         // that this binary knows
	MinCompatible int64       `json:"min_compatible"` // oldest binary schema that may use the database
	Changed       []int64     `json:"changed"`        // migrations that were applied or undone now
	Migrations    []Migration `json:"migrations"`
}

// Migration is one numbered change of the schema.
type Migration struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"`
	Applied   bool       `json:"applied"`
	AppliedAt *time.Time `json:"applied_at,omitempty"`
}

// processes returns the functions of this binary.
func processes() Processes {
	return Processes{
		Dev: func(ctx context.Context, o DevOptions) error {
			return node.RunDev(ctx, o.Config, node.DevOptions{
				Options: node.Options{Version: o.Version, Out: o.Out, Err: o.Err}, Data: o.Data, Examples: o.Examples, JSON: o.JSON, Name: o.Name,
			})
		},
		Master: func(ctx context.Context, c configs.Config, o ProcessOptions) error {
			return node.RunMaster(ctx, c, node.Options{Version: o.Version, Out: o.Out, Err: o.Err, Command: o.Command})
		},
		Observe: func(ctx context.Context, c configs.Config, o ProcessOptions) error {
			return node.RunReadonlyMaster(ctx, c, node.Options{Version: o.Version, Out: o.Out, Err: o.Err}, o.JSON)
		},
		Worker: func(ctx context.Context, c configs.Config, o ProcessOptions) error {
			return node.RunWorker(ctx, c, node.WorkerOptions{
				Options:    node.Options{Version: o.Version, Out: o.Out, Err: o.Err},
				Supervised: o.Supervisor != "", Master: o.Supervisor, Listeners: o.Listeners,
			})
		},
		Migrate:     migrate,
		Cluster:     node.OpenCluster,
		ReadonlyRun: node.ReadonlyRun,
		CreateToken: node.CreateToken,
	}
}

func migrate(ctx context.Context, c configs.Config, o MigrateOptions) (MigrateResult, error) {
	var schema node.Schema
	var err error
	switch o.Action {
	case MigrateUp:
		schema, err = node.MigrateUp(ctx, c, o.Err)
	case MigrateDown:
		schema, err = node.MigrateDown(ctx, c, o.To, o.Err)
	default:
		schema, err = node.MigrateStatus(ctx, c)
	}
	result := MigrateResult{Version: schema.Version, Newest: schema.Newest, MinCompatible: schema.MinCompatible, Changed: schema.Changed}
	for _, m := range schema.Migrations {
		result.Migrations = append(result.Migrations, Migration{Version: m.Version, Name: m.Name, Applied: m.AppliedAt != nil, AppliedAt: m.AppliedAt})
	}
	return result, err
}
