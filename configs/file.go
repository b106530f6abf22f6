package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	yamlv3 "gopkg.in/yaml.v3"
)

// yamlLine finds the line in the text of a YAML error.
var yamlLine = regexp.MustCompile(`^line (\d+): `)

// parseFile returns the root mapping of the only document, nil for an empty one.
func (l *loader) parseFile(name string, text []byte) (*yamlv3.Node, bool) {
	decoder := yamlv3.NewDecoder(bytes.NewReader(text))
	var document, another yamlv3.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil, true
	}
	if err != nil {
		l.syntax(name, err)
		return nil, false
	}
	if err := decoder.Decode(&another); !errors.Is(err, io.EOF) {
		l.problem(name, "keep one document per file", "the file holds more than one YAML document")
		return nil, false
	}
	root := document.Content[0]
	if root.Kind == yamlv3.ScalarNode && root.Tag == "!!null" {
		return nil, true
	}
	if root.Kind != yamlv3.MappingNode {
		l.problem(at(name, root), "start it with a section, such as worker:", "the file is not a mapping of sections")
		return nil, false
	}
	return root, true
}

func (l *loader) syntax(name string, err error) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		name += ":" + m[1]
		message = message[len(m[0]):]
	}
	l.problem(name, "correct the YAML", "%s", message)
}

// walk checks the keys of one section and remembers where each value stands.
func (l *loader) walk(file, path string, node *yamlv3.Node) {
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		keyNode, value := node.Content[i], node.Content[i+1]
		if keyNode.Kind != yamlv3.ScalarNode {
			l.problem(at(file, keyNode), "use plain names as keys", "a key is not text")
			continue
		}
		name := join(path, keyNode.Value)
		if line, twice := seen[keyNode.Value]; twice {
			l.problem(at(file, keyNode), "remove one of them", "key %s is already set in line %d", name, line)
		}
		seen[keyNode.Value] = keyNode.Line
		l.entry(file, name, path, keyNode, value)
	}
}

func (l *loader) entry(file, name, path string, keyNode, value *yamlv3.Node) {
	if value.Kind == yamlv3.AliasNode {
		value = value.Alias
	}
	_, isKey := l.key(name)
	_, isFormer := formerOf(name)
	switch {
	case isFormer && !strings.Contains(keyNode.Value, "."):
		l.origins[name] = at(file, keyNode)
	case !isKey && formerSection(name) && !l.isSection(name) && value.Kind == yamlv3.MappingNode:
		l.walk(file, name, value)
	case !isKey && formerSection(name) && !l.isSection(name):
		l.problem(at(file, keyNode), "write "+l.mapping(name), "%s is a section, not a value", name)
	case strings.Contains(keyNode.Value, ".") || (!isKey && !l.isSection(name)):
		l.unknownKey(at(file, keyNode), join(path, keyNode.Value))
	case isKey:
		l.origins[name] = at(file, keyNode)
	case value.Kind == yamlv3.MappingNode:
		l.walk(file, name, value)
	case value.Kind == yamlv3.ScalarNode && value.Tag == "!!null":
	default:
		l.problem(at(file, keyNode), "write its keys below it, such as "+l.mapping(name), "%s is a section, not a value", name)
	}
}

func at(file string, node *yamlv3.Node) string { return fmt.Sprintf("%s:%d", file, node.Line) }
