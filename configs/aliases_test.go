package configs_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/configs"
)

func TestVariablesOfTheConnector(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		environ []string
		on      bool
		address string
	}{
		"nothing":        {},
		"off":            {environ: []string{"ACS_HTTP_SERVER_ENABLED=false", "ACS_HTTP_SERVER_LISTEN_PORT=1"}},
		"a port alone":   {environ: []string{"ACS_HTTP_SERVER_LISTEN_PORT=1"}},
		"on":             {environ: []string{"ACS_HTTP_SERVER_ENABLED=true"}, on: true, address: "127.0.0.1:9991"},
		"host":           {environ: []string{"ACS_HTTP_SERVER_ENABLED=true", "ACS_HTTP_SERVER_LISTEN_HOST=0.0.0.0"}, on: true, address: "0.0.0.0:9991"},
		"port":           {environ: []string{"ACS_HTTP_SERVER_LISTEN_PORT=8888", "ACS_HTTP_SERVER_ENABLED=TRUE"}, on: true, address: "127.0.0.1:8888"},
		"ours wins":      {environ: []string{"CATENA_HEALTH_ADDRESS=127.0.0.1:7", "ACS_HTTP_SERVER_ENABLED=true"}, on: true, address: "127.0.0.1:7"},
		"ours turns off": {environ: []string{"CATENA_HEALTH_LIVENESS=false", "ACS_HTTP_SERVER_ENABLED=true"}, address: "127.0.0.1:9991"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := configs.Load(configs.Source{Environ: c.environ})
			require.NoError(t, err)
			require.Equal(t, c.on, cfg.Health.Liveness)
			require.Equal(t, c.address, cfg.Health.Address)
		})
	}
	_, err := configs.Load(configs.Source{Environ: []string{"ACS_HTTP_SERVER_ENABLED=true", "ACS_HTTP_SERVER_LISTEN_PORT=many"}})
	require.ErrorContains(t, err, "health.address")
}
