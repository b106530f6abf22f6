package task

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// Rate limits how many runs of a task start in any window of the given length.
type Rate struct {
	Limit int      `json:"limit"`         // runs
	Per   Duration `json:"per"`           // length of the window
	Key   string   `json:"key,omitempty"` // "${...}" over params; each value has a limit of its own; "": one for the task
}

// Concurrency limits how many runs of a task are under way at once.
type Concurrency struct {
	Limit    int      `json:"limit"`
	Key      string   `json:"key,omitempty"`      // "${...}" over params; each value has a limit of its own; "": one for the task
	Strategy Strategy `json:"strategy,omitempty"` // "": queue-fairly
}

// Strategy says what becomes of a run that finds its limit reached.
type Strategy string

// The strategies.
const (
	StrategyQueueFairly   Strategy = "queue-fairly"   // it waits; the keys take turns
	StrategyCancelRunning Strategy = "cancel-running" // the oldest run of its key is cancelled to make room
	StrategyRejectNew     Strategy = "reject-new"     // it ends as cancelled
)

// Strategies lists the strategies.
var Strategies = [...]Strategy{StrategyQueueFairly, StrategyCancelRunning, StrategyRejectNew}

// Dedupe makes one run of those that are asked for with the same key within a
// window; the others are answered with that run.
type Dedupe struct {
	Key    string   `json:"key"`    // "${...}" over params
	Window Duration `json:"window"` // from the first run on
}

// Bounds of limits.
const (
	MaxLimit     = 1_000_000 // runs of a rate or a concurrency
	MaxLimitKey  = 200       // characters of a key
	MaxTags      = 10        // of a task
	maxKeyText   = 2_000     // characters of a key's expression
	minPer       = time.Second
	maxPer       = 24 * time.Hour
	minWindow    = time.Second
	maxWindow    = 30 * 24 * time.Hour
	DedupePrefix = "dedupe:" // of the keys that dedupe takes; idempotency keys begin with something else
)

// tagPattern: one word. "+" joins the tags of a lane.
var tagPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// ValidTag reports whether name can be a tag of a task and of a worker.
func ValidTag(name string) bool { return len(name) <= 60 && tagPattern.MatchString(name) }

// Lane is what workers consume and runs wait in: the queue and the tags that a
// worker must have.
func Lane(queue string, tags []string) string {
	tags = slices.Clone(tags)
	slices.Sort(tags)
	return strings.Join(append([]string{queue}, slices.Compact(tags)...), "+")
}

func (d Definition) validateTags() error {
	if len(d.Tags) > MaxTags {
		return Errorf(CodeInvalid, "%d tags are too many", len(d.Tags)).At("tags").Fix("use at most %d", MaxTags)
	}
	for i, tag := range d.Tags {
		if !ValidTag(tag) {
			return Errorf(CodeInvalid, "%q cannot be a tag", tag).At(indexed("tags", i)).
				Fix(`use lower-case letters, digits, ".", "_" and "-", at most 60 characters`)
		}
	}
	return nil
}

func (r *Rate) problems() (problems []error) {
	if r == nil {
		return nil
	}
	if err := checkLimit(r.Limit, "rate.limit"); err != nil {
		problems = append(problems, err)
	}
	if per := time.Duration(r.Per); per < minPer || per > maxPer {
		problems = append(problems, Errorf(CodeInvalid, "a window of %v is out of range", r.Per).At("rate.per").Fix("use 1s to 24h"))
	}
	if err := checkKeyText(r.Key, "rate.key"); err != nil {
		problems = append(problems, err)
	}
	return problems
}

func (c *Concurrency) problems() (problems []error) {
	if c == nil {
		return nil
	}
	if err := checkLimit(c.Limit, "concurrency.limit"); err != nil {
		problems = append(problems, err)
	}
	if c.Strategy != "" && !slices.Contains(Strategies[:], c.Strategy) {
		problems = append(problems, Errorf(CodeInvalid, "unknown strategy %q", c.Strategy).At("concurrency.strategy").Fix("use one of %v", Strategies))
	}
	if err := checkKeyText(c.Key, "concurrency.key"); err != nil {
		problems = append(problems, err)
	}
	return problems
}

func (d *Dedupe) problems() (problems []error) {
	if d == nil {
		return nil
	}
	if d.Key == "" {
		problems = append(problems, Errorf(CodeInvalid, "dedupe has no key").At("dedupe.key").Fix(`write an expression over params, such as "${params.order}"`))
	}
	if window := time.Duration(d.Window); window < minWindow || window > maxWindow {
		problems = append(problems, Errorf(CodeInvalid, "a window of %v is out of range", d.Window).At("dedupe.window").Fix("use 1s to 720h (30 days)"))
	}
	if err := checkKeyText(d.Key, "dedupe.key"); err != nil {
		problems = append(problems, err)
	}
	return problems
}

func checkLimit(limit int, where string) error {
	switch {
	case limit == 0:
		return Errorf(CodeInvalid, "a limit of 0 would never start a run").At(where).Fix("to start none for a while, pause the task: catena task pause NAME")
	case limit < 0 || limit > MaxLimit:
		return Errorf(CodeInvalid, "a limit of %d is out of range", limit).At(where).Fix("use 1 to %d", MaxLimit)
	}
	return nil
}

func checkKeyText(text, where string) error {
	if len(text) > maxKeyText {
		return Errorf(CodeInvalid, "the key's expression has %d characters", len(text)).At(where).Fix("use at most %d", maxKeyText)
	}
	return nil
}

// Limits are the parts of a task that decide when an accepted run may start,
// or whether there is one at all.
type Limits struct {
	Rate        *Rate
	Concurrency *Concurrency
	Dedupe      *Dedupe
}

// Any reports whether there is a limit.
func (l Limits) Any() bool { return l.Rate != nil || l.Concurrency != nil || l.Dedupe != nil }

// Limits returns those of the definition.
func (d Definition) Limits() Limits {
	return Limits{Rate: d.Rate, Concurrency: d.Concurrency, Dedupe: d.Dedupe}
}

// KeyText is the text of a key and the field that holds it.
type KeyText struct{ Field, Text string }

// Keys returns the keys that are given, each with its field.
func (l Limits) Keys() []KeyText {
	var keys []KeyText
	if l.Rate != nil && l.Rate.Key != "" {
		keys = append(keys, KeyText{"rate.key", l.Rate.Key})
	}
	if l.Concurrency != nil && l.Concurrency.Key != "" {
		keys = append(keys, KeyText{"concurrency.key", l.Concurrency.Key})
	}
	if l.Dedupe != nil {
		keys = append(keys, KeyText{"dedupe.key", l.Dedupe.Key})
	}
	return keys
}
