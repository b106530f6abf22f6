package pkgstore

import (
	"bytes"
	"strings"

	"gopkg.in/yaml.v3"
)

// yaml.v3 takes every "?" within [...] for an indicator, as YAML 1.1 did, and
// so cannot read exports: [invoice?close]. A "?" within a word is always text,
// so it is replaced for the time of the parsing.
const questionStand = '\uE000' // of the private use area; one column wide, as "?" is

// parseYAML reads one document.
func parseYAML(source []byte) (*yaml.Node, error) {
	var document yaml.Node
	if bytes.ContainsRune(source, questionStand) || bytes.IndexByte(source, '?') < 0 {
		return &document, yaml.Unmarshal(source, &document)
	}
	var out bytes.Buffer
	for i, c := range source {
		if c == '?' && i > 0 && i+1 < len(source) && isWord(source[i-1]) && isWord(source[i+1]) {
			out.WriteRune(questionStand)
			continue
		}
		out.WriteByte(c)
	}
	err := yaml.Unmarshal(out.Bytes(), &document)
	restore(&document)
	return &document, err
}

func restore(n *yaml.Node) {
	n.Value = strings.ReplaceAll(n.Value, string(questionStand), "?")
	for _, child := range n.Content {
		restore(child)
	}
}
