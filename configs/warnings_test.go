package configs_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/task"
)

func TestWarningsOfValuesThatContradict(t *testing.T) {
	t.Parallel()
	require.Empty(t, configs.Default().Warnings())
	for path, change := range map[string]func(*configs.Config){
		"master.leader":      func(c *configs.Config) { c.Master.Leader, c.Master.Workers = false, 0 },
		"packages.cacheSize": func(c *configs.Config) { c.Packages.CacheSize = configs.MiB },
		"worker.maxMemory":   func(c *configs.Config) { c.Packages.CacheSize = 256 * configs.MiB },
		"script.maxOutput":   func(c *configs.Config) { c.Script.MaxOutput = 64 * configs.MiB },
		"master.admin":       func(c *configs.Config) { c.Master.Admin = "0.0.0.0:20081" },
	} {
		c := configs.Default()
		change(&c)
		require.NoError(t, c.Validate(), path)
		found := c.Warnings()
		require.Len(t, found, 1, path)
		require.Equal(t, path, found[0].Where)
		require.Equal(t, task.SeverityWarning, found[0].Severity)
		require.NotEmpty(t, found[0].Remedy)
	}
}
