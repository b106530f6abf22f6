package store

import (
	"encoding/json"
	"strings"

	"github.com/catena-run/catena/task"
)

// Keyer computes the keys of a run's limits from the run's params. The keys'
// expressions are compiled by who knows their language; the store only asks.
type Keyer interface {
	// Keys returns the keys of the limits that are given. revision names the
	// expressions: they never change under it. base are the task's params, own the run's.
	Keys(revision int64, limits task.Limits, base, own json.RawMessage) (LimitKeys, error)
}

// LimitKeys are the keys of a run; nil where its task has no such limit.
type LimitKeys struct{ Rate, Concurrency, Dedupe *string }

// WholeTask is the key of a limit without an expression: all runs share it.
const WholeTask = "*"

// plainKeys knows no expressions.
type plainKeys struct{}

func (plainKeys) Keys(_ int64, limits task.Limits, _, _ json.RawMessage) (LimitKeys, error) {
	for _, k := range limits.Keys() {
		if strings.Contains(k.Text, "${") {
			return LimitKeys{}, task.Errorf(task.CodeInternal, "this process cannot evaluate %s", k.Field)
		}
	}
	return KeysOf(limits, func(_, text string) (string, error) { return text, nil })
}

// KeysOf asks eval for the key of each limit that has an expression.
func KeysOf(limits task.Limits, eval func(field, text string) (string, error)) (k LimitKeys, err error) {
	part := func(field, text string) *string {
		if err != nil {
			return nil
		}
		key := WholeTask
		if text != "" {
			key, err = eval(field, text)
		}
		return &key
	}
	if r := limits.Rate; r != nil {
		k.Rate = part("rate.key", r.Key)
	}
	if c := limits.Concurrency; c != nil {
		k.Concurrency = part("concurrency.key", c.Key)
	}
	if d := limits.Dedupe; d != nil {
		k.Dedupe = part("dedupe.key", d.Key)
	}
	return k, err
}

// parseLimits reads limits that may have been written by hand.
func parseLimits(rate, concurrency, dedupe *string) (l task.Limits, err error) {
	for _, part := range []struct {
		field string
		text  *string
		into  any
	}{{"rate", rate, &l.Rate}, {"concurrency", concurrency, &l.Concurrency}, {"dedupe", dedupe, &l.Dedupe}} {
		if part.text == nil {
			continue
		}
		decoder := json.NewDecoder(strings.NewReader(*part.text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(part.into); err != nil {
			return task.Limits{}, task.Errorf(task.CodeInvalid, "%s", task.PlainJSON(err)).At(part.field).Fix("%s", limitHelp[part.field])
		}
	}
	return l, nil
}

// limitTexts are the limits as their columns hold them; nil: none.
func limitTexts(l task.Limits) (rate, concurrency, dedupe *string) {
	text := func(given bool, value any) *string {
		if !given {
			return nil
		}
		raw, _ := json.Marshal(value) // numbers and texts marshal
		one := string(raw)
		return &one
	}
	return text(l.Rate != nil, l.Rate), text(l.Concurrency != nil, l.Concurrency), text(l.Dedupe != nil, l.Dedupe)
}

var limitHelp = map[string]string{
	"rate":        `write {"limit": 20, "per": "1s", "key": "${params.customer}"}`,
	"concurrency": `write {"limit": 3, "key": "${params.customer}", "strategy": "queue-fairly"}`,
	"dedupe":      `write {"key": "${params.order}", "window": "10m"}`,
}

// keysOf computes the keys of the runs and finds runs that cannot be accepted.
// keys is nil when none of the runs has limits.
func (s *Store) keysOf(view *laneView, runs []NewRun) (keys []LimitKeys, refused *RefusedRuns) {
	refused = &RefusedRuns{Reasons: map[int]error{}}
	for i := range runs {
		if err := view.accepts(&runs[i]); err != nil {
			refused.Reasons[i] = err
			continue
		}
		info, _ := view.of(&runs[i])
		if parent := runs[i].Parent; !info.limits.Any() || parent != nil && parent.Entry != nil {
			continue
		}
		if keys == nil {
			keys = make([]LimitKeys, len(runs))
		}
		var err error
		if keys[i], err = s.keys.Keys(info.revision, info.limits, info.params, runs[i].Params); err != nil {
			refused.Reasons[i] = err
		}
	}
	if len(refused.Reasons) == 0 {
		refused = nil
	}
	return keys, refused
}

func keyAt(keys []LimitKeys, i int) LimitKeys {
	if keys == nil {
		return LimitKeys{}
	}
	return keys[i]
}
