package pkgstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/evanw/esbuild/pkg/api"

	"github.com/catena-run/catena/task"
)

// library finds the other packages that modules import.
type library interface {
	// find returns the wanted version ("": live, a channel or a digest) of a
	// package; an error with CodeNotFound when there is none.
	find(ctx context.Context, name, want string) (*imported, error)
}

// imported is a version of another package whose modules are bundled in.
type imported struct {
	content  *Content
	manifest *Manifest
	modules  map[string]string
}

// bundled is what a push makes of a package.
type bundled struct {
	modules  map[string]Module
	manifest *Manifest // with the digests of the dependencies
}

// The sets of sources that esbuild sees; nothing comes from a disk.
const (
	moduleSpace = "catena"
	facadeSpace = "catena-exports" // what a package lets others import
	hostSpace   = "catena-host"    // the host API, while a package is examined
)

// bundler bundles the modules of one package. esbuild calls it from several
// goroutines at once.
type bundler struct {
	ctx     context.Context // of the one call of bundle that it lives for
	own     *imported
	library library
	limit   int64

	mu       sync.Mutex
	packages map[string]*imported // by digest and by name@want
	used     map[string]Dependency
	loaded   map[string]int // bytes of each source handed out
	total    int64
	fatal    error // what was no fault of the package

	examining bool // the first build, of which nothing is kept
}

// bundle turns each module of the content into one self-contained script of at
// most limit bytes together, source maps included.
func bundle(ctx context.Context, content *Content, library library, limit int64) (*bundled, error) {
	if err := content.checkText(); err != nil {
		return nil, err
	}
	manifest, err := content.Manifest()
	if err != nil {
		return nil, err
	}
	modules, err := content.modules()
	if err != nil {
		return nil, err
	}
	b := &bundler{
		ctx: ctx, own: &imported{content, manifest, modules}, library: library, limit: limit,
		packages: map[string]*imported{}, used: map[string]Dependency{}, loaded: map[string]int{},
	}
	if err := b.declared(); err != nil {
		return nil, err
	}
	result := &bundled{modules: map[string]Module{}}
	if len(modules) > 0 {
		if err := b.examine(); err != nil {
			return nil, err
		}
		if err := b.build(result); err != nil {
			return nil, err
		}
	}
	stored := *manifest
	stored.Dependencies = nil
	for _, name := range sortedKeys(b.used) {
		stored.Dependencies = append(stored.Dependencies, b.used[name])
	}
	result.manifest = &stored
	return result, nil
}

// declared resolves the dependencies of the manifest, used or not.
func (b *bundler) declared() error {
	for _, d := range b.own.manifest.Dependencies {
		p, err := b.other(d.Name, d.Want)
		if err == nil {
			b.record(d.Name, p)
			continue
		}
		if b.fatal != nil {
			return b.fatal
		}
		return task.Errorf(task.CodeOf(err), "dependency %s: %w", d.Name, err).At(ManifestFile).Fix("push it first: `catena pkg push DIR`")
	}
	return nil
}

// options are those that both builds share.
func (b *bundler) options(entries []string) api.BuildOptions {
	o := api.BuildOptions{
		Bundle: true, Metafile: true, Outdir: "/out", AbsWorkingDir: "/",
		Platform: api.PlatformNeutral,
		// goja knows what ES2022 has, but for the syntax listed here.
		Target:      api.ES2022,
		Supported:   map[string]bool{"async-generator": false, "for-await": false, "dynamic-import": false},
		Charset:     api.CharsetUTF8,
		TreeShaking: api.TreeShakingTrue, LegalComments: api.LegalCommentsNone,
		LogLevel: api.LogLevelSilent, TsconfigRaw: "{}",
		Plugins: []api.Plugin{{Name: "catena", Setup: b.plugin}},
	}
	for _, name := range entries {
		o.EntryPointsAdvanced = append(o.EntryPointsAdvanced, api.EntryPoint{InputPath: "entry:" + b.own.modules[name], OutputPath: outputName(name, b.own.modules)})
	}
	return o
}

