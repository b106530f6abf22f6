package dashboard

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func get(t *testing.T, method, target string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	request := httptest.NewRequest(method, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer := httptest.NewRecorder()
	Handler().ServeHTTP(answer, request)
	return answer
}

// references are the files that the page names, found in the text of it.
func references(page string) []string {
	var names []string
	for _, match := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		names = append(names, match[1])
	}
	return names
}

// TestDist proves that what was built is whole: the page names a script, a
// style sheet and an icon, and each is there.
func TestDist(t *testing.T) {
	t.Parallel()
	page, err := dist.ReadFile("dist/index.html")
	require.NoError(t, err, "run `make dashboard`")
	names := references(string(page))
	require.Len(t, names, 3)
	kinds := map[string]bool{}
	for _, name := range names {
		require.True(t, strings.HasPrefix(name, "/"), "%s is not of this server", name)
		content, err := dist.ReadFile("dist" + name)
		require.NoError(t, err, "run `make dashboard`")
		require.NotEmpty(t, content)
		kinds[name[strings.LastIndex(name, "."):]] = true
	}
	require.Equal(t, map[string]bool{".js": true, ".css": true, ".svg": true}, kinds)
}

// TestDistIsSelfContained keeps out what is not meant for users, and every
// address that the browser would load something from.
func TestDistIsSelfContained(t *testing.T) {
	t.Parallel()
	total := 0
	require.NoError(t, fs.WalkDir(dist, "dist", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		require.NotContains(t, name, ".map")
		content, err := dist.ReadFile(name)
		require.NoError(t, err)
		total += len(content)
		require.NotContains(t, string(content), "sourceMappingURL", name)
		require.NotRegexp(t, `(?:src|href)="(?:https?:)?//|url\(["']?(?:https?:)?//|@import`, string(content), name)
		return nil
	}))
	require.Less(t, total, 400_000, "the dashboard has grown; think before raising this")
}

// TestLock keeps the addresses of registries out of the lock file: each
// builder uses its own.
func TestLock(t *testing.T) {
	t.Parallel()
	lock, err := os.ReadFile("web/package-lock.json")
	require.NoError(t, err)
	require.NotContains(t, string(lock), `"resolved"`)
	require.NotRegexp(t, `https?://[^"]*\.tgz`, string(lock))
	require.Contains(t, string(lock), `"integrity"`)
}

func TestHandler(t *testing.T) {
	t.Parallel()
	page := get(t, http.MethodGet, "/")
	var script, style string
	for _, name := range references(page.Body.String()) {
		switch {
		case strings.HasSuffix(name, ".js"):
			script = name
		case strings.HasSuffix(name, ".css"):
			style = name
		}
	}
	cases := []struct {
		name, method, target string
		status               int
		media, cache         string
	}{
		{"the page", http.MethodGet, "/", 200, "text/html; charset=utf-8", "no-cache"},
		{"the page by its name", http.MethodGet, "/index.html", 200, "text/html; charset=utf-8", "no-cache"},
		{"a route of the client", http.MethodGet, "/tasks/examples/flaky", 200, "text/html; charset=utf-8", "no-cache"},
		{"a route with a dot", http.MethodGet, "/tasks/reports.daily", 200, "text/html; charset=utf-8", "no-cache"},
		{"the head alone", http.MethodHead, "/runs", 200, "text/html; charset=utf-8", "no-cache"},
		{"the script", http.MethodGet, script, 200, "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"},
		{"the style sheet", http.MethodGet, style, 200, "text/css; charset=utf-8", "public, max-age=31536000, immutable"},
		{"the icon", http.MethodGet, "/favicon.svg", 200, "image/svg+xml", "no-cache"},
		{"a script of an earlier build", http.MethodGet, "/assets/index-gone.js", 404, "text/plain; charset=utf-8", ""},
		{"the folder of assets", http.MethodGet, "/assets/", 404, "text/plain; charset=utf-8", ""},
		{"a way out of the folder", http.MethodGet, "/assets/../../dashboard.go", 200, "text/html; charset=utf-8", "no-cache"},
		{"the API", http.MethodGet, "/api/v1/tasks", 404, "text/plain; charset=utf-8", ""},
		{"a probe", http.MethodGet, "/livez", 404, "text/plain; charset=utf-8", ""},
		{"the other probe", http.MethodGet, "/readyz", 404, "text/plain; charset=utf-8", ""},
		{"the metrics", http.MethodGet, "/metrics", 404, "text/plain; charset=utf-8", ""},
		{"a change", http.MethodPost, "/tasks", 405, "text/plain; charset=utf-8", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			answer := get(t, c.method, c.target)
			require.Equal(t, c.status, answer.Code)
			require.Equal(t, c.media, answer.Header().Get("Content-Type"))
			require.Equal(t, c.cache, answer.Header().Get("Cache-Control"))
			require.Contains(t, answer.Header().Get("Content-Security-Policy"), "default-src 'self'")
			require.Contains(t, answer.Header().Get("Content-Security-Policy"), "frame-ancestors 'none'")
			require.Equal(t, "nosniff", answer.Header().Get("X-Content-Type-Options"))
			require.Equal(t, "no-referrer", answer.Header().Get("Referrer-Policy"))
			if c.media == "text/html; charset=utf-8" && c.method == http.MethodGet {
				require.Equal(t, page.Body.String(), answer.Body.String())
			}
			if c.method == http.MethodHead {
				require.Empty(t, answer.Body.String())
			}
		})
	}
}

func TestNotModified(t *testing.T) {
	t.Parallel()
	tag := get(t, http.MethodGet, "/").Header().Get("ETag")
	require.NotEmpty(t, tag)
	require.Equal(t, http.StatusNotModified, get(t, http.MethodGet, "/", "If-None-Match", tag).Code)
	require.Equal(t, http.StatusOK, get(t, http.MethodGet, "/", "If-None-Match", `"other"`).Code)
}

// TestPageHasNoInlineCode: the policy would keep the browser from running it.
func TestPageHasNoInlineCode(t *testing.T) {
	t.Parallel()
	page := get(t, http.MethodGet, "/").Body.String()
	require.NotContains(t, page, "<style")
	require.NotRegexp(t, `<script(?:\s[^>]*)?>[^<]`, page)
	require.NotRegexp(t, `\s(?:style|on[a-z]+)=`, page)
}
