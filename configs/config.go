package configs

import (
	"time"

	"github.com/catena-run/catena/task"
)

// Config is the configuration of a process. Tags of a field: yaml is its key,
// doc its description; min, max and enum bound its value; check names a rule of
// rules.go; secret says how Masked hides it (url: only the password in it);
// common marks what the masters of a cluster should have alike.
type Config struct {
	Cluster   Cluster   `yaml:"cluster" doc:"What the processes of one cluster share."`
	Postgres  Postgres  `yaml:"postgres" doc:"The database that holds everything worth keeping."`
	Redis     Redis     `yaml:"redis" doc:"The dispatch queue. It holds nothing that cannot be rebuilt."`
	Master    Master    `yaml:"master" doc:"The control plane."`
	Server    Server    `yaml:"server" doc:"The shared server that workers answer on."`
	Worker    Worker    `yaml:"worker" doc:"A worker process, whether a master supervises it or it runs alone."`
	Script    Script    `yaml:"script" doc:"Limits of one call of package code."`
	Packages  Packages  `yaml:"packages" doc:"The package store."`
	Retention Retention `yaml:"retention" doc:"How long ended runs and the audit are kept."`
	Health    Health    `yaml:"health" doc:"The endpoints by which others ask whether the cluster lives, without a token. The probes /livez and /readyz are always there."`
	Telemetry Telemetry `yaml:"telemetry" doc:"What the process tells of its work beside its log and metrics."`
	Log       Log       `yaml:"log" doc:"The log of the process, on standard error."`
}

// Cluster is what the processes of one cluster share.
type Cluster struct {
	Name string `yaml:"name" check:"name" common:"true" doc:"Prefix of the cluster's keys in Redis; give clusters that share a Redis different names."`
}

// Postgres is the connection to the database.
type Postgres struct {
	URL      string `yaml:"url" secret:"url" check:"postgres" doc:"postgres://user:password@host:5432/database, or a key=value connection string. A master and a worker need it."`
	MaxConns int    `yaml:"maxConns" min:"2" max:"10000" doc:"Connections that one process opens at most."`
}

// Redis is the connection to a single Redis or to one behind Sentinel.
type Redis struct {
	URL      string   `yaml:"url" secret:"url" check:"redis" doc:"redis://:password@host:6379/0; rediss:// for TLS. A master and a worker need it or redis.sentinel."`
	Sentinel Sentinel `yaml:"sentinel" doc:"A Redis whose address Sentinel tells; instead of redis.url."`
}

// Sentinel names a Redis by its Sentinels.
type Sentinel struct {
	Master    string   `yaml:"master" doc:"The name that the Sentinels watch the Redis under."`
	Addresses []string `yaml:"addresses" check:"addresses" doc:"host:port of the Sentinels."`
	Username  string   `yaml:"username" doc:"User of the Redis itself."`
	Password  string   `yaml:"password" secret:"all" doc:"Password of the Redis itself."`
}

// Master is the control plane.
type Master struct {
	Admin          string        `yaml:"admin" check:"address" doc:"host:port of the admin API, the metrics and the probes."`
	Workers        int           `yaml:"workers" min:"0" max:"1024" doc:"Worker processes that this master starts and supervises."`
	MaxWorkers     int           `yaml:"maxWorkers" min:"0" max:"1024" doc:"Worker processes up to which this master adds some while work waits; 0 or master.workers: the number is fixed."`
	ScaleUpAfter   task.Duration `yaml:"scaleUpAfter" min:"100ms" doc:"How long work waits before one more worker is started."`
	ScaleDownAfter task.Duration `yaml:"scaleDownAfter" min:"1s" doc:"How long the last worker is not needed before it is stopped."`
	Leader         bool          `yaml:"leader" doc:"Whether this master may become the leader: scheduler, dispatcher, reconciler and retention."`
	// HealthCheckInterval is also what a hang is counted in.
	HealthCheckInterval task.Duration `yaml:"healthCheckInterval" min:"200ms" max:"30s" doc:"How often this master checks each of its workers: memory, CPU, age, an answer to a probe. One that is silent and idle for 2.8 of them, or silent for 8.4, hangs and is replaced."`
	Cgroups             string        `yaml:"cgroups" enum:"auto off" doc:"auto gives each worker a cgroup of version 2 with twice worker.maxMemory, where this master's own was delegated to it."`
	CatchUpRate         int           `yaml:"catchUpRate" common:"true" min:"1" max:"100000" doc:"Runs a second, in the whole cluster, that make up for due times that passed while nobody was there."`
}

