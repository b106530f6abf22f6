package configs

import (
	"reflect"
	"strings"
)

// Schema returns the JSON Schema (2020-12) of a configuration file.
func Schema() map[string]any {
	keys, sections := describe()
	root := object("Configuration of Catena")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Catena"
	byPath := map[string]map[string]any{"": root}
	for _, s := range sections {
		byPath[s.path] = object(s.doc)
		properties(byPath[parent(s.path)])[lastPart(s.path)] = byPath[s.path]
	}
	defaults := reflect.ValueOf(Default())
	for _, key := range keys {
		properties(byPath[parent(key.Path)])[lastPart(key.Path)] = key.schema(defaults.FieldByIndex(key.index))
	}
	for _, f := range formers {
		section := parent(f.old)
		if byPath[section] == nil {
			byPath[section] = object("Former names.")
			properties(byPath[parent(section)])[lastPart(section)] = byPath[section]
		}
		properties(byPath[section])[lastPart(f.old)] = f.schema()
	}
	return root
}

func object(doc string) map[string]any {
	// null: a section of which nothing is set.
	return map[string]any{
		"type": []string{"object", "null"}, "description": doc,
		"additionalProperties": false, "properties": map[string]any{},
	}
}

func properties(section map[string]any) map[string]any {
	return section["properties"].(map[string]any) //nolint:forcetypeassert // made by object
}

func (k Key) schema(value reflect.Value) map[string]any {
	s := map[string]any{"description": k.Doc, "default": value.Interface()}
	switch k.Kind {
	case KindText:
		s["type"] = "string"
	case KindList:
		s["type"], s["items"] = "array", map[string]any{"type": "string"}
	case KindNumber:
		s["type"] = "integer"
		k.bounds(s)
	case KindFraction:
		s["type"], s["minimum"], s["maximum"] = "number", 0, 1
	case KindBool:
		s["type"] = "boolean"
	case KindDuration:
		s["default"] = show(value)
		s["type"], s["pattern"] = "string", `^\+?([0-9]*\.?[0-9]+(ns|us|µs|ms|s|m|h|d))+$|^0$`
	case KindSize:
		s["default"] = show(value)
		s["type"], s["pattern"] = []string{"string", "integer"}, `^[0-9]*\.?[0-9]* ?([KMGT]i?B|B)?$`
	}
	if len(k.Enum) > 0 {
		s["enum"] = k.Enum
	}
	return s
}

func (k Key) bounds(s map[string]any) {
	if k.Min != "" {
		s["minimum"] = bound(k.Kind, k.Min)
	}
	if k.Max != "" {
		s["maximum"] = bound(k.Kind, k.Max)
	}
}

// put sets the leaf at a dotted path, making the maps on the way.
func put(root map[string]any, path string, leaf any) {
	for {
		name, rest, more := strings.Cut(path, ".")
		if !more {
			root[name] = leaf
			return
		}
		next, ok := root[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			root[name] = next
		}
		root, path = next, rest
	}
}
