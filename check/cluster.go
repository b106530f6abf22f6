package check

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/migrations"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Cluster is a cluster to compare with. Nothing that it does writes.
type Cluster interface {
	Health(ctx context.Context) ([]client.Check, error)
	Tasks(ctx context.Context) ([]task.Task, error)
	Costs(ctx context.Context) ([]task.Cost, error)
	Workers(ctx context.Context) ([]task.Worker, error)
	Calendars(ctx context.Context) ([]task.NamedCalendar, error)
	PackageNames(ctx context.Context) ([]string, error)
	// Package returns the live version of a package, nil when there is none.
	Package(ctx context.Context, name string) (*chain.PackageFacts, error)
}

// Server is a cluster seen through the REST API, with any role.
type Server struct{ client *client.Client }

// NewServer looks at the cluster of a server.
func NewServer(c *client.Client) Server { return Server{c} }

// Health asks the server's doctor.
func (s Server) Health(ctx context.Context) ([]client.Check, error) {
	result, err := s.client.Doctor(ctx)
	return result.Checks, err
}

// Tasks returns the tasks with their schedules.
func (s Server) Tasks(ctx context.Context) ([]task.Task, error) { return s.client.Tasks(ctx) }

// Costs returns what runs take.
func (s Server) Costs(ctx context.Context) ([]task.Cost, error) { return s.client.Costs(ctx) }

// Workers returns the live workers.
func (s Server) Workers(ctx context.Context) ([]task.Worker, error) {
	return s.client.Workers(ctx, false)
}

// Calendars returns the sets of days that schedules exclude.
func (s Server) Calendars(ctx context.Context) ([]task.NamedCalendar, error) {
	return s.client.Calendars(ctx)
}

// PackageNames lists the packages.
func (s Server) PackageNames(ctx context.Context) ([]string, error) {
	list, err := s.client.Packages(ctx)
	return packageNames(list), err
}

// Package returns the live version of a package.
func (s Server) Package(ctx context.Context, name string) (*chain.PackageFacts, error) {
	found, err := s.client.Package(ctx, name, client.PackageSelector{})
	if err != nil {
		return nil, unlessMissing(err)
	}
	var manifest pkgstore.Manifest
	if err := json.Unmarshal(found.Manifest, &manifest); err != nil {
		return nil, task.Errorf(task.CodeInternal, "the manifest of %s cannot be read: %w", name, err)
	}
	return Facts(name, found.Digest, &manifest), nil
}

// Facts tells what callers can know of a version.
func Facts(name, digest string, m *pkgstore.Manifest) *chain.PackageFacts {
	return &chain.PackageFacts{Name: name, Digest: digest, Exports: append([]string{}, m.Exports...), Permissions: m.Permissions.Lists()}
}

func packageNames(list []task.PackageVersion) []string {
	names := make([]string, len(list))
	for i, v := range list {
		names[i] = v.Name
	}
	return names
}

func unlessMissing(err error) error {
	if task.CodeOf(err) == task.CodeNotFound {
		return nil
	}
	return err
}

// Database is a cluster seen straight in its Postgres and Redis, without a
// server. The store must have been opened for reading only; a role that may
// SELECT is enough.
type Database struct {
	store    *store.Store
	packages *pkgstore.Store
	queue    *queue.Asynq
	queueErr error
}

// NewDatabase looks at the cluster of a database. q may be nil; queueErr then
// says why there is none.
func NewDatabase(s *store.Store, q *queue.Asynq, queueErr error) Database {
	return Database{store: s, packages: pkgstore.New(s.Pool(), pkgstore.Config{}), queue: q, queueErr: queueErr}
}

// Health looks at Postgres, its schema and Redis.
func (d Database) Health(ctx context.Context) ([]client.Check, error) {
	began := time.Now()
	var version string
	err := d.store.Pool().QueryRow(ctx, `SHOW server_version`).Scan(&version)
	if err != nil {
		err = task.Errorf(task.CodeUnavailable, "postgres does not answer: %w", err).Fix("check that it runs and postgres.url is right")
	}
	took := time.Since(began).Round(10 * time.Microsecond)
	checks := []client.Check{finding("postgres", err, "version "+version+", answered in "+took.String())}
	if err == nil {
		checks = append(checks, finding("schema", migrations.Check(ctx, d.store.Pool()), "as this binary needs it"))
	}
	return append(checks, d.redis(ctx)), nil
}

func (d Database) redis(ctx context.Context) client.Check {
	err, detail := d.queueErr, ""
	if err == nil && d.queue != nil {
		var info queue.Info
		info, err = d.queue.Check(ctx)
		if err == nil && info.Problem() != "" {
			err = task.Errorf(task.CodeInvalid, "%s", info.Problem())
		}
		detail = "version " + info.Version + " at " + info.Addr + ", " + info.MaxMemoryPolicy
	}
	return finding("redis", err, detail)
}

func finding(name string, err error, detail string) client.Check {
	c := client.Check{Name: name, OK: err == nil, Detail: detail}
	var coded *task.Error
	if errors.As(err, &coded) {
		c.Detail, c.Remedy = coded.Message, coded.Remedy
	} else if err != nil {
		c.Detail = err.Error()
	}
	return c
}

// Tasks returns the tasks with their schedules.
func (d Database) Tasks(ctx context.Context) ([]task.Task, error) { return d.store.Tasks(ctx) }

// Costs returns what runs take.
func (d Database) Costs(ctx context.Context) ([]task.Cost, error) { return d.store.Costs(ctx) }

// Workers returns the live workers.
func (d Database) Workers(ctx context.Context) ([]task.Worker, error) {
	return d.store.Workers(ctx, false)
}

// Calendars returns the sets of days that schedules exclude.
func (d Database) Calendars(ctx context.Context) ([]task.NamedCalendar, error) {
	return d.store.Calendars(ctx)
}

// PackageNames lists the packages.
func (d Database) PackageNames(ctx context.Context) ([]string, error) {
	list, err := d.packages.List(ctx)
	return packageNames(list), err
}

// Package returns the live version of a package.
func (d Database) Package(ctx context.Context, name string) (*chain.PackageFacts, error) {
	version, manifest, err := d.packages.Show(ctx, name, pkgstore.Selector{})
	if err != nil {
		return nil, unlessMissing(err)
	}
	return Facts(name, version.Digest, manifest), nil
}

// slotsOf adds up the slots that serve each of the queues. A worker that serves
// several counts for each: what they share is not split.
func slotsOf(workers []task.Worker, queues []string) map[string]int {
	slots := map[string]int{}
	for _, q := range queues {
		for _, w := range workers {
			if w.State == task.WorkerActive && (slices.Contains(w.Queues, q) || slices.Contains(w.Queues, "*")) {
				slots[q] += w.Slots
			}
		}
	}
	return slots
}
