package chain

// ItemInfo describes one item of a document.
type ItemInfo struct {
	Path string `json:"path"` // 2.do.0
	Kind string `json:"kind"` // its action or command
	Name string `json:"name,omitempty"`
	Text string `json:"text"` // as its author wrote it, shortened
	Line int    `json:"line"`
}

// Explain lists every item, outer before inner, in the order of the document.
func (d *Document) Explain() []ItemInfo {
	return explain(nil, d.items)
}

func explain(infos []ItemInfo, l *list) []ItemInfo {
	for _, it := range l.items {
		infos = append(infos, ItemInfo{Path: it.path, Kind: it.kind, Name: it.name, Text: it.text, Line: it.line})
		for _, nested := range it.nested {
			infos = explain(infos, nested)
		}
	}
	return infos
}
