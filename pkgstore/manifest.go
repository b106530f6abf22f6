package pkgstore

import (
	"slices"
	"strings"

	"github.com/catena-run/catena/task"
)

// Manifest is what catena.yaml says about a package.
type Manifest struct {
	Name         string       `json:"name"`
	Description  string       `json:"description,omitempty"`
	Exports      []string     `json:"exports,omitempty"` // module?function: what others may call and import
	Permissions  Permissions  `json:"permissions,omitzero"`
	Dependencies []Dependency `json:"dependencies,omitempty"`
}

// Permissions list what the code may reach. An empty list is nothing.
type Permissions struct {
	HTTP         []string `json:"http,omitempty"`          // hosts: see AllowsHost
	ReadonlyHTTP []string `json:"readonly_http,omitempty"` // of them, those that a dry run may really ask with GET and HEAD
	Secrets      []string `json:"secrets,omitempty"`       // names of secrets
	Services     []string `json:"services,omitempty"`      // names of services
	Tasks        []string `json:"tasks,omitempty"`         // names of tasks
}

// Dependency is another package whose modules are bundled in. In a stored
// version Digest says which version that was.
type Dependency struct {
	Name   string `json:"name"`
	Want   string `json:"want,omitempty"` // channel or digest; "": the channel live
	Digest string `json:"digest,omitempty"`
}

// Manifest parses catena.yaml and checks that the exported modules are there.
func (c *Content) Manifest() (*Manifest, error) {
	source, ok := c.File(ManifestFile)
	if !ok {
		return nil, task.Errorf(task.CodeInvalid, "the package has no %s", ManifestFile).At(ManifestFile)
	}
	manifest, exports, err := parseManifest(source)
	if err != nil {
		return nil, err
	}
	modules, err := c.modules()
	if err != nil {
		return nil, err
	}
	for i, export := range manifest.Exports {
		module, _, _ := strings.Cut(export, "?")
		if _, ok := modules[module]; !ok {
			names := sortedKeys(modules)
			return nil, task.Errorf(task.CodeInvalid, "exports %s, but there is no module %s", export, module).At(exports[i]).
				Fix("%s", task.DidYouMean(module, names, "add the file "+module+".ts"))
		}
	}
	return manifest, nil
}

// Exported reports whether others may call the function of the module.
func (m *Manifest) Exported(module, function string) bool {
	if function == "" {
		function = "main"
	}
	return slices.Contains(m.Exports, module+"?"+function)
}

// exportsOf lists the names that the manifest exports from a module.
func (m *Manifest) exportsOf(module string) []string {
	var names []string
	for _, export := range m.Exports {
		if of, name, _ := strings.Cut(export, "?"); of == module {
			names = append(names, name)
		}
	}
	return names
}

// modules maps the name of each module, its path without extension, to its file.
func (c *Content) modules() (map[string]string, error) {
	modules := map[string]string{}
	for _, f := range c.files {
		name, ok := moduleName(f.path)
		if !ok {
			continue
		}
		if other, there := modules[name]; there {
			return nil, task.Errorf(task.CodeInvalid, "%s and %s are both the module %s", other, f.path, name).At(f.path).Fix("rename one of them")
		}
		modules[name] = f.path
	}
	return modules, nil
}

// moduleName tells modules from other files. Type declarations are not modules.
func moduleName(path string) (string, bool) {
	if strings.HasSuffix(path, ".d.ts") {
		return "", false
	}
	for _, extension := range moduleExtensions() {
		if name, ok := strings.CutSuffix(path, extension); ok && name != "" && !strings.HasSuffix(name, "/") {
			return name, true
		}
	}
	return "", false
}

func moduleExtensions() []string { return []string{".ts", ".mjs", ".js"} }

// AllowsHost reports whether the code may open the host and port over HTTP.
// An entry is a host (any port) or host:port; "*.example.com" stands for every
// host below example.com and "*" for any host.
func (p Permissions) AllowsHost(host string, port int) bool { return listsHost(p.HTTP, host, port) }

// AllowsReadonlyHost reports whether a dry run may read from the host and port.
func (p Permissions) AllowsReadonlyHost(host string, port int) bool {
	return p.AllowsHost(host, port) && listsHost(p.ReadonlyHTTP, host, port)
}

// Lists returns the permissions by the names that the manifest gives them.
func (p Permissions) Lists() map[string][]string {
	lists := map[string][]string{}
	for name, list := range map[string][]string{
		"http": p.HTTP, "readonly_http": p.ReadonlyHTTP, "secrets": p.Secrets, "services": p.Services, "tasks": p.Tasks,
	} {
		if len(list) > 0 {
			lists[name] = list
		}
	}
	return lists
}

func listsHost(entries []string, host string, port int) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return slices.ContainsFunc(entries, func(entry string) bool {
		allowed, allowedPort, err := splitHost(entry)
		switch {
		case err != nil, allowedPort != 0 && allowedPort != port:
			return false
		case allowed == "*":
			return true
		case strings.HasPrefix(allowed, "*."):
			return strings.HasSuffix(host, allowed[1:]) && len(host) > len(allowed)-1
		}
		return host == allowed
	})
}
