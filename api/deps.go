package api

import (
	"context"
	"net/http"
	"time"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
)

// Tasks is the catalogue of tasks.
type Tasks interface {
	// Apply writes every document or none; with dryRun it only says what it would do.
	Apply(ctx context.Context, documents store.Documents, dryRun bool) ([]store.Applied, error)
	// CalendarDays returns the days, as JSON, of those of the named calendars that are there.
	CalendarDays(ctx context.Context, names []string) (map[string]string, error)
	Now(ctx context.Context) (time.Time, error)
	Task(ctx context.Context, name string) (task.Task, error)
	Tasks(ctx context.Context) ([]task.Task, error)
	PauseTask(ctx context.Context, name, note string) (task.Task, error)
	ResumeTask(ctx context.Context, name string) (task.Task, error)
	PauseSchedule(ctx context.Context, name string, schedule int64, note string) (task.Task, error)
	ResumeSchedule(ctx context.Context, name string, schedule int64) (task.Task, error)
	DeleteTask(ctx context.Context, name string) error
}

// Calendars are the named sets of days that schedules exclude.
type Calendars interface {
	Calendars(ctx context.Context) ([]task.NamedCalendar, error)
	Calendar(ctx context.Context, name string) (task.NamedCalendar, error)
	DeleteCalendar(ctx context.Context, name string, force bool) error
}

// Sources list work from elsewhere and are told what became of it.
type Sources interface {
	Sources(ctx context.Context) ([]task.Source, error)
	Source(ctx context.Context, name string) (task.Source, error)
	SourceItems(ctx context.Context, filter store.ItemFilter) ([]task.SourceItem, error)
	PauseSource(ctx context.Context, name, note string) (task.Source, error)
	ResumeSource(ctx context.Context, name string) (task.Source, error)
	PollSource(ctx context.Context, name string) (task.Source, error)
	DeleteSource(ctx context.Context, name string, force bool) error
}

// Runs reads runs and changes their fate.
type Runs interface {
	Run(ctx context.Context, id uuid.UUID) (task.Run, error)
	Runs(ctx context.Context, filter store.RunFilter) ([]task.Run, error)
	Logs(ctx context.Context, run uuid.UUID, after int64, limit int) ([]task.LogLine, error)
	CancelRun(ctx context.Context, id uuid.UUID, by string, atOnce bool) (task.Run, error)
	RetryRun(ctx context.Context, id uuid.UUID, from, by string) (task.Run, error)
	Why(ctx context.Context, id uuid.UUID) (task.Why, error)
	Bulk
}

// Waits ends what runs wait for, and shows the runs that started each other.
type Waits interface {
	SendEvent(ctx context.Context, event store.NewEvent) (sent task.Event, reached int, err error)
	Events(ctx context.Context, filter store.EventFilter) ([]task.Event, error)
	Approve(ctx context.Context, id uuid.UUID, approval store.Approval) (task.Run, error)
	RunTree(ctx context.Context, id uuid.UUID) (task.RunNode, error)
}

// Records reads what the scheduler and the workers did, and what is kept of it.
type Records interface {
	Fires(ctx context.Context, filter store.FireFilter) ([]task.Fire, error)
	Workers(ctx context.Context, all bool) ([]task.Worker, error)
	Stats(ctx context.Context) (task.Stats, error)
	Costs(ctx context.Context) ([]task.Cost, error)
}

// Backfills reads and ends backfills.
type Backfills interface {
	Backfill(ctx context.Context, id int64) (task.Backfill, error)
	Backfills(ctx context.Context, taskName string) ([]task.Backfill, error)
	CancelBackfill(ctx context.Context, id int64, by string) (task.Backfill, error)
}

// Backfiller makes backfills; scheduler.Backfills is one.
type Backfiller interface {
	Create(ctx context.Context, request scheduler.BackfillRequest) (task.Backfill, scheduler.BackfillPlan, error)
}

// Submitter accepts runs in one durable commit.
type Submitter interface {
	Submit(ctx context.Context, requests []dispatch.Request) ([]dispatch.Accepted, error)
}

// Waiter blocks until every run of ids has ended or ctx is done, and returns
// the states of those that have ended. That ctx is done is not an error.
type Waiter interface {
	Wait(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]task.State, error)
}