// Server is the shared server.
type Server struct {
	HTTP          string        `yaml:"http" check:"optional-address" doc:"host:port of the shared HTTP server; empty turns it off."`
	HTTPS         string        `yaml:"https" check:"optional-address" doc:"host:port of the shared server with TLS and HTTP/2; it needs certificate and key. Usually 127.0.0.1:20443."`
	Unix          string        `yaml:"unix" doc:"Path of a unix socket of the shared server; empty turns it off."`
	Certificate   string        `yaml:"certificate" doc:"PEM file with the certificate chain of https. A changed file is taken within a second."`
	Key           string        `yaml:"key" doc:"PEM file with the private key of the certificate."`
	HeaderTimeout task.Duration `yaml:"headerTimeout" min:"100ms" doc:"For the header of a request."`
	ReadTimeout   task.Duration `yaml:"readTimeout" min:"100ms" doc:"For a whole request."`
	WriteTimeout  task.Duration `yaml:"writeTimeout" min:"100ms" doc:"From the end of a request's header to the end of its answer."`
	IdleTimeout   task.Duration `yaml:"idleTimeout" min:"100ms" doc:"Between two requests of a connection."`
	DrainGrace    task.Duration `yaml:"drainGrace" min:"1ms" doc:"In which idle connections may still send a request while their worker drains; at most worker.drainTimeout."`
	MaxHeader     Size          `yaml:"maxHeader" min:"1KiB" max:"1MiB" doc:"Bytes of a request's header."`
	MaxBody       Size          `yaml:"maxBody" min:"1KiB" max:"1GiB" doc:"Bytes of a request's body."`
	MaxConns      int           `yaml:"maxConns" min:"1" max:"1000000" doc:"Open connections of one listener in one worker; further ones wait until there is room."`
}

// Worker is a worker process.
type Worker struct {
	Queues       []string      `yaml:"queues" check:"queues" doc:"Queues that the worker serves; * serves all."`
	Tags         []string      `yaml:"tags" check:"tags" doc:"What is special about the worker, such as gpu or eu; a task with tags runs only where all of them are."`
	Slots        int           `yaml:"slots" min:"1" max:"10000" doc:"Runs that the worker executes at once."`
	MaxMemory    Size          `yaml:"maxMemory" doc:"Resident memory at which a master replaces and drains the worker, and at twice which it kills it; 0 turns it off."`
	TTL          task.Duration `yaml:"ttl" doc:"Age at which a master replaces and drains the worker, up to a tenth later so that not all go at once; 0s turns it off."`
	MaxRuns      int           `yaml:"maxRuns" min:"0" doc:"Runs after which a master replaces the worker; 0 turns it off."`
	DrainTimeout task.Duration `yaml:"drainTimeout" doc:"How long a stopping worker lets its runs finish before it gives them back."`
	CancelGrace  task.Duration `yaml:"cancelGrace" min:"0s" doc:"How long package code may go on once its run is cancelled, before it is interrupted; 0s: not at all."`
	KillGrace    task.Duration `yaml:"killGrace" min:"100ms" doc:"How long package code may go on once it was interrupted, before its worker drains and its process is replaced."`
	LogLimit     Size          `yaml:"logLimit" min:"1KiB" max:"64MiB" doc:"Bytes of log kept of one run; what exceeds them is counted, not kept."`
	Admin        string        `yaml:"admin" check:"optional-address" doc:"host:port of the metrics and probes of a worker that runs alone; empty turns it off. The figures of a supervised worker are among its master's."`
}

// Script limits one call of package code.
type Script struct {
	Timeout    task.Duration `yaml:"timeout" min:"1ms" doc:"Wall time of one call."`
	MaxOutput  Size          `yaml:"maxOutput" min:"1KiB" max:"64MiB" doc:"Bytes of JSON that one call may return."`
	HeapLimit  Size          `yaml:"heapLimit" min:"16MiB" doc:"Heap growth at which the calls in a worker are stopped as out of memory."`
	StackDepth int           `yaml:"stackDepth" min:"16" max:"10000" doc:"Nested function calls."`
}

// Packages is the package store.
type Packages struct {
	MaxSize   Size `yaml:"maxSize" min:"1KiB" max:"1GiB" common:"true" doc:"Bytes of all files of one package version."`
	CacheSize Size `yaml:"cacheSize" min:"1MiB" doc:"Bytes of package code that a worker keeps in memory."`
}

