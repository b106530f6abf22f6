package e2e

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

const (
	modulePath  = "github.com/catena-run/catena"
	testSupport = "devservers/servertest" // real servers for tests; any _test.go may import it
	anyPlugin   = "plugins/*"             // one plugin per folder below plugins
	topLayer    = 10                      // e2e: imports whatever it likes, is imported by nobody
	maxLines    = 700                     // of one file
)

// layerTable returns the folders of each layer, lowest first. It is the table of
// docs/architecture.md: a package imports only lower layers, never a sibling.
func layerTable() [][]string {
	return [][]string{
		0:        {"task", "lifecycle", "telemetry"},
		1:        {"healthcheck", "migrations"},
		2:        {"store", "queue", "pkgstore", "chain", "fabric", "secrets"},
		3:        {"dispatch", "scheduler", "auth", "client", "tunnel", "source"},
		4:        {"script", "plugins"},
		5:        {"master", "worker", "server", anyPlugin, "api", "dashboard", "check", "devservers"},
		6:        {"configs"},
		7:        {"node"},
		8:        {"cli"},
		9:        {"cmd", "examples"},
		topLayer: {"e2e"},
	}
}

// unit is what the rule speaks of: a folder of the table. Packages below a
// unit belong to it and may import each other.
func unitOf(dir string) string {
	parts := strings.Split(dir, "/")
	if parts[0] == "plugins" && len(parts) > 1 {
		return path.Join(parts[0], parts[1])
	}
	return parts[0]
}

func layerOf(unit string) (int, bool) {
	if strings.HasPrefix(unit, "plugins/") {
		unit = anyPlugin
	}
	for layer, units := range layerTable() {
		for _, known := range units {
			if known == unit {
				return layer, true
			}
		}
	}
	return 0, false
}

func isTestSupport(dir string) bool {
	return dir == testSupport || strings.HasPrefix(dir, testSupport+"/")
}

// checkSources walks the module in fsys and returns one line for each breach
// of a rule. Every .go file counts, whatever its build tags.
func checkSources(fsys fs.FS) ([]string, error) {
	var breaches []string
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return skipFolder(fsys, name)
		case !strings.HasSuffix(name, ".go"):
			return nil
		}
		found, err := checkFile(fsys, name)
		breaches = append(breaches, found...)
		return err
	})
	sort.Strings(breaches)
	return breaches, err
}