// outputName numbers the modules, so that no name can clash in esbuild.
func outputName(module string, modules map[string]string) string {
	i, _ := slices.BinarySearch(sortedKeys(modules), module)
	return "m" + strconv.Itoa(i)
}

func (b *bundler) run(o api.BuildOptions) (api.BuildResult, error) {
	if err := b.ctx.Err(); err != nil {
		return api.BuildResult{}, context.Cause(b.ctx)
	}
	result := api.Build(o)
	if b.fatal != nil {
		return result, b.fatal
	}
	return result, buildError(hostErrors(result.Errors))
}

// build makes the scripts.
func (b *bundler) build(into *bundled) error {
	names := sortedKeys(b.own.modules)
	o := b.options(names)
	o.Format, o.Sourcemap, o.SourcesContent = api.FormatCommonJS, api.SourceMapExternal, api.SourcesContentExclude
	o.Metafile = false
	result, err := b.run(o)
	if err != nil {
		return err
	}
	var total int64
	outputs := map[string][]byte{}
	for _, f := range result.OutputFiles {
		outputs[path.Base(strings.ReplaceAll(f.Path, `\`, "/"))] = f.Contents
		total += int64(len(f.Contents))
	}
	if total > b.limit {
		return b.tooMuch(total)
	}
	for i, name := range names {
		file := "m" + strconv.Itoa(i) + ".js"
		sourceMap, err := cleanMap(outputs[file+".map"])
		if err != nil {
			return err
		}
		into.modules[name] = Module{Code: string(outputs[file]), SourceMap: sourceMap}
	}
	return nil
}

func (b *bundler) tooMuch(size int64) error {
	return task.Errorf(task.CodeTooLarge, "the bundled modules have %d bytes, since each holds all that it imports; the limit is %d", size, b.limit).
		At(b.own.manifest.Name).Fix("split the package, or let fewer modules import the large ones")
}

// cleanMap takes esbuild's prefixes off the names of the sources.
func cleanMap(source []byte) (string, error) {
	var fields map[string]json.RawMessage
	var sources []string
	err := json.Unmarshal(source, &fields)
	if err == nil {
		err = json.Unmarshal(fields["sources"], &sources)
	}
	if err != nil {
		return "", task.Errorf(task.CodeInternal, "esbuild wrote an unreadable source map: %w", err)
	}
	for i := range sources {
		sources[i] = sourceName(sources[i])
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(sources) // strings cannot fail
	fields["sources"] = json.RawMessage(bytes.TrimSpace(out.Bytes()))
	cleaned, err := json.Marshal(fields)
	return string(cleaned), err
}

// sourceName is how authors see a source: without the namespace.
func sourceName(name string) string {
	for _, space := range []string{moduleSpace, facadeSpace} {
		if i := strings.Index(name, space+":"); i >= 0 {
			return name[i+len(space)+1:]
		}
	}
	return name
}

// buildError makes one error of esbuild's messages: the first, with its place,
// and up to nine more.
func buildError(messages []api.Message) error {
	if len(messages) == 0 {
		return nil
	}
	slices.SortStableFunc(messages, inSourceOrder)
	first := task.Errorf(task.CodeInvalid, "%s", messages[0].Text).At(whereOf(messages[0]))
	if remedy, ok := messages[0].Detail.(refusal); ok {
		first = first.Fix("%s", remedy.remedy)
	}
	for i, m := range messages[1:] {
		if i == 9 {
			first.Message += "\n... and " + strconv.Itoa(len(messages)-10) + " more errors"
			break
		}
		first.Message += "\n" + whereOf(m) + ": " + m.Text
	}
	return first
}

func inSourceOrder(a, b api.Message) int {
	if a.Location == nil || b.Location == nil {
		return 0
	}
	return cmp.Or(strings.Compare(a.Location.File, b.Location.File), a.Location.Line-b.Location.Line, a.Location.Column-b.Location.Column)
}

func whereOf(m api.Message) string {
	if m.Location == nil {
		return ManifestFile
	}
	return sourceName(m.Location.File) + ":" + strconv.Itoa(m.Location.Line) + ":" + strconv.Itoa(m.Location.Column+1)
}
