package task

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// SourceDefinition is what an author writes of a source: something outside of
// Catena that lists due work and is told what became of it. Exactly one of HTTP
// and Call is set. Zero values mean the defaults of Normalize.
type SourceDefinition struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	HTTP        *SourceHTTP     `json:"http,omitempty"`    // an endpoint that the leading master asks
	Call        string          `json:"call,omitempty"`    // a function of a package that workers run: pkg:module?function
	Every       Duration        `json:"every,omitempty"`   // pause between two polls; 0: DefaultSourceEvery
	Loop        *bool           `json:"loop,omitempty"`    // nil: true; false: it is polled once
	Runtime     string          `json:"runtime,omitempty"` // only workers with this tag run what it lists
	Limit       int             `json:"limit,omitempty"`   // items of one poll; 0: DefaultSourceLimit
	Timeout     Duration        `json:"timeout,omitempty"` // of one request; 0: DefaultSourceTimeout
	Queue       string          `json:"queue,omitempty"`   // of its own calls and of items with a chain; "": DefaultQueue
	Task        string          `json:"task,omitempty"`    // of items that name neither a task nor a chain
	Params      json.RawMessage `json:"params,omitempty"`  // a JSON object that is sent with every request
	Paused      bool            `json:"paused,omitempty"`
	Note        string          `json:"note,omitempty"` // why it is paused
}

// SourceHTTP is the endpoint of a source.
type SourceHTTP struct {
	URL     string            `json:"url"`
	Method  string            `json:"method,omitempty"`  // POST, PUT or PATCH; "": POST
	Headers map[string]string `json:"headers,omitempty"` // values may hold ${env.SOURCE_...} of the master
}

// Defaults and bounds of a source.
const (
	DefaultSourceEvery   = Duration(10 * time.Second)
	DefaultSourceLimit   = 100
	DefaultSourceTimeout = Duration(30 * time.Second)

	MaxSourceName = 180 // characters; its runs are named after it
	MaxSourceKey  = 200 // characters of an item's key
	MaxSourceBody = 1 << 20

	leastSourceEvery = Duration(100 * time.Millisecond)
	maxSourceEvery   = Duration(30 * 24 * time.Hour)
	maxSourceLimit   = 1000
	leastTimeout     = Duration(100 * time.Millisecond)
	maxSourceTimeout = Duration(5 * time.Minute)
	maxSourceHeaders = 32
	maxSourceHeader  = 4096 // bytes of a value
	maxSourceURL     = 2000

	// EnvPrefix begins the variables of a master's environment that headers may hold.
	EnvPrefix = "SOURCE_"
)

// The beginnings of names under which the runs of a source are listed. No task
// can have such a name.
const (
	SourcePollPrefix = "source-poll/" // its own calls, when it is a function of a package
	SourceItemPrefix = "source-item/" // its items that bring a chain
)

// SourceOf returns the source that runs of this name belong to, or "".
func SourceOf(name string) string {
	for _, prefix := range []string{SourcePollPrefix, SourceItemPrefix} {
		if source, ok := strings.CutPrefix(name, prefix); ok {
			return source
		}
	}
	return ""
}

// ValidSource reports whether name can name a source.
func ValidSource(name string) bool { return len(name) <= MaxSourceName && ValidName(name) }

// Normalize returns d with every default filled in.
func (d SourceDefinition) Normalize() SourceDefinition {
	if d.Every == 0 {
		d.Every = DefaultSourceEvery
	}
	if d.Loop == nil {
		loop := true
		d.Loop = &loop
	}
	if d.Limit == 0 {
		d.Limit = DefaultSourceLimit
	}
	if d.Timeout == 0 {
		d.Timeout = DefaultSourceTimeout
	}
	if d.Queue == "" {
		d.Queue = DefaultQueue
	}
	if len(d.Params) == 0 {
		d.Params = json.RawMessage(`{}`)
	}
	if d.HTTP != nil && d.HTTP.Method == "" {
		endpoint := *d.HTTP
		endpoint.Method = http.MethodPost
		d.HTTP = &endpoint
	}
	return d
}

