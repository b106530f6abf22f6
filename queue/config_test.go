package queue_test

import (
	"io"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/queue"
	"github.com/catena-run/catena/task"
)

func silent() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	local := queue.Config{URL: "redis://127.0.0.1:6379/0", Namespace: "catena"}
	require.NoError(t, local.Validate())
	sentinel := queue.Sentinel{MasterName: "main", Addrs: []string{"a:26379", "b:26379"}, Password: "s3cret"}
	for name, test := range map[string]struct {
		change func(c *queue.Config)
		where  string // "": valid
		addr   string
	}{
		"tls":               {change: func(c *queue.Config) { c.URL = "rediss://u:s3cret@h:6380/2" }, addr: "h:6380"},
		"unix":              {change: func(c *queue.Config) { c.URL = "unix:///run/redis.sock?db=1" }, addr: "/run/redis.sock"},
		"sentinel":          {change: func(c *queue.Config) { c.URL, c.Sentinel = "", sentinel }, addr: "main by sentinels a:26379,b:26379"},
		"no url":            {change: func(c *queue.Config) { c.URL = "" }, where: "redis.url"},
		"other scheme":      {change: func(c *queue.Config) { c.URL = "http://u:s3cret@h" }, where: "redis.url"},
		"slash in password": {change: func(c *queue.Config) { c.URL = "redis://u:s3/cret@h:1" }, where: "redis.url"},
		"control character": {change: func(c *queue.Config) { c.URL = "redis://u:s3cret\x7f@h" }, where: "redis.url"},
		"bad database":      {change: func(c *queue.Config) { c.URL = "redis://u:s3cret@h/x" }, where: "redis.url"},
		"bad option":        {change: func(c *queue.Config) { c.URL = "redis://u:s3cret@h/0?wat=s3cret" }, where: "redis.url"},
		"no namespace":      {change: func(c *queue.Config) { c.Namespace = "" }, where: "redis.namespace"},
		"colon":             {change: func(c *queue.Config) { c.Namespace = "a:b" }, where: "redis.namespace"},
		"no master name":    {change: func(c *queue.Config) { c.Sentinel = sentinel; c.Sentinel.MasterName = "" }, where: "redis.sentinel.masterName"},
		"no addresses":      {change: func(c *queue.Config) { c.Sentinel = sentinel; c.Sentinel.Addrs = nil }, where: "redis.sentinel.addrs"},
		"bad address":       {change: func(c *queue.Config) { c.Sentinel = sentinel; c.Sentinel.Addrs = []string{"x:s3cret@h:1"} }, where: "redis.sentinel.addrs"},
		"negative database": {change: func(c *queue.Config) { c.Sentinel = sentinel; c.Sentinel.DB = -1 }, where: "redis.sentinel.db"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := local
			test.change(&cfg)
			err := cfg.Validate()
			require.NotContains(t, cfg.Addr(), "s3")
			if test.where == "" {
				require.NoError(t, err)
				require.Equal(t, test.addr, cfg.Addr())
				return
			}
			var coded *task.Error
			require.ErrorAs(t, err, &coded)
			require.Equal(t, task.CodeInvalid, coded.Code)
			require.Equal(t, test.where, coded.Where)
			require.NotContains(t, err.Error(), "s3")
			_, err = queue.Open(cfg, silent())
			require.Error(t, err)
		})
	}
}

func TestConsumeConfigValidate(t *testing.T) {
	t.Parallel()
	require.NoError(t, queue.ConsumeConfig{}.Validate())
	require.NoError(t, queue.ConsumeConfig{Concurrency: 4, PollInterval: time.Second, HandleTimeout: time.Second}.Validate())
	for _, bad := range []queue.ConsumeConfig{{Concurrency: -1}, {PollInterval: 2 * time.Minute}, {HandleTimeout: time.Minute}} {
		require.Equal(t, task.CodeInvalid, task.CodeOf(bad.Validate()), "%+v", bad)
	}
}
