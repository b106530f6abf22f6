package configs

import (
	"errors"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"

	"github.com/catena-run/catena/task"
)

// Source says where a configuration comes from. Later fields win over earlier.
type Source struct {
	File    string   // path of a YAML file; "": none
	Text    []byte   // its content; nil: File is read
	Environ []string // as os.Environ gives it
	Set     []string // path=value, as --set gives it
}

// Load lays the sources over the defaults and validates the result. Its error
// joins every problem found, each with its place.
func Load(src Source) (Config, error) {
	c, _, err := load(src)
	return c, err
}

func load(src Source) (c Config, notice string, err error) {
	l := &loader{k: koanf.New("."), origins: map[string]string{}, former: map[string]string{}}
	l.keys, l.sections = describe()
	if src.File != "" && src.Text == nil {
		text, err := os.ReadFile(src.File)
		if err != nil {
			return Config{}, "", unreadable(src.File, err)
		}
		src.Text = text
	}
	if !l.file(src.File, src.Text) {
		return Config{}, "", errors.Join(l.problems...)
	}
	l.environment(src.Environ)
	l.flags(src.Set)
	former, notice := l.translate()
	c, err = l.finish(former)
	return c, notice, err
}

func unreadable(file string, err error) error {
	code := task.CodeInternal
	if errors.Is(err, os.ErrNotExist) {
		code = task.CodeNotFound
	}
	return task.Errorf(code, "cannot read the configuration: %w", err).At(file).Fix("check the path given with --config")
}

// loader is one Load.
type loader struct {
	k        *koanf.Koanf
	keys     []Key
	sections []section
	origins  map[string]string // path to the place that gave its value
	former   map[string]string // path to the former name that the value was given under
	problems []error
}

func (l *loader) problem(where, remedy, format string, args ...any) {
	l.problems = append(l.problems, task.Errorf(task.CodeInvalid, format, args...).At(where).Fix("%s", remedy))
}

func (l *loader) key(path string) (Key, bool) {
	for _, key := range l.keys {
		if key.Path == path {
			return key, true
		}
	}
	return Key{}, false
}

func (l *loader) isSection(path string) bool {
	for _, s := range l.sections {
		if s.path == path {
			return true
		}
	}
	return false
}

func (l *loader) known() []string {
	known := make([]string, 0, len(l.keys)+len(l.sections))
	for _, key := range l.keys {
		known = append(known, key.Path)
	}
	for _, s := range l.sections {
		known = append(known, s.path)
	}
	return known
}

func (l *loader) unknownKey(where, path string) {
	remedy := "`catena config schema` lists the keys"
	if near := nearestKey(path, append(l.known(), formerPaths()...)); near != "" {
		remedy = "did you mean " + near + "?"
		if f, is := formerOf(near); is {
			remedy = "did you mean " + near + ", which is " + f.path + " here?"
		}
	}
	l.problem(where, remedy, "unknown key %s", path)
}

// file reports false when the text is no YAML mapping, so that nothing more
// can be said.
func (l *loader) file(name string, text []byte) bool {
	if len(text) == 0 {
		return true
	}
	if name == "" {
		name = "configuration"
	}
	root, ok := l.parseFile(name, text)
	if !ok {
		return false
	}
	if root == nil {
		return true
	}
	before := len(l.problems)
	l.walk(name, "", root)
	if err := l.k.Load(rawbytes.Provider(text), yaml.Parser()); err != nil {
		if len(l.problems) == before {
			l.problem(name, "correct the YAML", "%v", err)
		}
		return false
	}
	return true
}

