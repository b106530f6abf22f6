package pkgstore

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/evanw/esbuild/pkg/api"

	"github.com/catena-run/catena/task"
)

// metafile is the part that is read of esbuild's description of a build.
type metafile struct {
	Inputs map[string]struct {
		Bytes   int64
		Format  string
		Imports []struct {
			Path     string
			External bool
		}
	}
	Outputs map[string]struct {
		EntryPoint string
		Exports    []string
	}
}

// examine makes a first build in which the modules share what they import, so
// that it is small whatever they import, and judges the real one by it: would
// it be too large, and are the exported functions there?
func (b *bundler) examine() error {
	o := b.options(sortedKeys(b.own.modules))
	o.Format, o.Splitting = api.FormatESModule, true
	b.examining = true
	result, err := b.run(o)
	b.examining = false
	if err != nil {
		return err
	}
	var meta metafile
	if err := json.Unmarshal([]byte(result.Metafile), &meta); err != nil {
		return task.Errorf(task.CodeInternal, "esbuild wrote an unreadable metafile: %w", err)
	}
	if size := meta.total(); size > b.limit {
		return b.tooMuch(size)
	}
	return b.checkExports(&meta)
}

// total adds up, for each entry, the sources that it reaches.
func (m *metafile) total() (total int64) {
	for _, output := range m.Outputs {
		if output.EntryPoint == "" {
			continue
		}
		for input := range m.reach(output.EntryPoint) {
			total += m.Inputs[input].Bytes
		}
	}
	return total
}

func (m *metafile) reach(entry string) map[string]bool {
	seen, todo := map[string]bool{entry: true}, []string{entry}
	for len(todo) > 0 {
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, i := range m.Inputs[next].Imports {
			if !i.External && !seen[i.Path] {
				seen[i.Path] = true
				todo = append(todo, i.Path)
			}
		}
	}
	return seen
}

// checkExports compares the manifest's exports with those of the modules,
// where they can be known without running them: a CommonJS file, or a module
// that imports one, may export what is not written in it.
func (b *bundler) checkExports(m *metafile) error {
	for _, output := range m.Outputs {
		if output.EntryPoint == "" || !m.static(output.EntryPoint) {
			continue
		}
		module, _ := moduleName(sourceName(output.EntryPoint))
		for _, function := range b.own.manifest.exportsOf(module) {
			if !slices.Contains(output.Exports, function) {
				slices.Sort(output.Exports)
				return task.Errorf(task.CodeInvalid, "%s exports %s?%s, but the module %s exports no %s", ManifestFile, module, function, module, function).
					At(b.own.modules[module]).Fix("%s", task.DidYouMean(function, output.Exports, exportsOnly(output.Exports)))
			}
		}
	}
	return nil
}

func exportsOnly(names []string) string {
	if len(names) == 0 {
		return "write \"export\" before the function"
	}
	return "it exports " + strings.Join(names, ", ")
}

func (m *metafile) static(entry string) bool {
	for input := range m.reach(entry) {
		if m.Inputs[input].Format == "cjs" && !strings.HasSuffix(input, ".json") {
			return false
		}
	}
	return true
}
