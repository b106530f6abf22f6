package scheduler

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/catena-run/catena/task"
)

// Bounds of what a scheduler keeps parsed: reading a time zone takes many times
// longer than finding a due time. A full cache begins anew.
const (
	keptSpecs = 20_000
	keptDays  = 1_000
)

// LookupIn returns the lookup for calendars that are given as the JSON texts of their
// days.
func LookupIn(texts map[string]string) Lookup {
	return func(name string) (*Days, error) { return daysOf(name, texts) }
}

func daysOf(name string, texts map[string]string) (*Days, error) {
	text, there := texts[name]
	if !there {
		return nil, task.Errorf(task.CodeInvalid, "there is no calendar %s", name).Fix("make it with catena calendar apply -f FILE, or remove it here")
	}
	days, err := ParseDaysJSON(text)
	if err != nil {
		return nil, task.Errorf(task.CodeInvalid, "calendar %s is invalid: %w", name, err)
	}
	return days, nil
}

// ParseDaysJSON reads a JSON list of the entries of a calendar.
func ParseDaysJSON(text string) (*Days, error) {
	var entries []string
	if err := json.Unmarshal([]byte(text), &entries); err != nil {
		return nil, invalid("days", "this is not a list of texts").Fix(dayRemedy)
	}
	return ParseDays(entries)
}

// cache keeps parsed schedules and calendars, for any number of callers.
type cache struct {
	mu    sync.Mutex
	specs map[specKey]Spec
	days  map[string]numberedDays // by their text
	count int
}

type numberedDays struct {
	*Days
	number int
}

func newCache() *cache { return &cache{specs: map[specKey]Spec{}, days: map[string]numberedDays{}} }

// specKey is all that a Spec is made of but the schedule's identity.
type specKey struct {
	cron, timezone        string
	dst                   task.DST
	calendar, exclude     string
	every, offset, jitter task.Duration
	start, end            int64
}

// parse is ParseWith.
func (c *cache) parse(s task.Schedule, calendars map[string]string) (Spec, error) {
	if s.At != nil {
		return ParseWith(s, LookupIn(calendars)) // used once
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key, known := c.key(s, calendars)
	if spec, ok := c.specs[key]; ok && known {
		spec.seed = seedOf(s)
		return spec, nil
	}
	spec, err := ParseWith(s, func(name string) (*Days, error) { return c.daysOf(name, calendars) })
	if err != nil {
		return Spec{}, err
	}
	if len(c.specs) >= keptSpecs {
		clear(c.specs)
	}
	if key, known = c.key(s, calendars); known {
		c.specs[key] = spec
	}
	return spec, nil
}

// key is not known while a calendar is not.
func (c *cache) key(s task.Schedule, calendars map[string]string) (key specKey, known bool) {
	key = specKey{
		cron: s.Cron, timezone: s.Timezone, dst: s.DST, every: s.Every, offset: s.Offset, jitter: s.Jitter,
		start: microOf(s.Start), end: microOf(s.End),
	}
	if s.Calendar != nil {
		text, _ := json.Marshal(s.Calendar) // texts and numbers marshal
		key.calendar = string(text)
	}
	var names strings.Builder
	for _, name := range s.Exclude {
		days, there := c.days[calendars[name]]
		if !there {
			return specKey{}, false
		}
		names.WriteString(name + ":" + strconv.Itoa(days.number) + " ")
	}
	key.exclude = names.String()
	return key, true
}

func microOf(t *time.Time) int64 {
	if t == nil {
		return math.MinInt64
	}
	return t.UnixMicro()
}

func (c *cache) daysOf(name string, calendars map[string]string) (*Days, error) {
	if known, ok := c.days[calendars[name]]; ok {
		return known.Days, nil
	}
	days, err := daysOf(name, calendars)
	if err != nil {
		return nil, err
	}
	if len(c.days) >= keptDays {
		clear(c.days)
	}
	c.count++
	c.days[calendars[name]] = numberedDays{days, c.count}
	return days, nil
}