// Retention says how long ended runs and the audit are kept.
type Retention struct {
	Runs task.Duration `yaml:"runs" min:"1h" common:"true" doc:"Age at which runs, their steps and their fires are dropped; a task may say otherwise of its runs."`
	Logs task.Duration `yaml:"logs" min:"1h" common:"true" doc:"Age at which the logs of runs are dropped."`
	// Audit is not bound to runs: whoever must show who changed what needs it longer.
	Audit  task.Duration `yaml:"audit" min:"24h" common:"true" doc:"Age at which the record of who changed what is removed."`
	Events task.Duration `yaml:"events" min:"1m" common:"true" doc:"How long an event is kept for runs that began before it and do not wait for it yet."`
}

// Health are the liveness endpoints.
type Health struct {
	Liveness bool          `yaml:"liveness" doc:"Whether /api/v1/liveness, /api/v1/instances and /api/v1/instances/ID/liveness are answered."`
	Address  string        `yaml:"address" check:"optional-address" doc:"host:port for them alone, usually 127.0.0.1:9991; empty: the admin address."`
	Timeout  task.Duration `yaml:"timeout" min:"10ms" max:"1m" doc:"For an instance to tell its liveness."`
}

// Log is the log of a process.
type Log struct {
	Level          string `yaml:"level" enum:"debug info warn error" doc:"The least important lines that are written."`
	Format         string `yaml:"format" enum:"auto text json" doc:"auto writes text on a terminal and JSON elsewhere."`
	HealthChecks   bool   `yaml:"healthChecks" doc:"Whether a master writes the figures of each check of a worker."`
	WorkerMessages bool   `yaml:"workerMessages" doc:"Whether a master writes what its workers report."`
	WorkerRestarts bool   `yaml:"workerRestarts" doc:"Whether a master writes of planned replacements of workers; of others it always does."`
}

// Telemetry is what the process tells of its work beside its log and metrics.
type Telemetry struct {
	Traces Traces `yaml:"traces" doc:"OpenTelemetry traces of runs, from what started them to their end. The standard OTEL_EXPORTER_OTLP_ variables are honoured, headers among them; see tracing.md."`
}

// Traces says whether and where the spans of runs are sent.
type Traces struct {
	Enabled     bool    `yaml:"enabled" doc:"Whether runs are traced."`
	Endpoint    string  `yaml:"endpoint" check:"receiver" doc:"URL of an OTLP/HTTP receiver, such as http://collector:4318; empty: OTEL_EXPORTER_OTLP_ENDPOINT, else http://localhost:4318."`
	SampleRatio float64 `yaml:"sampleRatio" doc:"How many of the traces that begin in Catena are sampled. A caller's trace is sampled as the caller says."`
}

// Default returns the configuration of a process that is told nothing.
func Default() Config {
	return Config{
		Cluster:  Cluster{Name: "catena"},
		Postgres: Postgres{MaxConns: 16},
		Redis:    Redis{Sentinel: Sentinel{Addresses: []string{}}},
		Master: Master{Admin: "127.0.0.1:20081", Workers: 2, Leader: true, CatchUpRate: 100, HealthCheckInterval: task.Duration(time.Second), Cgroups: "auto",
			ScaleUpAfter: task.Duration(2 * time.Second), ScaleDownAfter: task.Duration(time.Minute)},
		Server: defaultServer(),
		Worker: Worker{Queues: []string{"*"}, Tags: []string{}, Slots: 32, MaxMemory: 512 * MiB, DrainTimeout: task.Duration(30 * time.Second),
			CancelGrace: task.Duration(5 * time.Second), KillGrace: task.Duration(5 * time.Second), LogLimit: MiB},
		Script:    Script{Timeout: task.Duration(time.Minute), MaxOutput: MiB, HeapLimit: 256 * MiB, StackDepth: 2000},
		Packages:  Packages{MaxSize: 16 * MiB, CacheSize: 64 * MiB},
		Retention: Retention{Runs: task.Duration(720 * time.Hour), Logs: task.Duration(168 * time.Hour), Events: task.Duration(168 * time.Hour), Audit: task.Duration(8760 * time.Hour)},
		Health:    Health{Timeout: task.Duration(2 * time.Second)},
		Telemetry: Telemetry{Traces: Traces{SampleRatio: 1}},
		Log:       Log{Level: "info", Format: "auto", WorkerRestarts: true},
	}
}

func defaultServer() Server {
	return Server{
		HTTP: "127.0.0.1:20080", HeaderTimeout: task.Duration(5 * time.Second), ReadTimeout: task.Duration(30 * time.Second),
		WriteTimeout: task.Duration(time.Minute), IdleTimeout: task.Duration(time.Minute), DrainGrace: task.Duration(5 * time.Second),
		MaxHeader: 64 * KiB, MaxBody: 16 * MiB, MaxConns: 4096,
	}
}
