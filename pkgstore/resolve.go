package pkgstore

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/evanw/esbuild/pkg/api"

	"github.com/catena-run/catena/task"
)

// refusal is the reason why an import leads nowhere.
type refusal struct{ text, remedy string }

func (r refusal) Error() string { return r.text }

func (b *bundler) plugin(build api.PluginBuild) {
	build.OnResolve(api.OnResolveOptions{Filter: ".*"}, b.onResolve)
	build.OnLoad(api.OnLoadOptions{Filter: ".*", Namespace: moduleSpace}, b.onLoad)
	build.OnLoad(api.OnLoadOptions{Filter: ".*", Namespace: facadeSpace}, b.onLoadFacade)
	build.OnLoad(api.OnLoadOptions{Filter: ".*", Namespace: hostSpace}, onLoadHost)
}

func (b *bundler) onResolve(args api.OnResolveArgs) (api.OnResolveResult, error) {
	result, err := b.resolve(args)
	if why, ok := errors.AsType[refusal](err); ok {
		return api.OnResolveResult{Errors: []api.Message{{Text: why.text, Detail: why}}}, nil
	}
	return result, err
}

func (b *bundler) resolve(args api.OnResolveArgs) (api.OnResolveResult, error) {
	inside := func(source string) (api.OnResolveResult, error) {
		return api.OnResolveResult{Path: source, Namespace: moduleSpace}, nil
	}
	switch {
	case args.Kind == api.ResolveEntryPoint:
		return inside(strings.TrimPrefix(args.Path, "entry:"))
	case args.Namespace == facadeSpace:
		return inside(args.Path)
	case args.Path == "catena" && b.examining:
		return api.OnResolveResult{Path: "catena", Namespace: hostSpace}, nil
	case args.Path == "catena":
		return api.OnResolveResult{Path: "catena", External: true}, nil
	case strings.HasPrefix(args.Path, "pkg:"):
		return b.resolvePackage(args)
	case strings.HasPrefix(args.Path, "./"), strings.HasPrefix(args.Path, "../"), args.Path == ".", args.Path == "..":
		source, err := b.resolveRelative(args.Importer, args.Path)
		if err != nil {
			return api.OnResolveResult{}, err
		}
		return inside(source)
	}
	return api.OnResolveResult{}, refusal{
		fmt.Sprintf("%q is not part of the package", args.Path),
		`import "./file", "pkg:name/module" or "catena"; copy other libraries into the folder`,
	}
}

// resolveRelative finds a file of the importer's own package.
func (b *bundler) resolveRelative(importer, target string) (string, error) {
	owner, prefix, file := b.owner(importer)
	joined := path.Join(path.Dir(file), target)
	if joined == ".." || strings.HasPrefix(joined, "../") {
		return "", refusal{fmt.Sprintf("%q lies outside the package", target), "copy the file into the package folder"}
	}
	for _, candidate := range candidates(joined, target) {
		if _, ok := owner.content.File(candidate); !ok {
			continue
		}
		if _, module := moduleName(candidate); !module && !strings.HasSuffix(candidate, ".json") {
			return "", refusal{fmt.Sprintf("%q is neither a module nor JSON", target), "import .ts, .js, .mjs or .json files"}
		}
		return prefix + candidate, nil
	}
	return "", refusal{fmt.Sprintf("there is no file for %q", target), task.DidYouMean(joined, sortedKeys(owner.modules), "add "+joined+".ts, or correct the path")}
}

// candidates are the files that an import may mean, in order: the file itself,
// the TypeScript that "x.js" was written as, the file with an extension, the
// index of a folder.
func candidates(joined, target string) []string {
	var list []string
	if !strings.HasSuffix(target, "/") {
		list = append(list, joined)
		if name, ok := strings.CutSuffix(joined, ".js"); ok {
			list = append(list, name+".ts")
		}
		for _, extension := range append(moduleExtensions(), ".json") {
			list = append(list, joined+extension)
		}
	}
	for _, extension := range moduleExtensions() {
		list = append(list, path.Join(joined, "index"+extension))
	}
	return list
}

// owner tells the package of a source, the prefix of its other sources and
// the path in it. Sources of other packages are named pkg:NAME@VERSION/FILE.
func (b *bundler) owner(source string) (owner *imported, prefix, file string) {
	if !strings.HasPrefix(source, "pkg:") {
		return b.own, "", source
	}
	name, rest, _ := strings.Cut(source, "@")
	version, file, _ := strings.Cut(rest, "/")
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.packages["source "+name+"@"+version], name + "@" + version + "/", file
}

