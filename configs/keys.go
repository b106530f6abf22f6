package configs

import (
	"reflect"
	"strings"

	"github.com/catena-run/catena/task"
)

// Kind is the type of a key's value.
type Kind string

// The kinds of values.
const (
	KindText     Kind = "text"
	KindList     Kind = "list of texts"
	KindNumber   Kind = "number"
	KindBool     Kind = "true or false"
	KindDuration Kind = "duration"
	KindSize     Kind = "size"
	KindFraction Kind = "number from 0 to 1"
)

// Key describes one setting.
type Key struct {
	Path    string // worker.maxMemory
	Env     string // CATENA_WORKER_MAXMEMORY
	Kind    Kind
	Default string // as it would be written in the environment
	Doc     string
	Secret  string // "", "url" (its password is) or "all"
	Min     string
	Max     string
	Enum    []string
	Common  bool // the masters of a cluster should have the same value
	check   string
	index   []int // of the field in Config
}

// section is an inner node of the schema.
type section struct {
	path string // "" for the root
	doc  string
}

// EnvPrefix starts the name of every environment variable of the configuration.
const EnvPrefix = "CATENA_"

// Keys lists every setting in the order of the schema.
func Keys() []Key {
	keys, _ := describe()
	return keys
}

// describe walks Config once, giving its leaves and its sections.
func describe() ([]Key, []section) {
	var keys []Key
	var sections []section
	defaults := reflect.ValueOf(Default())
	var walk func(t reflect.Type, path string, index []int)
	walk = func(t reflect.Type, path string, index []int) {
		for i := range t.NumField() {
			field := t.Field(i)
			at := append(append([]int(nil), index...), i)
			name := join(path, field.Tag.Get("yaml"))
			kind := kindOf(field.Type)
			if kind == "" {
				sections = append(sections, section{name, field.Tag.Get("doc")})
				walk(field.Type, name, at)
				continue
			}
			keys = append(keys, newKey(name, kind, field, at, defaults.FieldByIndex(at)))
		}
	}
	walk(defaults.Type(), "", nil)
	return keys, sections
}

func newKey(path string, kind Kind, field reflect.StructField, index []int, value reflect.Value) Key {
	return Key{
		Path: path, Env: envName(path), Kind: kind, Default: show(value), Doc: field.Tag.Get("doc"),
		Secret: field.Tag.Get("secret"), Min: field.Tag.Get("min"), Max: field.Tag.Get("max"),
		Common: field.Tag.Get("common") == "true",
		Enum:   strings.Fields(field.Tag.Get("enum")), check: field.Tag.Get("check"), index: index,
	}
}

// kindOf returns "" for a section.
func kindOf(t reflect.Type) Kind {
	switch {
	case t == reflect.TypeFor[task.Duration]():
		return KindDuration
	case t == reflect.TypeFor[Size]():
		return KindSize
	case t.Kind() == reflect.String:
		return KindText
	case t.Kind() == reflect.Slice:
		return KindList
	case t.Kind() == reflect.Int:
		return KindNumber
	case t.Kind() == reflect.Float64:
		return KindFraction
	case t.Kind() == reflect.Bool:
		return KindBool
	}
	return ""
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func envName(path string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}
