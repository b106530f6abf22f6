package configs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/task"
)

func TestDefaultsAreValidButNameNoDatabase(t *testing.T) {
	t.Parallel()
	c, err := configs.Load(configs.Source{})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(configs.Default(), c))
	require.Len(t, c.Missing(), 2)
	require.ErrorContains(t, errors.Join(c.Missing()...), "CATENA_POSTGRES_URL")
}

func TestSampleFilesLoad(t *testing.T) {
	t.Parallel()
	for file, check := range map[string]func(t *testing.T, c configs.Config){
		"master.yaml": func(t *testing.T, c configs.Config) {
			require.Equal(t, 24, c.Postgres.MaxConns)
			require.Equal(t, task.Duration(24*time.Hour), c.Worker.TTL)
		},
		"worker.yaml": func(t *testing.T, c configs.Config) {
			require.Equal(t, []string{"default", "reports"}, c.Worker.Queues)
			require.Equal(t, configs.GiB, c.Worker.MaxMemory)
		},
		"cluster.yaml": func(t *testing.T, c configs.Config) {
			require.Equal(t, "production", c.Cluster.Name)
			require.Len(t, c.Redis.Sentinel.Addresses, 3)
		},
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			c, err := configs.Load(configs.Source{File: file})
			require.NoError(t, err)
			require.NoError(t, c.Validate())
			require.Empty(t, c.Missing())
			check(t, c)
		})
	}
}

func TestEverySampleFileIsTested(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.yaml")
	require.NoError(t, err)
	require.Equal(t, []string{"cluster.yaml", "master.yaml", "worker.yaml"}, files)
}

func TestLaterLayersWin(t *testing.T) {
	t.Parallel()
	c, err := configs.Load(configs.Source{
		File:    "test.yaml",
		Text:    []byte("worker:\n  slots: 1\n  maxMemory: 600MiB\n  queues: [a, b]\nmaster:\nlog: {level: debug}\n"),
		Environ: []string{"CATENA_WORKER_SLOTS=2", "CATENA_WORKER_MAXMEMORY=700MiB", "CATENA_MASTER_LEADER=false", "HOME=/"},
		Set:     []string{"worker.slots=3", "worker.queues=x, y"},
	})
	require.NoError(t, err)
	require.Equal(t, 3, c.Worker.Slots)
	require.Equal(t, 700*configs.MiB, c.Worker.MaxMemory)
	require.Equal(t, []string{"x", "y"}, c.Worker.Queues)
	require.Equal(t, "debug", c.Log.Level)
	require.False(t, c.Master.Leader)
	require.Equal(t, 2, c.Master.Workers)
}