// resolvePackage resolves pkg:name/module to a facade that passes on what the
// package exports of the module. Names may hold slashes, so every way to cut
// name from module is tried; pkg:name:module leaves no doubt.
func (b *bundler) resolvePackage(args api.OnResolveArgs) (api.OnResolveResult, error) {
	importer, _, _ := b.owner(args.Importer)
	var found []string
	notFound := refusal{
		fmt.Sprintf("no package has the module that %q names", args.Path),
		"push that package first, or correct the name: pkg:name/module",
	}
	for _, cut := range cuts(strings.TrimPrefix(args.Path, "pkg:")) {
		name, module := cut[0], cut[1]
		if name == b.own.manifest.Name {
			return api.OnResolveResult{}, refusal{fmt.Sprintf("%q is this package itself", args.Path), "import its own modules by relative path"}
		}
		other, err := b.other(name, wanted(importer, name))
		if task.CodeOf(err) == task.CodeNotFound {
			continue
		}
		if err != nil {
			return api.OnResolveResult{}, err
		}
		if len(other.manifest.exportsOf(module)) == 0 {
			notFound = refusal{
				fmt.Sprintf("package %s exports nothing of a module %s", name, module),
				"its exports are " + orNone(other.manifest.Exports),
			}
			continue
		}
		found = append(found, sourcePrefix(other)+other.modules[module])
		if importer == b.own {
			b.record(name, other)
		}
	}
	switch len(found) {
	case 0:
		return api.OnResolveResult{}, notFound
	case 1:
		return api.OnResolveResult{Path: found[0], Namespace: facadeSpace}, nil
	}
	return api.OnResolveResult{}, refusal{fmt.Sprintf("%q fits more than one package", args.Path), "write pkg:name:module"}
}

// record notes which version of a dependency was used.
func (b *bundler) record(name string, p *imported) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used[name] = Dependency{Name: name, Want: wantedBy(b.own.manifest, name).Want, Digest: p.content.Digest()}
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// wanted is the version of another package that the importer asks for.
func wanted(importer *imported, name string) string {
	d := wantedBy(importer.manifest, name)
	if d.Digest != "" {
		return d.Digest // recorded when the importer was pushed
	}
	return d.Want
}

func wantedBy(manifest *Manifest, name string) Dependency {
	for _, d := range manifest.Dependencies {
		if d.Name == name {
			return d
		}
	}
	return Dependency{}
}

func cuts(text string) [][2]string {
	if name, module, ok := strings.Cut(text, ":"); ok {
		return [][2]string{{name, module}}
	}
	var list [][2]string
	for i, r := range text {
		if r == '/' {
			list = append(list, [2]string{text[:i], text[i+1:]})
		}
	}
	return list
}

func sourcePrefix(p *imported) string {
	return "pkg:" + p.manifest.Name + "@" + Short(p.content.Digest()) + "/"
}

// other loads another package, once per version asked for.
func (b *bundler) other(name, want string) (*imported, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := "want " + name + "@" + want
	if p, ok := b.packages[key]; ok {
		if p == nil {
			return nil, task.Errorf(task.CodeNotFound, "package %s is not there", name)
		}
		return p, nil
	}
	if !task.ValidName(name) {
		return nil, task.Errorf(task.CodeNotFound, "%q cannot name a package", name)
	}
	p, err := b.library.find(b.ctx, name, want)
	if task.CodeOf(err) == task.CodeNotFound {
		b.packages[key] = nil
		return nil, err
	}
	if err != nil {
		b.fatal = err
		return nil, err
	}
	if p.modules, err = p.content.modules(); err != nil {
		return nil, err
	}
	b.packages[key] = p
	b.packages["source pkg:"+name+"@"+Short(p.content.Digest())] = p
	return p, nil
}

func (b *bundler) onLoad(args api.OnLoadArgs) (api.OnLoadResult, error) {
	owner, _, file := b.owner(args.Path)
	data, ok := owner.content.File(file)
	if !ok {
		return api.OnLoadResult{}, fmt.Errorf("there is no file %s", file)
	}
	if err := b.count(args.Path, len(data)); err != nil {
		return api.OnLoadResult{}, err
	}
	text := string(data)
	if strings.HasPrefix(text, "#!") {
		text = "//" + text[2:] // a shebang means nothing here; positions stay
	}
	loader := api.LoaderJS
	switch path.Ext(file) {
	case ".ts":
		loader = api.LoaderTS
	case ".json":
		loader = api.LoaderJSON
	}
	if loader != api.LoaderJSON {
		if line := tooDeep(text); line > 0 {
			where := &api.Location{File: args.Path, Line: line}
			return api.OnLoadResult{Errors: []api.Message{{
				Text: "expressions are nested too deeply", Location: where,
				Detail: refusal{remedy: "keep large data in a JSON file and import it"},
			}}}, nil
		}
	}
	return api.OnLoadResult{Contents: &text, Loader: loader}, nil
}

// count bounds the sources of one push, those of other packages included.
func (b *bundler) count(source string, size int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, seen := b.loaded[source]; !seen {
		b.loaded[source] = size
		b.total += int64(size)
	}
	if b.total > b.limit {
		b.fatal = b.tooMuch(b.total)
		return b.fatal
	}
	return nil
}

func (b *bundler) onLoadFacade(args api.OnLoadArgs) (api.OnLoadResult, error) {
	owner, prefix, file := b.owner(args.Path)
	module, _ := moduleName(file)
	text := "export {" + strings.Join(owner.manifest.exportsOf(module), ", ") + "} from " + fmt.Sprintf("%q", prefix+file) + "\n"
	return api.OnLoadResult{Contents: &text, Loader: api.LoaderJS}, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
