package task

import (
	"encoding/json"
	"math"
	"regexp"
	"time"
)

// Definition is what an author writes of a task: the content of one document
// of a task file. Zero values mean the defaults of Normalize.
type Definition struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Chain       json.RawMessage `json:"chain"`            // a chain document, JSON
	Params      json.RawMessage `json:"params,omitempty"` // a JSON object; a run's own params override its keys
	Schedule    []Schedule      `json:"schedule,omitempty"`
	Timeout     Duration        `json:"timeout,omitempty"` // of one attempt; 0: DefaultTimeout
	Retry       Retry           `json:"retry,omitzero"`
	Queue       string          `json:"queue,omitempty"`    // "": DefaultQueue
	Priority    *int            `json:"priority,omitempty"` // 0 (last) to 9 (first); nil: DefaultPriority
	Durable     *bool           `json:"durable,omitempty"`  // nil: true; false: steps are not committed one by one
	Tags        []string        `json:"tags,omitempty"`     // a worker must have all of them
	Rate        *Rate           `json:"rate,omitempty"`
	Concurrency *Concurrency    `json:"concurrency,omitempty"`
	Dedupe      *Dedupe         `json:"dedupe,omitempty"`
	Keep        Duration        `json:"keep,omitempty"` // how long ended runs are kept; 0: as the cluster does
}

// Defaults of a task.
const (
	DefaultQueue    = "default"
	DefaultPriority = 5
	MaxPriority     = 9
	DefaultTimeout  = Duration(time.Hour)
)

// LeastKeep is the shortest time for which ended runs are kept: who waits for
// a run must be able to see that it has ended.
const LeastKeep = Duration(time.Hour)

