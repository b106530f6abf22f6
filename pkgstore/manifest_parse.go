package pkgstore

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/catena-run/catena/task"
)

const maxManifest = 256 << 10

var (
	exportPattern = regexp.MustCompile(`^([^?:\s]+)(?:\?([A-Za-z_$][A-Za-z0-9_$]*))?$`)
	secretPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$`)
	labelPattern  = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
)

// parseManifest reads catena.yaml and returns, beside the manifest, the place
// of each export.
func parseManifest(source []byte) (*Manifest, []string, error) {
	if len(source) > maxManifest {
		return nil, nil, task.Errorf(task.CodeTooLarge, "the manifest has %d bytes; %d are the most", len(source), maxManifest).At(ManifestFile)
	}
	document, err := parseYAML(source)
	if err != nil {
		return nil, nil, notYAML(err)
	}
	if len(document.Content) == 0 {
		return nil, nil, task.Errorf(task.CodeInvalid, "the manifest is empty").At(ManifestFile).Fix("give it at least a name")
	}
	p := manifestParser{manifest: &Manifest{}}
	root := document.Content[0]
	err = eachKey(root, "the manifest", []string{"name", "description", "exports", "permissions", "dependencies"}, p.field)
	if err != nil {
		return nil, nil, err
	}
	if p.manifest.Name == "" {
		return nil, nil, task.Errorf(task.CodeInvalid, "the manifest has no name").At(place(root)).Fix("write name: and the name that others call the package by")
	}
	return p.manifest, p.exports, nil
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

func notYAML(err error) error {
	where, text := ManifestFile, strings.TrimPrefix(err.Error(), "yaml: ")
	if found := yamlLine.FindStringSubmatch(text); found != nil {
		where += ":" + found[1]
		text = strings.Replace(text, found[0], "", 1)
	}
	return task.Errorf(task.CodeInvalid, "not valid YAML: %s", text).At(where).Fix("check the indentation and the quotes of this line")
}

func place(n *yaml.Node) string { return fmt.Sprintf("%s:%d:%d", ManifestFile, n.Line, n.Column) }

type manifestParser struct {
	manifest *Manifest
	exports  []string // where each export stands
}

func (p *manifestParser) field(key string, value *yaml.Node) (err error) {
	m := p.manifest
	switch key {
	case "name":
		if m.Name, err = scalar(value, key); err == nil && !task.ValidName(m.Name) {
			err = task.Errorf(task.CodeInvalid, "%q cannot name a package", m.Name).At(place(value)).
				Fix(`use lower-case letters, digits, ".", "_" and "-", with "/" between words, at most 200 characters`)
		}
	case "description":
		m.Description, err = scalar(value, key)
	case "exports":
		err = eachItem(value, key, p.export)
	case "permissions":
		err = eachKey(value, key, []string{"http", "readonly_http", "secrets", "services", "tasks"}, p.permission)
	case "dependencies":
		err = eachItem(value, key, p.dependency)
	}
	return err
}

func (p *manifestParser) export(text string, at *yaml.Node) error {
	parts := exportPattern.FindStringSubmatch(text)
	if parts == nil {
		return task.Errorf(task.CodeInvalid, "%q is not an export", text).At(place(at)).Fix("write module?function, such as invoice?close")
	}
	function := parts[2]
	if function == "" {
		function = "main"
	}
	full := parts[1] + "?" + function
	if i := slices.Index(p.manifest.Exports, full); i >= 0 {
		return task.Errorf(task.CodeInvalid, "%s is exported twice, first at %s", full, p.exports[i]).At(place(at)).Fix("delete one of them")
	}
	p.manifest.Exports = append(p.manifest.Exports, full)
	p.exports = append(p.exports, place(at))
	return nil
}

func (p *manifestParser) permission(key string, value *yaml.Node) error {
	permissions := &p.manifest.Permissions
	switch key {
	case "http", "readonly_http":
		return eachItem(value, "permissions."+key, func(text string, at *yaml.Node) error {
			host, port, err := splitHost(text)
			if err != nil {
				return task.Errorf(task.CodeInvalid, "%q is not a host: %w", text, err).At(place(at)).
					Fix("write a host without scheme and path, such as api.example.com, localhost:8080 or *.example.com")
			}
			if port != 0 {
				host = net.JoinHostPort(host, strconv.Itoa(port))
			}
			into := &permissions.HTTP
			if key == "readonly_http" {
				into = &permissions.ReadonlyHTTP
			}
			*into = append(*into, host)
			return nil
		})
	case "secrets":
		return eachName(value, key, &permissions.Secrets, secretPattern.MatchString)
	case "services":
		return eachName(value, key, &permissions.Services, task.ValidName)
	default:
		return eachName(value, key, &permissions.Tasks, task.ValidName)
	}
}

func eachName(value *yaml.Node, key string, into *[]string, valid func(string) bool) error {
	return eachItem(value, "permissions."+key, func(text string, at *yaml.Node) error {
		if !valid(text) {
			return task.Errorf(task.CodeInvalid, "%q cannot be a name in permissions.%s", text, key).At(place(at)).
				Fix(`use letters, digits, ".", "_" and "-", with "/" between words`)
		}
		*into = append(*into, text)
		return nil
	})
}

func (p *manifestParser) dependency(text string, at *yaml.Node) error {
	name, want, _ := strings.Cut(text, "@")
	switch {
	case !task.ValidName(name), strings.HasSuffix(text, "@"):
		return task.Errorf(task.CodeInvalid, "%q is not a dependency", text).At(place(at)).
			Fix("write the name of a package, or name@channel, or name@digest")
	case slices.ContainsFunc(p.manifest.Dependencies, func(d Dependency) bool { return d.Name == name }):
		return task.Errorf(task.CodeInvalid, "the dependency %s is there twice", name).At(place(at)).Fix("delete one of them")
	case name == p.manifest.Name:
		return task.Errorf(task.CodeInvalid, "the package depends on itself").At(place(at)).Fix("import its own modules by relative path")
	}
	p.manifest.Dependencies = append(p.manifest.Dependencies, Dependency{Name: name, Want: want})
	return nil
}

func scalar(n *yaml.Node, what string) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", task.Errorf(task.CodeInvalid, "%s must be text", what).At(place(n))
	}
	return n.Value, nil
}

func eachItem(n *yaml.Node, what string, do func(text string, at *yaml.Node) error) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		return task.Errorf(task.CodeInvalid, "%s must be a list", what).At(place(n)).Fix(`write ["..."] or one line with "- ..." for each`)
	}
	for _, item := range n.Content {
		text, err := scalar(item, "an item of "+what)
		if err == nil {
			err = do(text, item)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func eachKey(n *yaml.Node, what string, known []string, do func(key string, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return task.Errorf(task.CodeInvalid, "%s must be a mapping of keys to values", what).At(place(n)).Fix("its keys are %s", strings.Join(known, ", "))
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !slices.Contains(known, key.Value) || key.Kind != yaml.ScalarNode {
			return task.Errorf(task.CodeInvalid, "unknown key %q", key.Value).At(place(key)).
				Fix("%s", task.DidYouMean(key.Value, known, "the keys of "+what+" are "+strings.Join(known, ", ")))
		}
		if line, twice := lines[key.Value]; twice {
			return task.Errorf(task.CodeInvalid, "%s is there twice, first in line %d", key.Value, line).At(place(key)).Fix("delete one of them")
		}
		lines[key.Value] = key.Line
		if err := do(key.Value, value); err != nil {
			return err
		}
	}
	return nil
}

// splitHost reads "host" or "host:port" (port 0: none) and lowers the host.
func splitHost(entry string) (host string, port int, err error) {
	host = strings.ToLower(entry)
	if strings.ContainsAny(host, "/@? ") {
		return "", 0, errors.New("it has more than a host and a port")
	}
	if address, err := netip.ParseAddr(host); err == nil && address.Is6() && address.Zone() == "" {
		return host, 0, nil
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		port, err = strconv.Atoi(host[i+1:])
		if err != nil || port < 1 || port > 65535 {
			return "", 0, errors.New("its port is not a number from 1 to 65535")
		}
		host = host[:i]
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, closed := strings.CutSuffix(inner, "]")
		if address, err := netip.ParseAddr(inner); err != nil || !closed || !address.Is6() || address.Zone() != "" {
			return "", 0, errors.New("what stands in brackets is not an IPv6 address")
		}
		return inner, port, nil
	}
	if host == "*" {
		return host, port, nil
	}
	name := strings.TrimPrefix(host, "*.")
	if len(name) > 253 {
		return "", 0, errors.New("it is longer than 253 characters")
	}
	for label := range strings.SplitSeq(name, ".") {
		if !labelPattern.MatchString(label) {
			return "", 0, fmt.Errorf("%q is not a part of a host name", label)
		}
	}
	return host, port, nil
}