// Validate checks everything about d.
func (d SourceDefinition) Validate() error {
	if !ValidSource(d.Name) {
		return Errorf(CodeInvalid, "%q cannot name a source", d.Name).At("source").
			Fix(`use lower-case letters, digits, ".", "_" and "-", with "/" between words, at most %d characters`, MaxSourceName)
	}
	switch {
	case d.HTTP == nil && d.Call == "":
		return Errorf(CodeInvalid, "nobody is named who lists the work").At("source").
			Fix("give it http: {url: https://...}, or call: package:module?function")
	case d.HTTP != nil && d.Call != "":
		return Errorf(CodeInvalid, "http and call are two answers to who lists the work").At("call").Fix("keep one of them")
	}
	if d.Call != "" {
		if _, err := ParsePackageRef(d.Call); err != nil {
			return Errorf(CodeInvalid, "%q does not name a function of a package", d.Call).At("call").Fix("write package:module?function, such as billing:invoice?due")
		}
	}
	if err := d.HTTP.validate(); err != nil {
		return err
	}
	return d.validateRest()
}

func (d SourceDefinition) validateRest() error {
	span := func(value, least, most Duration) bool { return value == 0 || value >= least && value <= most }
	switch {
	case !span(d.Every, leastSourceEvery, maxSourceEvery):
		return Errorf(CodeInvalid, "a pause of %v between polls is out of range", d.Every).At("every").Fix("use %v to 30d", leastSourceEvery)
	case !span(d.Timeout, leastTimeout, maxSourceTimeout):
		return Errorf(CodeInvalid, "a time limit of %v is out of range", d.Timeout).At("timeout").Fix("use %v to %v", leastTimeout, maxSourceTimeout)
	case d.Limit < 0 || d.Limit > maxSourceLimit:
		return Errorf(CodeInvalid, "a limit of %d items is out of range", d.Limit).At("limit").Fix("use 1 to %d", maxSourceLimit)
	case d.Runtime != "" && !ValidTag(d.Runtime):
		return Errorf(CodeInvalid, "%q cannot be a tag of workers", d.Runtime).At("runtime").
			Fix(`use lower-case letters, digits, ".", "_" and "-", at most 60 characters`)
	case d.Queue != "" && !ValidQueue(d.Queue):
		return Errorf(CodeInvalid, "%q cannot name a queue", d.Queue).At("queue").Fix(`use lower-case letters, digits, "_" and "-", at most 60 characters`)
	case d.Task != "" && !ValidName(d.Task):
		return Errorf(CodeInvalid, "%q cannot name a task", d.Task).At("task").Fix("`catena task list` shows those that are there")
	case len(d.Params) > MaxSourceBody/2:
		return Errorf(CodeTooLarge, "params have %d bytes", len(d.Params)).At("params").Fix("stay below %d", MaxSourceBody/2)
	case d.Note != "" && !d.Paused:
		return Errorf(CodeInvalid, "note says why a source is paused, which this one is not").At("note").Fix("leave it out, or write paused: true")
	}
	if len(d.Params) > 0 {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(d.Params, &object); err != nil || object == nil {
			return Errorf(CodeInvalid, "params must be an object").At("params")
		}
	}
	return nil
}

var sourceMethods = []string{http.MethodPost, http.MethodPut, http.MethodPatch}