func TestBadSources(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text    string
		environ []string
		set     []string
		want    []string
	}{
		"unknown key":              {text: "worker:\n  slot: 1", want: []string{"f.yaml:2: unknown key worker.slot; did you mean worker.slots?"}},
		"key in the wrong section": {text: "slots: 1", want: []string{"f.yaml:1: unknown key slots; did you mean worker.slots?"}},
		"wrong case":               {text: "worker: {maxmemory: 1GiB}", want: []string{"did you mean worker.maxMemory?"}},
		"dotted key":               {text: "worker.slots: 1", want: []string{"unknown key worker.slots; did you mean worker.slots?"}},
		"unknown section":          {text: "\nwroker:\n  slots: 1", want: []string{"f.yaml:2: unknown key wroker; did you mean worker?"}},
		"nothing near":             {text: "zzzzzzzzzzzz: 1", want: []string{"unknown key zzzzzzzzzzzz; `catena config schema`"}},
		"unknown variable":         {environ: []string{"CATENA_WORKER_SLOT=1"}, want: []string{"environment: unknown variable CATENA_WORKER_SLOT; did you mean CATENA_WORKER_SLOTS?"}},
		"unknown flag":             {set: []string{"worker.slot=1"}, want: []string{"--set worker.slot: unknown key worker.slot; did you mean worker.slots?"}},
		"flag without value":       {set: []string{"worker.slots"}, want: []string{"--set worker.slots: no value"}},
		"flag on a section":        {set: []string{"worker=1"}, want: []string{"worker is a section; name one of its keys, such as worker.queues"}},
		"scalar for a section":     {text: "worker: 5", want: []string{"f.yaml:1: worker is a section"}},
		"section for a value":      {text: "worker: {slots: {a: 1}}", want: []string{"f.yaml:1: worker.slots: a section is not a whole number"}},
		"text for a number":        {text: "worker: {slots: many}", want: []string{`f.yaml:1: worker.slots: "many" is not a whole number; write digits`}},
		"float for a number":       {text: "worker: {slots: 1.5}", want: []string{"worker.slots: 1.5 is not a whole number"}},
		"number for a text":        {text: "cluster: {name: 7}", want: []string{`cluster.name: 7 is not text; put it in quotes, such as "7"`}},
		"duration without unit":    {text: "worker: {ttl: 5}", want: []string{"worker.ttl: 5 is not a duration"}},
		"another's name":           {text: "admin: {address: 'h:1'}", want: []string{"f.yaml:1: unknown key admin; did you mean master.admin?"}},
		"another's name in a flag": {set: []string{"admin.address=h:1"}, want: []string{"--set admin.address: unknown key admin.address; did you mean master.admin?"}},
		"another's section":        {set: []string{"database.URL=h"}, want: []string{"unknown key database.URL; did you mean postgres.url?"}},
		"a section for a text":     {text: "server: {http: {port: 1}}", want: []string{"f.yaml:1: server.http: a section is not text; write one text behind the key"}},
		"a text for a section":     {text: "server: 'h:1'", want: []string{`f.yaml:1: server is a section, not a value; write its keys below it, such as server: {http: "127.0.0.1:20080"}`}},
		"a text for telemetry":     {text: "telemetry: on", want: []string{"such as telemetry: {traces: {enabled: false}}"}},
		"a text for the worker":    {text: "worker: 5", want: []string{`such as worker: {queues: ["*"]}`}},
		"bad duration":             {environ: []string{"CATENA_WORKER_TTL=soon"}, want: []string{`CATENA_WORKER_TTL: worker.ttl: "soon" is not a duration`}},
		"bad size":                 {text: "worker: {maxMemory: 5m}", want: []string{`worker.maxMemory: "5m" is not a size; write a number and a unit`}},
		"list of numbers":          {text: "worker: {queues: [1]}", want: []string{"worker.queues: 1 is not text"}},
		"bad bool":                 {text: "master: {leader: 1}", want: []string{"master.leader: 1 is not true or false"}},
		"out of range":             {text: "worker:\n  slots: 0", want: []string{"f.yaml:2: worker.slots: 0 is too small; use at least 1"}},
		"bad enum":                 {set: []string{"log.level=loud"}, want: []string{`--set log.level: unknown value "loud"; use debug, info, warn, error`}},
		"fraction above 1":         {set: []string{"telemetry.traces.sampleRatio=1.5"}, want: []string{`telemetry.traces.sampleRatio: "1.5" is not from 0 to 1; use 0.1`}},
		"text for a fraction":      {text: "telemetry: {traces: {sampleRatio: all}}", want: []string{`telemetry.traces.sampleRatio: "all" is not a number`}},
		"list for a fraction":      {text: "telemetry: {traces: {sampleRatio: [1]}}", want: []string{`telemetry.traces.sampleRatio: a list is not a number`}},
		"receiver without scheme":  {text: "telemetry: {traces: {endpoint: 'collector:4318'}}", want: []string{"telemetry.traces.endpoint: the URL does not start with http://"}},
		"bad address":              {text: "master: {admin: localhost}", want: []string{`master.admin: "localhost" is not an address`}},
		"bad queue":                {text: "worker: {queues: [A]}", want: []string{`worker.queues: "A" cannot name a queue`}},
		"bad scheme":               {text: "postgres: {url: 'mysql://h/d'}", want: []string{"postgres.url: the URL does not start with postgres://"}},
		"two Redis":                {text: "redis: {url: 'redis://h', sentinel: {master: m, addresses: ['h:1']}}", want: []string{"redis.sentinel.master: a Redis is also given by redis.url"}},
		"lonely Sentinel":          {text: "redis: {sentinel: {addresses: ['h:1']}}", want: []string{"redis.sentinel.master: the Sentinels' name"}},
		"heap above memory":        {text: "script: {heapLimit: 1GiB}", want: []string{"script.heapLimit: 1GiB is not below worker.maxMemory (512MiB)"}},
		"logs outlive runs":        {text: "retention: {runs: 2h, logs: 3h}", want: []string{"retention.logs: 3h is longer than retention.runs"}},
		"syntax":                   {text: "a: [\nb: ]", want: []string{"f.yaml:"}},
		"tab":                      {text: "worker:\n\tslots: 1", want: []string{"f.yaml:2: found character that cannot start any token; correct the YAML"}},
		"twice":                    {text: "log: {level: info}\nlog: {level: warn}", want: []string{"f.yaml:2: key log is already set in line 1"}},
		"a list":                   {text: "- a", want: []string{"f.yaml:1: the file is not a mapping"}},
		"two documents":            {text: "log: {}\n---\nlog: {}", want: []string{"more than one YAML document"}},
		"merge key":                {text: "log: &a {level: info}\nworker:\n  <<: *a", want: []string{"f.yaml:3: unknown key worker.<<"}},
		"all at once": {
			text:    "worker:\n  slots: 0\n  ttl: x\nlgo: {}\n",
			environ: []string{"CATENA_LOG_LEVEL=loud", "CATENA_NOPE=1"},
			want:    []string{"worker.slots", "worker.ttl", "unknown key lgo", "CATENA_LOG_LEVEL: log.level", "CATENA_NOPE"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := configs.Load(configs.Source{File: "f.yaml", Text: []byte(test.text), Environ: test.environ, Set: test.set})
			require.Error(t, err)
			for _, want := range test.want {
				require.ErrorContains(t, err, want)
			}
			require.Equal(t, len(test.want), strings.Count(err.Error(), "\n")+1, err)
			require.Equal(t, task.CodeInvalid, task.CodeOf(err))
		})
	}
}

func TestVariablesOfOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	_, err := configs.Load(configs.Source{Environ: []string{
		"CATENA_SERVER=http://h", "CATENA_TOKEN=t", "CATENA_CONFIG=f",
		"CATENA_SERVICE_HOST=10.0.0.1", "CATENA_SERVICE_PORT=20081", "CATENA_SERVICE_PORT_ADMIN=20081",
		"CATENA_PORT=tcp://10.0.0.1:20081", "CATENA_PORT_20081_TCP=tcp://10.0.0.1:20081", "CATENA_PORT_20081_TCP_ADDR=10.0.0.1",
		"CATENA_MASTER_SERVICE_HOST=10.0.0.1", "CATENA_MASTER_PORT=tcp://10.0.0.1:20081",
	}})
	require.NoError(t, err)
	_, err = configs.Load(configs.Source{Environ: []string{"CATENA_MASTER_PORT=20081"}})
	require.ErrorContains(t, err, "unknown variable CATENA_MASTER_PORT")
}

func TestMissingFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "no.yaml")
	_, err := configs.Load(configs.Source{File: file})
	require.ErrorContains(t, err, file)
	require.ErrorContains(t, err, "--config")
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))

	require.NoError(t, os.WriteFile(file, []byte("# nothing set\n"), 0o600))
	c, err := configs.Load(configs.Source{File: file})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(configs.Default(), c))
}

func TestSecretsAreNeverShown(t *testing.T) {
	t.Parallel()
	c, err := configs.Load(configs.Source{Text: []byte(
		"postgres: {url: 'postgres://u:hunter2@h/d'}\nredis: {sentinel: {master: m, addresses: ['h:1'], password: hunter2}}")})
	require.NoError(t, err)
	text, err := c.Masked().YAML()
	require.NoError(t, err)
	require.NotContains(t, string(text), "hunter2")
	require.Contains(t, string(text), "postgres://u:***@h/d")
	require.Equal(t, "hunter2", c.Redis.Sentinel.Password, "Masked must not change its receiver")

	for _, text := range []string{
		"postgres: {url: 'mysql://u:12345678@h/d'}", "postgres: {url: 'postgres://u:12345678%@h/d'}", "redis: {sentinel: {password: 12345678}}",
	} {
		_, err = configs.Load(configs.Source{Text: []byte(text)})
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "12345678")
	}
}

func TestPrintedConfigurationLoadsBack(t *testing.T) {
	t.Parallel()
	want := configs.Default()
	want.Worker.MaxMemory = 600_000_001
	want.Postgres.URL = "postgres://u@h/d"
	want.Worker.Queues = []string{"a", "b"}
	text, err := want.YAML()
	require.NoError(t, err)
	got, err := configs.Load(configs.Source{Text: text})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(want, got))
}

// FuzzLoad feeds files, variables and flags: Load must not panic, and what it
// accepts must print and load back to the same.
func FuzzLoad(f *testing.F) {
	for _, file := range []string{"master.yaml", "worker.yaml", "cluster.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "CATENA_WORKER_SLOTS=2", "worker.queues=a,b")
	}
	f.Add([]byte("a: &a [*a]"), "CATENA_=", "=")
	f.Add([]byte("worker: &w {slots: 1}\nlog: *w"), "CATENA_REDIS_URL=redis://:p@h", "redis=1")
	f.Fuzz(func(t *testing.T, text []byte, variable, set string) {
		c, err := configs.Load(configs.Source{File: "f.yaml", Text: text, Environ: []string{variable}, Set: []string{set}})
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without words")
			}
			return
		}
		printed, err := c.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := configs.Load(configs.Source{Text: printed})
		if err != nil {
			t.Fatalf("%v\n%s", err, printed)
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
