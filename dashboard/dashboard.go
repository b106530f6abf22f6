package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed dist
var dist embed.FS

const (
	index  = "index.html"
	assets = "assets/" // the names below it hold a hash of the content
)

// policy lets the page load and ask this server alone. Nothing may frame it.
const policy = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"

// file is one built file as it is answered.
type file struct {
	content []byte
	media   string
	etag    string
}

// Handler serves the UI under "/". A path that is no file of it and not one of
// the server's own answers with the page, which finds its way by the path.
func Handler() http.Handler {
	files := load()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		harden(w.Header())
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the dashboard is only read; the API is under /api/v1", http.StatusMethodNotAllowed)
			return
		}
		name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
		f, found := files[name]
		switch {
		case found && strings.HasPrefix(name, assets):
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		case found:
			w.Header().Set("Cache-Control", "no-cache")
		case foreign(name):
			http.Error(w, "there is nothing here", http.StatusNotFound)
			return
		default:
			f = files[index]
			w.Header().Set("Cache-Control", "no-cache")
		}
		w.Header().Set("Content-Type", f.media)
		w.Header().Set("ETag", f.etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
	})
}

// foreign tells paths that are no page: those of the API, of the probes, and
// of files that are not there.
func foreign(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	switch first {
	case "api", "livez", "readyz", "metrics":
		return true
	}
	return strings.HasPrefix(name+"/", assets)
}

// harden sets what holds for every answer, errors too.
func harden(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
}

// load reads the embedded files, which are few and small. They cannot fail to
// be read; TestDist makes sure that they are whole.
func load() map[string]file {
	files := map[string]file{}
	_ = fs.WalkDir(dist, "dist", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := dist.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		files[strings.TrimPrefix(name, "dist/")] = file{content, mediaType(name), `"` + hex.EncodeToString(sum[:12]) + `"`}
		return nil
	})
	return files
}

// mediaType does not ask the machine's own tables for the kinds that matter.
func mediaType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	if known := mime.TypeByExtension(path.Ext(name)); known != "" {
		return known
	}
	return "application/octet-stream"
}