func (h *SourceHTTP) validate() error {
	if h == nil {
		return nil
	}
	if h.Method != "" && !slices.Contains(sourceMethods, h.Method) {
		return Errorf(CodeInvalid, "the method %q cannot carry a request of a source", h.Method).At("http.method").Fix("use one of %v", sourceMethods)
	}
	target, err := url.Parse(h.URL)
	switch {
	case err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" || len(h.URL) > maxSourceURL:
		return Errorf(CodeInvalid, "the source's url is not the URL of an endpoint").At("http.url").Fix("write it with http:// or https:// and a host, at most %d characters", maxSourceURL)
	case target.User != nil:
		return Errorf(CodeInvalid, "the source's url holds a user or a password, which would be stored and shown").At("http.url").
			Fix(`take them out and write headers: {Authorization: "Basic ${env.%sLOGIN}"}`, EnvPrefix)
	case target.Fragment != "":
		return Errorf(CodeInvalid, "the source's url has a fragment, which no server is sent").At("http.url").Fix("take away what begins with #")
	}
	for name := range target.Query() {
		if secretName.MatchString(name) {
			return Errorf(CodeInvalid, "the source's url holds the parameter %s, which would be stored and shown", name).At("http.url").
				Fix(`send it as a header: headers: {Authorization: "Bearer ${env.%sTOKEN}"}`, EnvPrefix)
		}
	}
	return h.validateHeaders()
}

var (
	headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")
	secretName = regexp.MustCompile(`(?i)auth|cookie|token|secret|passw|credential|session|signature|(^|[-_.])(api|access|private)?[-_.]?key$`)
	// envUse is what a header's value may take from the environment of the master.
	envUse = regexp.MustCompile(`\$\{\s*env\.([A-Za-z0-9_]*)\s*\}`)
)

// ownHeaders are set by the master itself.
var ownHeaders = []string{"Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Upgrade", "Trailer", "Te", "Accept-Encoding"}

func (h *SourceHTTP) validateHeaders() error {
	if len(h.Headers) > maxSourceHeaders {
		return Errorf(CodeInvalid, "%d headers are too many", len(h.Headers)).At("http.headers").Fix("use at most %d", maxSourceHeaders)
	}
	for name, value := range h.Headers {
		where := "http.headers." + name
		rest := envUse.ReplaceAllString(value, "")
		switch {
		case !headerName.MatchString(name):
			return Errorf(CodeInvalid, "%q cannot name a header", name).At("http.headers")
		case slices.Contains(ownHeaders, textproto.CanonicalMIMEHeaderKey(name)):
			return Errorf(CodeInvalid, "the header %s is set by the master itself", name).At(where).Fix("leave it out")
		case len(value) > maxSourceHeader || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			return Errorf(CodeInvalid, "the value of the header %s cannot be sent", name).At(where).Fix("use one line of at most %d bytes", maxSourceHeader)
		case strings.Contains(rest, "${"):
			return Errorf(CodeInvalid, "the value of the header %s holds a ${...} that is no variable of the environment", name).At(where).
				Fix("write ${env.%sNAME}", EnvPrefix)
		case rest == value && secretName.MatchString(name):
			return Errorf(CodeInvalid, "the value of the header %s is a secret that would be stored and shown", name).At(where).
				Fix(`take it from the environment of the masters: "${env.%sTOKEN}"`, EnvPrefix)
		}
		for _, used := range envUse.FindAllStringSubmatch(value, -1) {
			if !strings.HasPrefix(used[1], EnvPrefix) || used[1] == EnvPrefix {
				return Errorf(CodeInvalid, "the header %s asks for the variable %q, which sources may not read", name, used[1]).At(where).
					Fix("give the masters a variable whose name begins with %s", EnvPrefix)
			}
		}
	}
	return nil
}

// HeaderVariable is a variable of the environment that a header needs.
type HeaderVariable struct{ Header, Name string }

// Variables returns the variables that the headers need, by header.
func (h *SourceHTTP) Variables() (needed []HeaderVariable) {
	if h == nil {
		return nil
	}
	for _, header := range slices.Sorted(maps.Keys(h.Headers)) {
		for _, used := range envUse.FindAllStringSubmatch(h.Headers[header], -1) {
			needed = append(needed, HeaderVariable{Header: header, Name: used[1]})
		}
	}
	return needed
}

