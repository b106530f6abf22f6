package configs_test

import (
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/configs"
)

var update = flag.Bool("update", false, "write docs/configuration.md instead of comparing it")

func TestDocsAreUpToDate(t *testing.T) {
	t.Parallel()
	const file = "../docs/configuration.md"
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(configs.Markdown()), 0o644))
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(text), configs.Markdown(), "run: go test ./configs -run TestDocs -update")
}

func TestKeysAreDescribedAndBounded(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, key := range configs.Keys() {
		require.NotEmpty(t, key.Doc, key.Path)
		require.NotEmpty(t, key.Kind, key.Path)
		require.False(t, seen[key.Env], "%s is the variable of two keys", key.Env)
		seen[key.Env] = true
		for _, limit := range []string{key.Min, key.Max} {
			if limit == "" {
				continue
			}
			_, err := configs.Load(configs.Source{Set: []string{key.Path + "=" + limit}})
			if err != nil {
				require.NotContains(t, err.Error(), " is not ", "the limit of %s", key.Path)
			}
		}
	}
	require.True(t, seen["CATENA_POSTGRES_URL"] && seen["CATENA_REDIS_SENTINEL_MASTER"] && seen["CATENA_WORKER_MAXMEMORY"])
}

// TestSchemaAgreesWithTheLoader walks the schema as an editor would.
func TestSchemaAgreesWithTheLoader(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(configs.Schema())
	require.NoError(t, err)
	var schema map[string]any
	require.NoError(t, json.Unmarshal(text, &schema))
	require.Equal(t, false, schema["additionalProperties"])
	for _, key := range configs.Keys() {
		node := schema
		for _, name := range strings.Split(key.Path, ".") {
			next, ok := node["properties"].(map[string]any)[name].(map[string]any)
			require.True(t, ok, key.Path)
			node = next
		}
		require.Equal(t, key.Doc, node["description"], key.Path)
		require.Contains(t, node, "default", key.Path)
		if pattern, ok := node["pattern"].(string); ok {
			require.Regexp(t, regexp.MustCompile(pattern), node["default"], key.Path)
		}
	}
}

func TestTreeHoldsEveryKey(t *testing.T) {
	t.Parallel()
	tree := configs.Default().Tree()
	require.Equal(t, "512MiB", tree["worker"].(map[string]any)["maxMemory"])
	require.Equal(t, "1m", tree["script"].(map[string]any)["timeout"])
	require.Equal(t, "", tree["redis"].(map[string]any)["sentinel"].(map[string]any)["master"])
}

func TestSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]configs.Size{
		"0": 0, "1": 1, "7B": 7, "1KiB": 1024, "512MiB": 512 << 20, "1.5GiB": 3 << 29, "1GB": 1e9, "2 TiB": 2 << 40,
	} {
		got, err := configs.ParseSize(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		again, err := configs.ParseSize(got.String())
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
	for _, text := range []string{"", "MiB", "-1", "1e9", "5m", "1.2.3", "lots", "99999999TiB", "1/2", "."} {
		_, err := configs.ParseSize(text)
		require.Error(t, err, text)
	}
	require.Equal(t, "512MiB", (512 * configs.MiB).String())
	require.Equal(t, "0B", configs.Size(0).String())
}
