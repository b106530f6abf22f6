package chain

import (
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/catena-run/catena/task"
)

// maxDepth bounds how deep values may nest in a source text. An item takes
// three levels at most, so maxItemDepth is reached first.
const maxDepth = 4000

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindText
	kindList
	kindObject
)

var kindNames = [...]string{"null", "boolean", "number", "string", "list", "object"}

func (k kind) String() string { return kindNames[k] }

// article returns k's name for the middle of a sentence.
func (k kind) article() string {
	switch k {
	case kindNull:
		return "null"
	case kindObject:
		return "an object"
	}
	return "a " + k.String()
}

// source is a value of a YAML or JSON text that knows where it stands.
type source struct {
	kind  kind
	text  string // of a scalar; a number is in JSON's spelling
	keys  []*source
	items []*source // elements, or the values of keys
	line  int
	col   int
	inset int // columns from col to the first character of text; -1: positions within are unknown
}

// get returns the value of a key of an object, or nil.
func (s *source) get(key string) *source {
	for i, k := range s.keys {
		if k.text == key {
			return s.items[i]
		}
	}
	return nil
}

// file names a source text in errors.
type file string

func (f file) errorf(s *source, format string, args ...any) *task.Error {
	return f.at(s.line, s.col, format, args...)
}

func (f file) at(line, col int, format string, args ...any) *task.Error {
	return task.Errorf(task.CodeInvalid, format, args...).At(f.placeAt(line, col))
}

func (f file) place(s *source) string { return f.placeAt(s.line, s.col) }

func (f file) placeAt(line, col int) string {
	name := string(f)
	if name == "" {
		name = "chain"
	}
	return fmt.Sprintf("%s:%d:%d", name, line, col)
}

// readOne reads a text that holds one value.
func (f file) readOne(text []byte) (*source, error) {
	docs, err := f.read(text)
	switch {
	case err != nil:
		return nil, err
	case len(docs) == 0:
		return nil, f.at(1, 1, "the text is empty").Fix("write a list of items")
	case len(docs) > 1:
		return nil, f.errorf(docs[1], "a second document begins here").Fix("write one chain per file")
	}
	return docs[0], nil
}

// read reads all documents of a text. JSON goes through a reader of its own:
// it is what workers parse, and YAML's is many times slower.
func (f file) read(text []byte) ([]*source, error) {
	if root, ok := readJSON(text); ok {
		if err := f.check(root, 0); err != nil {
			return nil, err
		}
		return []*source{root}, nil
	}
	if strings.HasSuffix(string(f), ".json") {
		return nil, f.jsonError(text)
	}
	return f.readYAML(text)
}

// check refuses what both readers let pass: duplicate keys and too deep nesting.
func (f file) check(s *source, depth int) error {
	if depth > maxDepth {
		return f.errorf(s, "values nest deeper than %d levels", maxDepth)
	}
	if err := f.checkKeys(s); err != nil {
		return err
	}
	for _, item := range s.items {
		if err := f.check(item, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (f file) checkKeys(s *source) error {
	if len(s.keys) < 2 {
		return nil
	}
	seen := make(map[string]*source, len(s.keys))
	for _, key := range s.keys {
		if first := seen[key.text]; first != nil {
			return f.errorf(key, "key %q is there twice", key.text).Fix("the first is on line %d", first.line)
		}
		seen[key.text] = key
	}
	return nil
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

func (f file) readYAML(text []byte) (docs []*source, err error) {
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, f.yamlError(text, err)
		}
		if len(node.Content) != 1 || emptyDocument(node.Content[0]) {
			continue
		}
		conv := yamlReader{file: f}
		root, err := conv.value(node.Content[0], 0)
		if err != nil {
			return nil, err
		}
		docs = append(docs, root)
	}
}

func emptyDocument(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Value == ""
}

func (f file) yamlError(text []byte, err error) error {
	message, line := strings.TrimPrefix(err.Error(), "yaml: "), 1
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = strings.Replace(message, m[0], "", 1)
	}
	col := 1
	if lines := strings.Split(string(text), "\n"); line >= 1 && line <= len(lines) {
		at := lines[line-1]
		col += len(at) - len(strings.TrimLeft(at, " \t"))
	}
	problem := f.at(line, col, "not readable as YAML: %s", message)
	if strings.Contains(message, "did not find expected ','") {
		return problem.Fix("between brackets a text with a question mark, such as package:module?function, needs quotes")
	}
	return problem
}

// yamlReader converts nodes. It counts them, so that aliases cannot make a
// small text large.
type yamlReader struct {
	file  file
	nodes int
}

const maxAliased = 2_000_000

func (r *yamlReader) value(n *yaml.Node, depth int) (*source, error) {
	s := &source{line: n.Line, col: n.Column}
	if r.nodes++; r.nodes > maxAliased || depth > maxDepth {
		return nil, r.file.errorf(s, "values nest deeper than %d levels or are more than %d", maxDepth, maxAliased)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return r.value(n.Alias, depth+1)
	case yaml.SequenceNode:
		s.kind = kindList
		s.items = make([]*source, 0, len(n.Content))
		return s, r.elements(s, n.Content, depth)
	case yaml.MappingNode:
		s.kind = kindObject
		return s, r.members(s, n.Content, depth)
	}
	return s, r.scalar(s, n)
}

func (r *yamlReader) elements(s *source, nodes []*yaml.Node, depth int) error {
	for _, n := range nodes {
		item, err := r.value(n, depth+1)
		if err != nil {
			return err
		}
		s.items = append(s.items, item)
	}
	return nil
}

func (r *yamlReader) members(s *source, nodes []*yaml.Node, depth int) error {
	for i := 0; i+1 < len(nodes); i += 2 {
		key := nodes[i]
		at := &source{kind: kindText, text: key.Value, line: key.Line, col: key.Column}
		if key.Kind != yaml.ScalarNode {
			return r.file.errorf(at, "a key must be text")
		}
		if key.Tag == "!!merge" {
			return r.file.errorf(at, "merge keys are not supported").Fix("write the fields out")
		}
		s.keys = append(s.keys, at)
		if err := r.elements(s, nodes[i+1:i+2], depth); err != nil {
			return err
		}
	}
	return r.file.checkKeys(s)
}

func (r *yamlReader) scalar(s *source, n *yaml.Node) error {
	s.text = n.Value
	switch n.Style {
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		s.inset = 1
	case yaml.LiteralStyle, yaml.FoldedStyle:
		s.inset = -1
	}
	switch n.Tag {
	case "!!null":
		s.kind = kindNull
	case "!!bool":
		s.kind = kindBool
		s.text = strings.ToLower(n.Value)
	case "!!int", "!!float":
		s.kind = kindNumber
		return r.number(s, n)
	case "!!str", "!!timestamp", "!!binary":
		s.kind = kindText
	default:
		return r.file.errorf(s, "tag %s is not supported", n.Tag)
	}
	return nil
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// number brings YAML's spellings (0x1f, 1_000, .5) into JSON's.
func (r *yamlReader) number(s *source, n *yaml.Node) error {
	if jsonNumber.MatchString(s.text) {
		return nil
	}
	var value any
	if err := n.Decode(&value); err != nil {
		return r.file.errorf(s, "%s is not a number", n.Value)
	}
	switch v := value.(type) {
	case int, int64, uint64:
		s.text = fmt.Sprint(v)
		return nil
	case float64:
		if !math.IsInf(v, 0) && !math.IsNaN(v) {
			s.text = strconv.FormatFloat(v, 'g', -1, 64)
			return nil
		}
	}
	return r.file.errorf(s, "%s is not a number that JSON knows", n.Value)
}
