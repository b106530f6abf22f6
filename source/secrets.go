package source

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// secrets are the values of the environment that a request carried. What is said
// of its answer shows none of them.
type secrets []string

const (
	hidden = "***"
	// leastSecret is the length from which a value, or the beginning of one that was cut
	// off, is hidden: a shorter one is in any text.
	leastSecret = 4
)

// add takes a value as it is sent, and as JSON writes it.
func (s *secrets) add(value string) {
	value = strings.TrimSpace(value)
	if len(value) < leastSecret {
		return
	}
	for _, form := range []string{value, quoted(value, true), quoted(value, false)} {
		if !slices.Contains(*s, form) {
			*s = append(*s, form)
		}
	}
	slices.SortFunc(*s, func(a, b string) int { return cmp.Compare(len(b), len(a)) }) // one may be a part of another
}

func quoted(value string, html bool) string {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(html)
	if err := encoder.Encode(value); err != nil {
		return value
	}
	return strings.Trim(strings.TrimSuffix(text.String(), "\n"), `"`)
}

// hide returns a text without the values, also without those that an excerpt
// has cut off.
func (s secrets) hide(text string) string {
	for _, value := range s {
		text = strings.ReplaceAll(text, value, hidden)
	}
	for _, value := range s {
		for n := len(value) - 1; n >= leastSecret; n-- {
			text = strings.ReplaceAll(text, value[:n]+cutMark, hidden+cutMark)
		}
	}
	return text
}

func (s secrets) hideError(err error) error {
	if err == nil || len(s) == 0 {
		return err
	}
	return errors.New(s.hide(err.Error()))
}
