package api_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/catena-run/catena/auth"
	"github.com/stretchr/testify/require"
)

// TestOpenAPI compares the document with testdata/openapi.json; set
// CATENA_UPDATE_GOLDEN to write it anew after a wanted change.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	f := start(t)
	status, text := f.ask(http.MethodGet, "/api/openapi.json", "", "")
	require.Equal(t, http.StatusOK, status)
	var document map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &document))
	pretty, err := json.MarshalIndent(document, "", "  ")
	require.NoError(t, err)
	pretty = append(pretty, '\n')
	golden := filepath.Join("testdata", "openapi.json")
	if update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, pretty, 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), string(pretty))
}

// TestOpenAPIIsSound checks what a reader of the document relies on.
func TestOpenAPIIsSound(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, text := f.ask(http.MethodGet, "/api/openapi.json", "", "")
	var document struct {
		OpenAPI string
		Info    struct{ Title string }
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Description string
			Security    []map[string][]string
			Responses   map[string]any
		}
		Components struct {
			Schemas         map[string]json.RawMessage
			SecuritySchemes map[string]map[string]string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &document))
	require.True(t, strings.HasPrefix(document.OpenAPI, "3.1."))
	require.Equal(t, "Catena", document.Info.Title)
	require.Equal(t, "bearer", document.Components.SecuritySchemes["bearer"]["scheme"])
	seen := map[string]bool{}
	for path, methods := range document.Paths {
		require.True(t, strings.HasPrefix(path, "/api/v1/"), path)
		for method, o := range methods {
			where := method + " " + path
			require.NotEmpty(t, o.Summary, where)
			require.Contains(t, o.Responses, "default", where)
			require.Equal(t, []map[string][]string{{"bearer": {}}}, o.Security, where)
			require.False(t, seen[o.OperationID], "%s: twice", o.OperationID)
			seen[o.OperationID] = true
			require.NotContains(t, auth.Action(o.OperationID).Doing(), "the operation", "%s: package auth has no words for it", where)
			least := auth.Least(auth.Action(o.OperationID))
			require.Contains(t, o.Description, string(least), where)
			if method != "get" && o.OperationID != string(auth.WaitRuns) {
				require.NotEqual(t, auth.Viewer, least, "%s changes something, so a viewer may not", where)
			}
			if method == "get" && o.OperationID != string(auth.ListTokens) {
				require.Equal(t, auth.Viewer, least, "%s only reads, and the table of roles does not name it", where)
			}
		}
	}
	require.Len(t, seen, 64)
	for _, reference := range strings.Split(text, `"$ref":"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(reference, `"`)
		require.Contains(t, document.Components.Schemas, name)
	}
	require.Contains(t, string(document.Components.Schemas["ErrorDetail"]), "remedy")
	require.NotContains(t, document.Components.Schemas, "ErrorModel")
}
