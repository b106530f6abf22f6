package e2e

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// documented reads the metrics of docs/metrics.md, which a test of a running
// cluster keeps true, with their types.
func documented(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	types := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\|").FindAllStringSubmatch(string(text), -1) {
		types[row[1]] = row[2]
	}
	require.Greater(t, len(types), 60)
	return types
}

// requireKnown finds the metrics of an expression: all are documented, counters
// are only looked at as rates and histograms only by their series. It returns their names.
func requireKnown(t *testing.T, types map[string]string, where, expr string) (names []string) {
	t.Helper()
	require.Equal(t, strings.Count(expr, "("), strings.Count(expr, ")"), "%s: %s", where, expr)
	for _, name := range regexp.MustCompile(`\bcatena_\w+`).FindAllString(expr, -1) {
		base := name
		if _, known := types[base]; !known {
			base = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			require.Equal(t, "histogram", types[base], "%s: %s is not in docs/metrics.md: %s", where, name, expr)
		} else {
			require.NotEqual(t, "histogram", types[base], "%s: %s has no series of its own: %s", where, name, expr)
		}
		if types[base] != "gauge" {
			require.Regexp(t, `(rate|increase)\(`+name+`[[{]`, expr, where)
		}
		names = append(names, base)
	}
	return names
}

// TestDocsDashboardAndAlertsNameRealMetrics: the dashboard shows every metric there is, the
// alerts use only such.
func TestDocsDashboardAndAlertsNameRealMetrics(t *testing.T) {
	t.Parallel()
	types := documented(t)
	text, err := os.ReadFile("../deploy/grafana/catena.json")
	require.NoError(t, err)
	var dashboard struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ RefID, Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	require.Equal(t, "catena", dashboard.UID)
	shown, ids, places := map[string]bool{}, map[int]bool{}, map[[2]int]bool{}
	for _, p := range dashboard.Panels {
		require.False(t, ids[p.ID], "two panels have the id %d", p.ID)
		ids[p.ID] = true
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		place := [2]int{p.GridPos.X, p.GridPos.Y}
		require.False(t, places[place], "two panels stand where %s does", p.Title)
		places[place] = true
		if p.Type != "row" {
			require.NotEmpty(t, p.Targets, p.Title)
		}
		for _, target := range p.Targets {
			for _, name := range requireKnown(t, types, p.Title, target.Expr) {
				shown[name] = true
			}
		}
	}
	for name := range types {
		require.True(t, shown[name], "no panel shows %s", name)
	}

	text, err = os.ReadFile("../deploy/prometheus/alerts.yaml")
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &rules))
	alerts := map[string]bool{}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			require.NotEmpty(t, rule.Alert)
			require.False(t, alerts[rule.Alert], "two alerts are called %s", rule.Alert)
			alerts[rule.Alert] = true
			require.NotEmpty(t, rule.Labels["severity"], rule.Alert)
			require.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
			if !strings.HasPrefix(rule.Expr, "up{") {
				require.NotEmpty(t, requireKnown(t, types, rule.Alert, rule.Expr), rule.Alert)
			}
		}
	}
	require.Greater(t, len(alerts), 10)
}
