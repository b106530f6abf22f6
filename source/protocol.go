package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// The actions of a request.
const (
	actionIterate = "iterate" // list due work
	actionRecord  = "record"  // take note of what became of it
)

// request is what a source is asked; docs/sources.md describes it.
type request struct {
	Action  string          `json:"action"`
	Source  string          `json:"source"`
	Runtime string          `json:"runtime"`
	Params  json.RawMessage `json:"params"`
	Limit   int             `json:"limit,omitempty"` // of iterate
	Items   []recorded      `json:"items,omitempty"` // of record
}

// recorded tells a source what became of one item.
type recorded struct {
	Key        string          `json:"key"`
	Attempt    int             `json:"attempt"`
	Task       string          `json:"task"`
	Run        *uuid.UUID      `json:"run"`     // null: it was refused
	State      string          `json:"state"`   // that the run ended in, or refused
	Outcome    json.RawMessage `json:"outcome"` // null: there is none
	Reason     string          `json:"reason,omitempty"`
	StartedAt  *time.Time      `json:"started_at,omitempty"`
	FinishedAt *time.Time      `json:"finished_at,omitempty"`
}

const stateRefused = "refused"

func iterate(s task.Source) request {
	return request{Action: actionIterate, Source: s.Name, Runtime: s.Runtime, Params: s.Params, Limit: s.Limit}
}

func record(s task.Source, items []store.ItemOutcome) request {
	r := request{Action: actionRecord, Source: s.Name, Runtime: s.Runtime, Params: s.Params}
	for _, item := range items {
		one := recorded{Key: item.Key, Attempt: item.Attempt, Task: item.Task, Run: item.Run, State: string(item.State), Outcome: item.Outcome,
			Reason: item.Reason, StartedAt: item.StartedAt, FinishedAt: item.FinishedAt}
		if item.Run == nil {
			one.State = stateRefused
		}
		r.Items = append(r.Items, one)
	}
	return r
}

// listed is one item of the answer to iterate. Unknown fields are ignored, so that a
// source may be newer than this program.
type listed struct {
	Key      json.RawMessage `json:"key"`
	Task     json.RawMessage `json:"task"`
	Chain    json.RawMessage `json:"chain"`
	Params   json.RawMessage `json:"params"`
	Priority json.RawMessage `json:"priority"`
}

// readIterate reads the answer to iterate. What makes single items unusable
// refuses these; an error means that nothing of the answer can be used.
func readIterate(s task.Source, text []byte) (store.SourceAnswer, error) {
	var answer struct {
		Items json.RawMessage `json:"items"`
	}
	if err := readObject(text, &answer); err != nil {
		return store.SourceAnswer{}, err
	}
	if absent(answer.Items) {
		return store.SourceAnswer{}, fmt.Errorf("the answer has no items: %s", excerpt(text))
	}
	var items []json.RawMessage
	if err := json.Unmarshal(answer.Items, &items); err != nil {
		return store.SourceAnswer{}, fmt.Errorf("items is no list: %s", excerpt(answer.Items))
	}
	if len(items) > s.Limit {
		return store.SourceAnswer{}, fmt.Errorf("the answer has %d items, the limit is %d", len(items), s.Limit)
	}
	var out store.SourceAnswer
	seen := map[string]int{}
	for i, text := range items {
		item, err := readItem(s, text)
		if err != nil {
			return store.SourceAnswer{}, fmt.Errorf("items[%d]%w", i, err)
		}
		if first, twice := seen[item.Key]; twice {
			if out.Remark == "" {
				out.Remark = fmt.Sprintf("items[%d] has the key of items[%d], %q: only the first was taken", i, first, excerpt([]byte(item.Key)))
			}
			continue
		}
		seen[item.Key] = i
		out.Items = append(out.Items, item)
	}
	return out, nil
}

// readItem reads one item. An error means that the item cannot even be named.
func readItem(s task.Source, text json.RawMessage) (store.NewItem, error) {
	var l listed
	if err := json.Unmarshal(text, &l); err != nil || string(bytes.TrimSpace(text)) == "null" {
		return store.NewItem{}, fmt.Errorf(" is no object: %s", excerpt(text))
	}
	var item store.NewItem
	if absent(l.Key) {
		return item, errors.New(" has no key")
	}
	if err := json.Unmarshal(l.Key, &item.Key); err != nil {
		return item, fmt.Errorf(".key is no text: %s", excerpt(l.Key))
	}
	if problem := keyProblem(item.Key); problem != "" {
		return item, fmt.Errorf(".key %q %s", excerpt([]byte(item.Key)), problem)
	}
	if err := readWork(s, l, &item); err != nil {
		// Nothing is kept of it: run once more, it must not become other work.
		item = store.NewItem{Key: item.Key, Refused: err.Error()}
	}
	return item, nil
}