// skipFolder leaves out what the go tool leaves out too, and nested modules.
func skipFolder(fsys fs.FS, name string) error {
	if name == "." {
		return nil
	}
	base := path.Base(name)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "node_modules" {
		return fs.SkipDir
	}
	if _, err := fs.Stat(fsys, path.Join(name, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func checkFile(fsys fs.FS, name string) ([]string, error) {
	source, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	breaches := checkImports(files, name, file)
	if file.Name.Name != "main" && !strings.HasSuffix(name, "_test.go") && unitOf(path.Dir(name)) != "cli" {
		breaches = append(breaches, checkProcessUse(files, file)...)
	}
	lines := bytes.Count(source, []byte("\n"))
	if lines > maxLines && !ast.IsGenerated(file) {
		breaches = append(breaches, fmt.Sprintf("%s: %d lines; split it, %d is the most", name, lines, maxLines))
	}
	if name == "cmd/catena/main.go" && lines > 40 {
		breaches = append(breaches, fmt.Sprintf("%s: %d lines; 40 is the most", name, lines))
	}
	return breaches, nil
}

// checkImports compares the imports of one file with the table.
func checkImports(files *token.FileSet, name string, file *ast.File) []string {
	from := path.Dir(name)
	layer, known := layerOf(unitOf(from))
	if !known && from != "." {
		return []string{fmt.Sprintf("%s: folder %s is in no layer; give it one in the layer table", name, unitOf(from))}
	}
	var breaches []string
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil || (imported != modulePath && !strings.HasPrefix(imported, modulePath+"/")) {
			continue
		}
		to := strings.TrimPrefix(strings.TrimPrefix(imported, modulePath), "/")
		if reason := forbidden(from, layer, to, strings.HasSuffix(name, "_test.go")); reason != "" {
			breaches = append(breaches, fmt.Sprintf("%s: imports %s: %s", files.Position(spec.Pos()), to, reason))
		}
	}
	return breaches
}

// forbidden says why a package in from may not import the package in to, or "".
func forbidden(from string, fromLayer int, to string, inTest bool) string {
	toLayer, known := layerOf(unitOf(to))
	switch {
	case from == ".":
		return "the top folder imports nothing of the module"
	case isTestSupport(to):
		if inTest || isTestSupport(from) {
			return ""
		}
		return "only tests may"
	case isTestSupport(from), fromLayer == topLayer:
		return ""
	case !known:
		return "a folder in no layer"
	case unitOf(from) == unitOf(to):
		return ""
	case toLayer == fromLayer:
		return fmt.Sprintf("a sibling in layer %d", toLayer)
	case toLayer > fromLayer:
		return fmt.Sprintf("layer %d may not import layer %d", fromLayer, toLayer)
	}
	return ""
}

// checkProcessUse finds os.Exit and os.Args, which belong to cli and to main
// packages.
func checkProcessUse(files *token.FileSet, file *ast.File) []string {
	var breaches []string
	ast.Inspect(file, func(node ast.Node) bool {
		selector, ok := node.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := selector.X.(*ast.Ident)
		if ok && pkg.Name == "os" && (selector.Sel.Name == "Exit" || selector.Sel.Name == "Args") {
			breaches = append(breaches, fmt.Sprintf("%s: os.%s outside cli", files.Position(selector.Pos()), selector.Sel.Name))
		}
		return true
	})
	return breaches
}

func TestLayers(t *testing.T) {
	t.Parallel()
	root := os.DirFS("..")
	_, err := fs.Stat(root, "go.mod")
	require.NoError(t, err, "the parent folder must be the top of the module")
	breaches, err := checkSources(root)
	require.NoError(t, err)
	require.Empty(t, breaches, strings.Join(breaches, "\n"))
}

// TestLayersCatch proves that the checker sees what it forbids and lets pass
// what it allows.
func TestLayersCatch(t *testing.T) {
	t.Parallel()
	importing := func(pkg string, paths ...string) string {
		text := "package " + pkg + "\n"
		for _, p := range paths {
			text += fmt.Sprintf("import _ %q\n", modulePath+"/"+p)
		}
		return text
	}
	cases := []struct {
		name, file, source, want string // want "": allowed
	}{
		{"a lower layer", "store/a.go", importing("store", "task", "migrations"), ""},
		{"a higher layer", "task/a.go", importing("task", "store"), "layer 0 may not import layer 2"},
		{"a sibling", "worker/a.go", importing("worker", "master"), "a sibling in layer 5"},
		{"a sibling in a test", "store/a_test.go", importing("store", "queue"), "a sibling in layer 2"},
		{"an external test", "store/a_test.go", importing("store_test", "cli"), "layer 2 may not import layer 8"},
		{"a package of one's own folder", "script/a.go", importing("script", "script/classic"), ""},
		{"a plugin imports the contract", "plugins/status/a.go", importing("status", "plugins", "telemetry"), ""},
		{"a plugin imports another", "plugins/status/a.go", importing("status", "plugins/files"), "a sibling in layer 5"},
		{"the contract imports a plugin", "plugins/a.go", importing("plugins", "plugins/status"), "layer 4 may not import layer 5"},
		{"test servers in a test", "store/a_test.go", importing("store", testSupport), ""},
		{"test servers in a product", "store/a.go", importing("store", testSupport), "only tests may"},
		{"test servers import what they start", testSupport + "/a.go", importing("servertest", "devservers", "store", "node"), ""},
		{"e2e imports all", "e2e/a_test.go", importing("e2e", "cli", "node"), ""},
		{"nobody imports e2e", "cli/a.go", importing("cli", "e2e"), "layer 8 may not import layer 10"},
		{"an unknown folder", "utils/a.go", importing("utils"), "folder utils is in no layer"},
		{"an import of an unknown folder", "store/a.go", importing("store", "helpers"), "a folder in no layer"},
		{"the top folder", "a.go", importing("catena", "task"), "the top folder imports nothing"},
		{"a hidden build tag", "task/a.go", "//go:build never\n\n" + importing("task", "node"), "layer 0 may not import layer 7"},
		{"a nested module", "bench/peers/a.go", importing("peers", "node"), ""},
		{"os.Exit in a package", "store/a.go", "package store\nimport \"os\"\nfunc f() { os.Exit(1) }\n", "os.Exit outside cli"},
		{"os.Args in cli", "cli/a.go", "package cli\nimport \"os\"\nvar _ = os.Args\n", ""},
		{"a long file", "store/a.go", "package store\n" + strings.Repeat("//\n", maxLines), "701 lines"},
		{"a long main", "cmd/catena/main.go", "package main\n" + strings.Repeat("//\n", 40), "40 is the most"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			breaches, err := checkSources(fstest.MapFS{
				c.file:         {Data: []byte(c.source)},
				"bench/go.mod": {Data: []byte("module bench\n")},
			})
			require.NoError(t, err)
			if c.want == "" {
				require.Empty(t, breaches)
				return
			}
			require.Len(t, breaches, 1)
			require.Contains(t, breaches[0], c.want)
			require.True(t, strings.HasPrefix(breaches[0], c.file+":"), "the place comes first: %s", breaches[0])
		})
	}
}