// Variables of the prefix that are no configuration: those the client reads
// and those container platforms inject for a service that is named catena.
var (
	clientVariables   = regexp.MustCompile(`^CATENA_(CONFIG|SERVER|TOKEN)$`)
	platformVariables = regexp.MustCompile(`^CATENA_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)$`)
	platformPort      = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

// ReservedVariable reports whether a variable that starts with CATENA_ means
// something other than a setting.
func ReservedVariable(name, value string) bool {
	return clientVariables.MatchString(name) || platformVariables.MatchString(name) ||
		strings.HasPrefix(name, "CATENA_TEST_") || strings.HasPrefix(name, "CATENA_INTERNAL_") ||
		(strings.HasSuffix(name, "_PORT") && platformPort.MatchString(value))
}

func (l *loader) environment(environ []string) {
	names := make([]string, 0, len(l.keys))
	paths := make(map[string]string, len(l.keys))
	for _, key := range l.keys {
		names = append(names, key.Env)
		paths[key.Env] = key.Path
	}
	for _, f := range formers {
		names = append(names, envName(f.old))
		paths[envName(f.old)] = f.old
	}
	provider := env.Provider(".", env.Opt{
		Prefix:      EnvPrefix,
		EnvironFunc: func() []string { return append(aliases(environ), environ...) },
		TransformFunc: func(name, value string) (string, any) {
			path, ok := paths[name]
			if !ok {
				l.unknownVariable(name, value, names)
				return "", nil
			}
			l.origins[path] = name
			return path, value
		},
	})
	if err := l.k.Load(provider, nil); err != nil {
		l.problem("environment", "check the CATENA_ variables", "%v", err)
	}
}

func (l *loader) unknownVariable(name, value string, names []string) {
	if ReservedVariable(name, value) {
		return
	}
	remedy := "unset it, or see `catena config schema`"
	if near := task.Nearest(name, names); near != "" {
		remedy = "did you mean " + near + "?"
	}
	l.problem("environment", remedy, "unknown variable %s", name)
}

// flagOrigin starts the place of a value that a flag gave.
const flagOrigin = "--set "

func (l *loader) flags(set []string) {
	values := map[string]any{}
	for _, assignment := range set {
		path, value, ok := strings.Cut(assignment, "=")
		where := flagOrigin + path
		_, known := l.key(path)
		_, old := formerOf(path)
		if !ok || !known && !old {
			switch {
			case !ok:
				l.problem(where, "write --set path=value, such as --set worker.slots=8", "no value is given")
			case l.isSection(path):
				l.problem(where, "name one of its keys, such as "+l.firstKeyIn(path), "%s is a section", path)
			case formerSection(path):
				l.problem(where, "name one of its keys, such as "+firstFormerIn(path)+"=true", "%s is a section", path)
			default:
				l.unknownKey(where, path)
			}
			continue
		}
		values[path] = value
		l.origins[path] = where
	}
	if err := l.k.Load(confmap.Provider(values, "."), nil); err != nil {
		l.problem("--set", "check the values", "%v", err)
	}
}

// mapping shows a section with one of its keys.
func (l *loader) mapping(path string) string {
	if text := formerIn(path); text != "" && !l.isSection(path) {
		return text
	}
	key, _ := l.key(l.firstKeyIn(path))
	text := key.Default
	if text == "" || key.Kind == KindText || key.Kind == KindList {
		text = strconv.Quote(text)
	}
	if key.Kind == KindList {
		text = "[" + text + "]"
	}
	rest := strings.Split(strings.TrimPrefix(key.Path, path+"."), ".")
	return lastPart(path) + ": {" + strings.Join(rest, ": {") + ": " + text + strings.Repeat("}", len(rest))
}

func (l *loader) firstKeyIn(path string) string {
	for _, key := range l.keys {
		if strings.HasPrefix(key.Path, path+".") {
			return key.Path
		}
	}
	return path
}

// finish decodes the merged layers and adds what Validate finds. A value that
// could not be read keeps its default there, so that it is reported once.
// former holds the values that were given under former names.
func (l *loader) finish(former map[string]any) (Config, error) {
	c := Default()
	value := reflect.ValueOf(&c).Elem()
	for _, key := range l.keys {
		raw := l.k.Get(key.Path)
		if value, given := former[key.Path]; given {
			raw = value
		}
		if raw == nil {
			continue
		}
		if err := assign(value.FieldByIndex(key.index), key.Kind, raw); err != nil {
			l.problems = append(l.problems, l.place(key, err))
		}
	}
	for _, p := range c.problems() {
		key, _ := l.key(p.Where)
		l.problems = append(l.problems, l.place(key, p))
	}
	return c, errors.Join(l.problems...)
}

// place names the origin and the path of a bad value, and keeps a secret out
// of the message.
func (l *loader) place(key Key, err error) error {
	var e *task.Error
	if !errors.As(err, &e) {
		e = task.Errorf(task.CodeInvalid, "%w", err)
	}
	if key.Secret != "" && e.Where == "" {
		e = task.Errorf(task.CodeInvalid, "the value is not text").Fix("put it in quotes")
	}
	where := key.Path
	if old := l.former[key.Path]; old != "" {
		where = old + " (" + key.Path + ")"
	}
	switch origin := l.origins[key.Path]; {
	case strings.HasPrefix(origin, flagOrigin):
		where = flagOrigin + where
	case origin != "":
		where = origin + ": " + where
	}
	return e.At(where)
}
