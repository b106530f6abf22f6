package configs_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/task"
)

const formerFile = `cluster:
  healthCheckIntervalSeconds: 2
  slaveMaxAllowedMemoryMB: 400
  slaveTTLSeconds: 1000
  verbose:
    healthCheck: true
    masterSlaveMessages: true
    restartSlave: false
`

func TestFormerNamesAreTranslatedWithOneNotice(t *testing.T) {
	t.Parallel()
	c, notice, err := configs.LoadNoting(configs.Source{File: "f.yaml", Text: []byte(formerFile)})
	require.NoError(t, err)
	require.Equal(t, task.Duration(2*time.Second), c.Master.HealthCheckInterval)
	require.Equal(t, 400*configs.MiB, c.Worker.MaxMemory)
	require.Equal(t, task.Duration(1000*time.Second), c.Worker.TTL)
	require.True(t, c.Log.HealthChecks)
	require.True(t, c.Log.WorkerMessages)
	require.False(t, c.Log.WorkerRestarts)
	require.Equal(t, "these settings have other names here, and both are accepted: cluster.healthCheckIntervalSeconds is master.healthCheckInterval, "+
		"cluster.slaveMaxAllowedMemoryMB is worker.maxMemory, cluster.slaveTTLSeconds is worker.ttl, cluster.verbose.healthCheck is log.healthChecks, "+
		"cluster.verbose.masterSlaveMessages is log.workerMessages, cluster.verbose.restartSlave is log.workerRestarts", notice)

	c, notice, err = configs.LoadNoting(configs.Source{Environ: []string{"CATENA_CLUSTER_SLAVETTLSECONDS=90.5"}, Set: []string{"cluster.slaveMaxAllowedMemoryMB=300"}})
	require.NoError(t, err)
	require.Equal(t, task.Duration(90500*time.Millisecond), c.Worker.TTL)
	require.Equal(t, 300*configs.MiB, c.Worker.MaxMemory)
	require.NotEmpty(t, notice)

	_, notice, err = configs.LoadNoting(configs.Source{Text: []byte("cluster: {name: a}")})
	require.NoError(t, err)
	require.Empty(t, notice)
}

func TestFormerNamesAreCheckedLikeTodays(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text    string
		set     []string
		environ []string
		want    string
	}{
		"both in the file":         {text: "cluster: {slaveTTLSeconds: 60}\nworker: {ttl: 2m}", want: "f.yaml:1: cluster.slaveTTLSeconds and worker.ttl (f.yaml:2) are two names of one setting; keep worker.ttl"},
		"both in two places":       {text: "cluster: {slaveMaxAllowedMemoryMB: 400}", environ: []string{"CATENA_WORKER_MAXMEMORY=1GiB"}, want: "cluster.slaveMaxAllowedMemoryMB and worker.maxMemory (CATENA_WORKER_MAXMEMORY) are two names"},
		"not a number":             {text: "cluster: {slaveTTLSeconds: soon}", want: `f.yaml:1: cluster.slaveTTLSeconds: "soon" is not a number of seconds`},
		"negative":                 {text: "cluster: {slaveMaxAllowedMemoryMB: -1}", want: "-1 is not a number of megabytes"},
		"not true":                 {text: "cluster: {verbose: {restartSlave: 1}}", want: "f.yaml:1: cluster.verbose.restartSlave (log.workerRestarts): 1 is not true or false; write true or false"},
		"neither true nor false":   {set: []string{"cluster.verbose.restartSlave=maybe"}, want: `--set cluster.verbose.restartSlave (log.workerRestarts): "maybe" is not true or false; write true or false`},
		"a variable":               {environ: []string{"CATENA_CLUSTER_SLAVETTLSECONDS=1"}, want: "CATENA_CLUSTER_SLAVETTLSECONDS: cluster.slaveTTLSeconds (worker.ttl): 1s is not above worker.drainTimeout"},
		"a variable misspelt":      {environ: []string{"CATENA_CLUSTER_SLAVETTLSECOND=60"}, want: "unknown variable CATENA_CLUSTER_SLAVETTLSECOND; did you mean CATENA_CLUSTER_SLAVETTLSECONDS?"},
		"misspelt":                 {text: "cluster: {slaveTTLSecond: 60}", want: "f.yaml:1: unknown key cluster.slaveTTLSecond; did you mean cluster.slaveTTLSeconds, which is worker.ttl here?"},
		"another unit":             {text: "cluster: {slaveMaxAllowedMemoryMb: 400, x: {}}", want: "did you mean cluster.slaveMaxAllowedMemoryMB, which is worker.maxMemory here?"},
		"misspelt below a section": {text: "cluster: {verbose: {restartSlaves: true}}", want: "did you mean cluster.verbose.restartSlave, which is log.workerRestarts here?"},
		"a misspelt section":       {text: "cluster: {verbos: {restartSlave: true}}", want: "unknown key cluster.verbos; did you mean cluster.verbose?"},
		"a section by a flag":      {set: []string{"cluster.verbose=true"}, want: "--set cluster.verbose: cluster.verbose is a section; name one of its keys, such as cluster.verbose.healthCheck=true"},
		"too small":                {text: "cluster:\n  slaveMaxAllowedMemoryMB: 100", want: "script.heapLimit: 256MiB is not below worker.maxMemory (100MiB)"},
		"unknown in a section":     {text: "cluster: {verbose: {healthChecks: true}}", want: "f.yaml:1: unknown key cluster.verbose.healthChecks"},
		"a value for verbose":      {text: "cluster: {verbose: true}", want: "f.yaml:1: cluster.verbose is a section, not a value; write verbose: {healthCheck: true, masterSlaveMessages: true, restartSlave: true}"},
		"an interval too long":     {set: []string{"cluster.healthCheckIntervalSeconds=31"}, want: "--set cluster.healthCheckIntervalSeconds (master.healthCheckInterval): 31s is too large"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := configs.Load(configs.Source{File: "f.yaml", Text: []byte(test.text), Set: test.set, Environ: test.environ})
			require.ErrorContains(t, err, test.want)
			require.Equal(t, task.CodeInvalid, task.CodeOf(err))
		})
	}
}

func TestLimitsThatContradict(t *testing.T) {
	t.Parallel()
	for set, want := range map[string]string{
		"worker.ttl=20s":                "worker.ttl: 20s is not above worker.drainTimeout (30s)",
		"master.maxWorkers=1":           "master.maxWorkers: 1 is less than master.workers (2)",
		"worker.maxMemory=200MiB":       "script.heapLimit: 256MiB is not below worker.maxMemory (200MiB)",
		"master.healthCheckInterval=0s": "master.healthCheckInterval: 0s is too small; use at least 200ms",
	} {
		_, err := configs.Load(configs.Source{Set: []string{set}})
		require.ErrorContains(t, err, want)
	}
	_, err := configs.Load(configs.Source{Set: []string{"worker.ttl=40s", "master.healthCheckInterval=25s"}})
	require.ErrorContains(t, err, "master.healthCheckInterval: 25s is more than half of worker.ttl (40s)")
}

func TestCommonSettingsHoldNoSecret(t *testing.T) {
	t.Parallel()
	common := configs.Default().Common()
	require.Equal(t, "720h0m0s", common["retention.runs"])
	require.Equal(t, "catena", common["cluster.name"])
	require.Contains(t, common, "master.catchUpRate")
	require.NotContains(t, common, "postgres.url")
	require.NotContains(t, common, "worker.slots")
}