func keyProblem(key string) string {
	switch n := utf8.RuneCountInString(key); {
	case n == 0:
		return "is empty"
	case n > task.MaxSourceKey:
		return fmt.Sprintf("has %d characters, %d are the most", n, task.MaxSourceKey)
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "has control characters"
	}
	return ""
}

func absent(text json.RawMessage) bool { return len(text) == 0 || string(text) == "null" }

// readWork reads what an item asks to be run into it.
func readWork(s task.Source, l listed, item *store.NewItem) error {
	item.Task = s.Task
	if !absent(l.Task) {
		if err := json.Unmarshal(l.Task, &item.Task); err != nil {
			return fmt.Errorf("task is no text: %s", excerpt(l.Task))
		}
	}
	switch {
	case !absent(l.Task) && !absent(l.Chain):
		return errors.New("it names a task and brings a chain; keep one of them")
	case !absent(l.Chain):
		document, err := chain.Parse("chain", l.Chain)
		if err != nil {
			return err
		}
		item.Task = ""
		item.Chain, _ = document.MarshalJSON() // compact, so that the same chain is the same text
	case item.Task == "":
		return errors.New("it names no task and brings no chain, and the source has no task of its own")
	case !task.ValidName(item.Task):
		return fmt.Errorf("%q cannot name a task", excerpt([]byte(item.Task)))
	}
	if !absent(l.Params) {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(l.Params, &object); err != nil || object == nil {
			return fmt.Errorf("params is no object: %s", excerpt(l.Params))
		}
		item.Params = l.Params
	}
	if !absent(l.Priority) {
		var priority int
		if err := json.Unmarshal(l.Priority, &priority); err != nil || priority < 0 || priority > task.MaxPriority {
			return fmt.Errorf("priority %s is no number from 0 (last) to %d (first)", excerpt(l.Priority), task.MaxPriority)
		}
		item.Priority = &priority
	}
	return nil
}

// maxRequeue bounds how long a source may put an item off.
const maxRequeue = 365 * 24 * time.Hour

// readRecord reads the answer to record: which items are to be run once more,
// and after which wait. An empty answer asks for none.
func readRecord(items []store.ItemOutcome, text []byte) (map[string]time.Duration, error) {
	if len(bytes.TrimSpace(text)) == 0 || string(bytes.TrimSpace(text)) == "null" {
		return nil, nil
	}
	var answer struct {
		Items []struct {
			Key     string         `json:"key"`
			Requeue bool           `json:"requeue"`
			After   *task.Duration `json:"after"`
		} `json:"items"`
	}
	if err := readObject(text, &answer); err != nil {
		return nil, err
	}
	told := make(map[string]bool, len(items))
	for _, item := range items {
		told[item.Key] = true
	}
	again := map[string]time.Duration{}
	for i, item := range answer.Items {
		after := time.Duration(0)
		if item.After != nil {
			after = time.Duration(*item.After)
		}
		switch {
		case !told[item.Key]:
			return nil, fmt.Errorf("items[%d].key %q is none of those that were recorded", i, excerpt([]byte(item.Key)))
		case after > maxRequeue:
			return nil, fmt.Errorf("items[%d].after %v is more than 365d", i, after)
		case item.After != nil && !item.Requeue:
			return nil, fmt.Errorf("items[%d] has after without requeue: true", i)
		case item.Requeue:
			again[item.Key] = after
		}
	}
	return again, nil
}

// readObject reads one JSON object, of which nothing is behind it.
func readObject(text []byte, into any) error {
	if !utf8.Valid(text) {
		return fmt.Errorf("the answer is not valid UTF-8: %s", excerpt(text))
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	var object json.RawMessage
	if err := decoder.Decode(&object); err != nil {
		return fmt.Errorf("the answer is not JSON: %s", excerpt(text))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("something follows the JSON of the answer: %s", excerpt(text))
	}
	if object[0] != '{' {
		return fmt.Errorf("the answer is no object: %s", excerpt(object))
	}
	if err := json.Unmarshal(object, into); err != nil {
		return fmt.Errorf("the answer has a value of a wrong type: %w", err)
	}
	return nil
}

// excerptBytes is how much of an answer is shown with what is wrong with it.
const excerptBytes = 120

func excerpt(text []byte) string { return shorten(text, excerptBytes) }

// cutMark ends a text of which more was not kept.
const cutMark = "..."

// problemBytes is how much of what is wrong with a source is kept.
const problemBytes = 2000

// shorten makes one line of a text.
func shorten(text []byte, most int) string {
	cut := strings.ToValidUTF8(string(text[:min(len(text), most)]), "\uFFFD")
	cut = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, cut)
	if len(text) > most {
		cut += cutMark
	}
	return cut
}