// Tokens keeps tokens.
type Tokens interface {
	CreateToken(ctx context.Context, token store.Token) error
	Tokens(ctx context.Context) ([]store.Token, error)
	RevokeToken(ctx context.Context, id string) error
}

// Authenticator tells who presents a token; auth.Authenticator is one.
type Authenticator interface {
	Authenticate(ctx context.Context, presented, remote string) (auth.Token, error)
}

// Audit records who changed what.
type Audit interface {
	Audit(ctx context.Context, actor, action, target string, detail any) error
}

// Check is one finding of the doctor.
type Check = client.Check

// Deps are the parts that the API calls. All are required but Metrics, Live
// and Ready, whose paths answer 404 without them, Readonly and Observe.
type Deps struct {
	Tasks         Tasks
	Calendars     Calendars
	Sources       Sources
	Runs          Runs
	Waits         Waits
	Records       Records
	Fleet         Fleet
	Backfills     Backfills
	Backfiller    Backfiller
	Submitter     Submitter
	Waiter        Waiter
	Packages      Packages
	Tokens        Tokens
	Authenticator Authenticator
	Audit         Audit
	Doctor        func(ctx context.Context) []Check
	Readonly      ReadonlyRunner
	Live          http.Handler      // /livez
	Ready         http.Handler      // /readyz
	Metrics       http.Handler      // /metrics
	Traces        *telemetry.Traces // nil: none
	// Variable looks up a variable of the environment, which headers of sources may hold; nil: every one is there.
	Variable func(name string) (string, bool)
	Log      logrus.FieldLogger
	// Observe is told of each answered request; may be nil.
	Observe func(operation string, status int, took time.Duration)
}

func (d Deps) validate() error {
	for _, part := range []struct {
		name    string
		missing bool
	}{
		{"Tasks", d.Tasks == nil}, {"Calendars", d.Calendars == nil}, {"Sources", d.Sources == nil}, {"Runs", d.Runs == nil}, {"Waits", d.Waits == nil}, {"Records", d.Records == nil}, {"Fleet", d.Fleet == nil},
		{"Backfills", d.Backfills == nil}, {"Backfiller", d.Backfiller == nil},
		{"Submitter", d.Submitter == nil}, {"Waiter", d.Waiter == nil}, {"Packages", d.Packages == nil},
		{"Tokens", d.Tokens == nil}, {"Authenticator", d.Authenticator == nil}, {"Audit", d.Audit == nil},
		{"Doctor", d.Doctor == nil}, {"Log", d.Log == nil},
	} {
		if part.missing {
			return task.Errorf(task.CodeInternal, "the API was built without its part %s", part.name)
		}
	}
	return nil
}

// Config sets the limits of the API. Zero values mean the defaults.
type Config struct {
	Version     string          // of the program, for the OpenAPI document; "": "dev"
	MaxBody     int64           // bytes of a JSON body; 0: 1 MiB
	MaxBatch    int64           // bytes of a batch of runs or of task files; 0: 16 MiB
	Package     pkgstore.Limits // of a pushed package
	Timeout     time.Duration   // of one request, beyond what it asked to wait; 0: 30s
	PushTimeout time.Duration   // of the transfer of one package; 0: 5m
	MaxEvent    int64           // bytes of an event's data; 0: what fits into an outcome of 1 MiB
	EventKeep   time.Duration   // how long an event is kept for runs that began before it; 0: 7 days
}

// Validate checks c.
func (c Config) Validate() error {
	for name, value := range map[string]int64{
		"maxBody": c.MaxBody, "maxBatch": c.MaxBatch, "maxEvent": c.MaxEvent, "package.maxSize": c.Package.MaxSize,
		"timeout": int64(c.Timeout), "pushTimeout": int64(c.PushTimeout), "eventKeep": int64(c.EventKeep),
	} {
		if value < 0 {
			return task.Errorf(task.CodeInvalid, "the limit is negative").At(name).Fix("leave it out for the default")
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.MaxEvent == 0 {
		c.MaxEvent = MaxEvent(1 << 20)
	}
	if c.MaxBody == 0 {
		c.MaxBody = 1 << 20
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = 16 << 20
	}
	c.Package = c.Package.WithDefaults()
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.PushTimeout == 0 {
		c.PushTimeout = 5 * time.Minute
	}
	return c
}