// namePattern: slash-separated words, as in "billing/close-month".
var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$`)

// queuePattern: one word. The dispatcher reserves the characters it builds lanes with.
var queuePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

// ValidName reports whether name can name a task or a package.
func ValidName(name string) bool { return len(name) <= 200 && namePattern.MatchString(name) }

// ValidQueue reports whether name can name a queue.
func ValidQueue(name string) bool { return len(name) <= 60 && queuePattern.MatchString(name) }

// Normalize returns d with every default filled in.
func (d Definition) Normalize() Definition {
	if len(d.Params) == 0 {
		d.Params = json.RawMessage(`{}`)
	}
	if d.Timeout == 0 {
		d.Timeout = DefaultTimeout
	}
	if d.Queue == "" {
		d.Queue = DefaultQueue
	}
	if d.Priority == nil {
		p := DefaultPriority
		d.Priority = &p
	}
	if d.Durable == nil {
		durable := true
		d.Durable = &durable
	}
	d.Retry = d.Retry.normalize()
	return d
}

// Validate checks everything about d but its chain and the meaning of its
// schedules, which the chain and scheduler packages know.
func (d Definition) Validate() error {
	if problems := d.Problems(); len(problems) > 0 {
		return problems[0]
	}
	return nil
}

// Problems returns what is wrong with d: all that Validate looks at, one error for
// each field or schedule.
func (d Definition) Problems() (problems []error) {
	note := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	note(d.validateName())
	if len(d.Chain) == 0 {
		note(Errorf(CodeInvalid, "task %s has no chain", d.Name).At("chain").Fix("give it a list of items"))
	}
	if d.Queue != "" && !ValidQueue(d.Queue) {
		note(Errorf(CodeInvalid, "%q cannot name a queue", d.Queue).At("queue").
			Fix(`use lower-case letters, digits, "_" and "-", at most 60 characters`))
	}
	if d.Priority != nil && (*d.Priority < 0 || *d.Priority > MaxPriority) {
		note(Errorf(CodeInvalid, "priority %d is out of range", *d.Priority).At("priority").Fix("use 0 (last) to %d (first)", MaxPriority))
	}
	if len(d.Params) > 0 {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(d.Params, &object); err != nil {
			note(Errorf(CodeInvalid, "params must be an object").At("params"))
		}
	}
	if d.Keep != 0 && d.Keep < LeastKeep {
		note(Errorf(CodeInvalid, "runs cannot be kept for only %s", d.Keep).At("keep").Fix("use 1h at least, such as 12h or 30d"))
	}
	for i := range d.Schedule {
		note(d.Schedule[i].validate(i))
	}
	note(d.validateTags())
	problems = append(problems, d.Rate.problems()...)
	problems = append(problems, d.Concurrency.problems()...)
	problems = append(problems, d.Dedupe.problems()...)
	note(d.Retry.validate())
	return problems
}

func (d Definition) validateName() error {
	if !ValidName(d.Name) {
		return Errorf(CodeInvalid, "%q cannot name a task", d.Name).At("name").
			Fix(`use lower-case letters, digits, ".", "_" and "-", with "/" between words, at most 200 characters`)
	}
	if source := SourceOf(d.Name); source != "" {
		return Errorf(CodeInvalid, "%q is kept for the runs of a source named %s", d.Name, source).At("name").Fix("choose another name")
	}
	return nil
}

// Retry says how often and when a failed attempt is tried again. Attempts
// counts all attempts, so 1 means no retry.
type Retry struct {
	Attempts int      `json:"attempts,omitempty"` // 1 to 1000; 0: 1
	Backoff  Duration `json:"backoff,omitempty"`  // before the second attempt; 0: 1s when attempts > 1
	Factor   float64  `json:"factor,omitempty"`   // of each further wait; 0: 2
	Max      Duration `json:"max,omitempty"`      // longest wait; 0: 10m
	Jitter   float64  `json:"jitter,omitempty"`   // 0 to 1: how far a wait may stray from its value
}

func (r Retry) normalize() Retry {
	if r.Attempts == 0 {
		r.Attempts = 1
	}
	if r.Backoff == 0 {
		r.Backoff = Duration(time.Second)
	}
	if r.Factor == 0 {
		r.Factor = 2
	}
	if r.Max == 0 {
		r.Max = Duration(10 * time.Minute)
	}
	return r
}

func (r Retry) validate() error {
	switch {
	case r.Attempts < 0 || r.Attempts > 1000:
		return Errorf(CodeInvalid, "%d attempts are out of range", r.Attempts).At("retry.attempts").Fix("use 1 (no retry) to 1000")
	case r.Factor < 0 || (r.Factor > 0 && r.Factor < 1) || r.Factor > 100:
		return Errorf(CodeInvalid, "factor %v is out of range", r.Factor).At("retry.factor").Fix("use 1 (constant waits) to 100")
	case r.Jitter < 0 || r.Jitter > 1:
		return Errorf(CodeInvalid, "jitter %v is out of range", r.Jitter).At("retry.jitter").Fix("use 0 to 1")
	}
	return nil
}

// Wait returns how long to wait after the given failed attempt (1 for the
// first). random is a number in [0,1) that places the wait within the jitter.
func (r Retry) Wait(attempt int, random float64) time.Duration {
	r = r.normalize()
	wait := float64(r.Backoff) * math.Pow(r.Factor, float64(attempt-1))
	wait = math.Min(wait, float64(r.Max))
	wait *= 1 + r.Jitter*(2*random-1)
	return time.Duration(wait)
}

// Task is a definition as the store keeps it.
type Task struct {
	Definition
	Revision  int64     `json:"revision"` // of the definition; rises with every change
	Paused    bool      `json:"paused"`
	Note      string    `json:"note,omitempty"`    // why it is paused
	Invalid   string    `json:"invalid,omitempty"` // why it cannot run; "" when it can
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Revision is an immutable copy of the part of a task that a run needs.
type Revision struct {
	ID       int64
	Task     string
	Chain    json.RawMessage
	Params   json.RawMessage
	Timeout  time.Duration
	Retry    Retry
	Queue    string
	Priority int
	Durable  bool
}

// Cost is how long the runs of a task take, as a moving average.
type Cost struct {
	Task   string  `json:"task"`
	Micros float64 `json:"micros"` // of one run
}