// Header returns the headers with the variables of the environment in their places.
func (h *SourceHTTP) Header(lookup func(name string) (string, bool)) (http.Header, error) {
	header := http.Header{}
	for name, value := range h.Headers {
		missing := ""
		value = envUse.ReplaceAllStringFunc(value, func(use string) string {
			variable := envUse.FindStringSubmatch(use)[1]
			text, there := lookup(variable)
			if !there && missing == "" {
				missing = variable
			}
			return strings.TrimSpace(text)
		})
		if missing != "" {
			return nil, Errorf(CodeInvalid, "the environment of the leading master has no variable %s, which the header %s needs", missing, name).
				Fix("set it for every master that may lead, and restart them")
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return nil, Errorf(CodeInvalid, "the value of the header %s cannot be sent: it has control characters", name)
		}
		header.Set(name, value)
	}
	return header, nil
}

// SourceStatus says in one word what a source does.
type SourceStatus string

// The statuses of a source.
const (
	SourceReady   SourceStatus = "ready"   // polled again and again
	SourcePaused  SourceStatus = "paused"  // not polled; outcomes are recorded all the same
	SourceFailing SourceStatus = "failing" // its last poll or record failed
	SourceDone    SourceStatus = "done"    // polled once, as loop: false says
)

// Source is a definition as the store keeps it, with what became of its polls.
type Source struct {
	SourceDefinition
	Status         SourceStatus `json:"status"`
	NextPollAt     *time.Time   `json:"next_poll_at,omitempty"`
	PolledAt       *time.Time   `json:"polled_at,omitempty"` // the last answer that could be used
	PollRun        *uuid.UUID   `json:"poll_run,omitempty"`  // under way, of a source that is a function
	Listed         int          `json:"listed"`              // items in that answer
	Failures       int          `json:"failures"`            // of polls, in a row
	Error          string       `json:"error,omitempty"`     // of the last poll
	RecordFailures int          `json:"record_failures"`     // of records, in a row
	RecordError    string       `json:"record_error,omitempty"`
	RecordAt       *time.Time   `json:"record_at,omitempty"` // no record before
	RecordRun      *uuid.UUID   `json:"record_run,omitempty"`
	Running        int64        `json:"running"` // items whose run has not ended
	Ended          int64        `json:"ended"`   // items whose outcome is not recorded
	Refused        int64        `json:"refused"` // items that got no run, of which the source has not been told
	CreatedAt      time.Time    `json:"created_at"`
	UpdatedAt      time.Time    `json:"updated_at"`
}

// SourceItemState is where an item of a source stands.
type SourceItemState string

// The states of an item.
const (
	ItemRunning  SourceItemState = "running"  // its run has not ended
	ItemEnded    SourceItemState = "ended"    // its run has; the source has not been told
	ItemRefused  SourceItemState = "refused"  // it got no run; the source has not been told
	ItemRecorded SourceItemState = "recorded" // the source knows; the key may come again
)

// SourceItemStates lists the states of an item.
var SourceItemStates = [...]SourceItemState{ItemRunning, ItemEnded, ItemRefused, ItemRecorded}

// SourceItem is one piece of work that a source has listed.
type SourceItem struct {
	Source     string          `json:"source"`
	Key        string          `json:"key"`
	Attempt    int             `json:"attempt"` // rises with every run of the key
	State      SourceItemState `json:"state"`
	Task       string          `json:"task"`
	Run        *uuid.UUID      `json:"run"`
	Result     State           `json:"result,omitempty"` // that its run ended with
	Reason     string          `json:"reason,omitempty"` // why it was refused
	Tries      int             `json:"tries"`            // failed records
	Error      string          `json:"error,omitempty"`  // of the last record
	RecordAt   *time.Time      `json:"record_at,omitempty"`
	StartedAt  time.Time       `json:"started_at"`
	EndedAt    *time.Time      `json:"ended_at,omitempty"`
	RecordedAt *time.Time      `json:"recorded_at,omitempty"`
}
