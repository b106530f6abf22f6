package check

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

// Bounds of a simulation.
const (
	DefaultHorizon  = 30 * 24 * time.Hour
	MaxHorizon      = 100 * 24 * time.Hour // at a second each: 100 MB
	DefaultDuration = 10 * time.Second     // of a run that nobody has measured
	nextFires       = 3                    // due times shown of each schedule
)

// Forecast is what a simulated clock does to the schedules of tasks. Times are
// whole seconds; a run lasts at least one. Every run is taken to start when it
// is due and its limits allow, as if workers were never short: Queues tells
// whether they would be.
type Forecast struct {
	From      time.Time      `json:"from"`
	Until     time.Time      `json:"until"`
	Schedules int            `json:"schedules"`
	Total     Flow           `json:"total"`
	Second    Peak           `json:"most_starts_in_a_second"`
	Minute    Peak           `json:"most_starts_in_a_minute"`
	Running   Peak           `json:"most_running"`
	Queues    []QueueLoad    `json:"queues"`
	Tasks     []TaskForecast `json:"tasks"`
	TookMS    int64          `json:"took_ms"`
}

// Peak is the largest of a series of numbers, and when it is reached first.
type Peak struct {
	Count int64     `json:"count"`
	At    time.Time `json:"at,omitzero"`
}

// QueueLoad compares the runs of a queue with the slots of its workers.
type QueueLoad struct {
	Queue   string  `json:"queue"`
	Slots   int     `json:"slots"` // 0: not known
	Most    Peak    `json:"most_running"`
	Average float64 `json:"average_running"`
	Busy    int64   `json:"busy_seconds"`
}

// TaskForecast is what becomes of one task's schedules.
type TaskForecast struct {
	Task      string             `json:"task"`
	Queue     string             `json:"queue"`
	Duration  task.Duration      `json:"duration"`
	Measured  bool               `json:"measured"` // else the duration is assumed
	Flow      Flow               `json:"flow"`
	Schedules []ScheduleForecast `json:"schedules"`
}

// ScheduleForecast is one schedule with its next due times.
type ScheduleForecast struct {
	Text  string      `json:"schedule"`
	Means string      `json:"means,omitempty"`
	Next  []time.Time `json:"next"`
	Fires int64       `json:"fires"`           // within the horizon
	Never string      `json:"never,omitempty"` // why it does not fire within it
}

// Clock says from when to when to simulate, and with what.
type Clock struct {
	From     time.Time
	Until    time.Time                // zero: From plus DefaultHorizon
	Duration time.Duration            // of runs that nobody has measured; 0: DefaultDuration
	Measured map[string]time.Duration // by task
	Slots    map[string]int           // by queue; nil: not known
	Parse    func(task.Schedule) (scheduler.Spec, error)
}

// Validate checks the horizon.
func (c Clock) Validate() error {
	c = c.withDefaults()
	switch {
	case !c.Until.After(c.From):
		return task.Errorf(task.CodeInvalid, "the end of the simulation, %s, has passed", c.Until.Format(time.RFC3339)).At("--until").Fix("use a time to come, such as +30d")
	case c.Until.Sub(c.From) > MaxHorizon:
		return task.Errorf(task.CodeInvalid, "the simulation is longer than %d days", int(MaxHorizon.Hours()/24)).At("--until").Fix("use an earlier end")
	case c.Duration < 0:
		return task.Errorf(task.CodeInvalid, "a run cannot last %v", c.Duration).At("--duration")
	}
	return nil
}

func (c Clock) withDefaults() Clock {
	c.From = c.From.UTC().Truncate(time.Second)
	if c.Until.IsZero() {
		c.Until = c.From.Add(DefaultHorizon)
	}
	if c.Duration == 0 {
		c.Duration = DefaultDuration
	}
	if c.Parse == nil {
		c.Parse = scheduler.Parse
	}
	return c
}

// planned is a schedule that fires.
type planned struct {
	task.Schedule
	spec     scheduler.Spec
	key      string // schedules of the same key have the same due times
	forecast *ScheduleForecast
}

func (p *planned) overlap() task.Overlap {
	if p.Overlap == "" {
		return task.OverlapSkip
	}
	return p.Overlap
}

func (p *planned) bufferSize() int {
	if p.Buffer == 0 {
		return task.DefaultBuffer
	}
	return p.Buffer
}

// Simulate plays the schedules of the tasks from clock.From to clock.Until.
// Schedules that behave alike are played once, so that time is spent on
// different ones; memory is bounded by the horizon, not by the number of due times.
func Simulate(tasks []task.Task, clock Clock) (*Forecast, error) {
	began := time.Now()
	clock = clock.withDefaults()
	if err := clock.Validate(); err != nil {
		return nil, err
	}
	m := newSimulation(clock)
	for _, t := range tasks {
		if len(t.Schedule) > 0 {
			m.plan(t)
		}
	}
	for _, queue := range slices.Sorted(maps.Keys(m.queues)) {
		m.play(queue)
	}
	m.finish()
	m.out.TookMS = time.Since(began).Milliseconds()
	return m.out, nil
}

// simulation is one Simulate.
type simulation struct {
	clock   Clock
	out     *Forecast
	streams *streams
	queues  map[string]map[string]*group
	tasks   []*TaskForecast
	starts  []int32 // of all queues
	running []int32 // changes, of all queues
	one     []int32 // changes, of the queue in play
}

// group is schedules, or tasks with limits, that behave alike.
type group struct {
	schedules   []*planned // of one of them
	lasts       int32
	rate        *task.Rate
	concurrency *task.Concurrency
	owners      []*TaskForecast
	fires       []*planned // of all of them
}

func newSimulation(clock Clock) *simulation {
	n := int32(clock.Until.Sub(clock.From) / time.Second)
	return &simulation{
		clock: clock, out: &Forecast{From: clock.From, Until: clock.Until},
		streams: &streams{from: clock.From, seconds: n, known: map[string]*stream{}},
		queues:  map[string]map[string]*group{},
		starts:  make([]int32, n), running: make([]int32, n+1), one: make([]int32, n+1),
	}
}

// plan reads the schedules of a task and puts them into groups.
func (m *simulation) plan(t task.Task) {
	d := t.Normalize()
	f := &TaskForecast{Task: t.Name, Queue: d.Queue, Duration: task.Duration(m.clock.Duration), Schedules: make([]ScheduleForecast, len(t.Schedule))}
	if measured, known := m.clock.Measured[t.Name]; known {
		f.Duration, f.Measured = task.Duration(measured.Round(time.Microsecond)), true
	}
	m.tasks = append(m.tasks, f)
	var firing []*planned
	for i, s := range t.Schedule {
		m.out.Schedules++
		if p := m.read(t, s, &f.Schedules[i]); p != nil {
			firing = append(firing, p)
		}
	}
	if len(firing) > 0 {
		m.group(d, f, firing)
	}
}

// read parses a schedule; nil: it does not fire, and forecast says why.
func (m *simulation) read(t task.Task, s task.Schedule, forecast *ScheduleForecast) *planned {
	forecast.Text, forecast.Next = scheduleText(s), []time.Time{}
	spec, err := m.clock.Parse(s)
	if err != nil {
		forecast.Never = err.Error()
		return nil
	}
	forecast.Means = scheduler.Describe(spec)
	at, ok := spec.Next(m.clock.From.Add(-time.Microsecond))
	switch {
	case !ok:
		forecast.Never = "its last due time has passed"
	case t.Paused:
		forecast.Never = "the task is paused"
	case s.Paused:
		forecast.Never = "the schedule is paused"
	case !at.Before(m.clock.Until):
		forecast.Never = "it is first due at " + at.Format(time.RFC3339)
	}
	for ; ok && len(forecast.Next) < nextFires; at, ok = spec.Next(at) {
		forecast.Next = append(forecast.Next, at)
	}
	if forecast.Never != "" {
		return nil
	}
	return &planned{Schedule: s, spec: spec, key: timesKey(s), forecast: forecast}
}

func (m *simulation) group(d task.Definition, f *TaskForecast, firing []*planned) {
	groups := m.queues[d.Queue]
	if groups == nil {
		groups = map[string]*group{}
		m.queues[d.Queue] = groups
	}
	lasts := seconds(time.Duration(f.Duration))
	if d.Rate == nil && d.Concurrency == nil { // each schedule is on its own
		for _, p := range firing {
			key := fmt.Sprintf("%d %s %d %s", lasts, p.overlap(), p.bufferSize(), p.key)
			join(groups, key, &group{schedules: []*planned{p}, lasts: lasts}, f, []*planned{p})
		}
		return
	}
	limits, _ := json.Marshal([]any{d.Rate, d.Concurrency}) // structs of numbers and texts
	key := fmt.Sprintf("limited %d %s", lasts, limits)
	for _, p := range firing {
		key += fmt.Sprintf(" %s %d %s", p.overlap(), p.bufferSize(), p.key)
	}
	join(groups, key, &group{schedules: firing, lasts: lasts, rate: d.Rate, concurrency: d.Concurrency}, f, firing)
}

func join(groups map[string]*group, key string, fresh *group, owner *TaskForecast, firing []*planned) {
	g := groups[key]
	if g == nil {
		g = fresh
		groups[key] = g
	}
	g.owners, g.fires = append(g.owners, owner), append(g.fires, firing...)
}

// play runs the groups of one queue; those with the same due times follow one
// another, so that the times are in the cache of the processor.
func (m *simulation) play(queue string) {
	clear(m.one)
	load := QueueLoad{Queue: queue, Slots: m.clock.Slots[queue]}
	groups := slices.Collect(maps.Values(m.queues[queue]))
	slices.SortFunc(groups, func(a, b *group) int {
		if a.schedules[0].key < b.schedules[0].key {
			return -1
		}
		return 1
	})
	for _, g := range groups {
		t := &timeline{starts: m.starts, running: m.one, weight: int32(len(g.owners))}
		flow := m.flow(g, t)
		for _, owner := range g.owners {
			owner.Flow.add(flow)
			m.out.Total.add(flow)
		}
		for _, p := range g.fires {
			p.forecast.Fires = int64(m.streams.of(p).n)
		}
		load.Busy += t.busy
	}
	load.Most = m.peak(m.one)
	load.Average = float64(load.Busy) / m.clock.Until.Sub(m.clock.From).Seconds()
	for i, change := range m.one {
		m.running[i] += change
	}
	m.out.Queues = append(m.out.Queues, load)
}

func (m *simulation) flow(g *group, t *timeline) Flow {
	if g.rate == nil && g.concurrency == nil {
		p := g.schedules[0]
		return single(m.streams.of(p), p.overlap(), p.bufferSize(), g.lasts, t)
	}
	return newLimited(g.schedules, m.streams, g.lasts, g.rate, g.concurrency, t).play()
}

func (m *simulation) finish() {
	m.out.Running = m.peak(m.running)
	minute, start := int64(0), m.clock.From.Unix()
	for i, count := range m.starts {
		if int64(count) > m.out.Second.Count {
			m.out.Second = Peak{int64(count), m.at(i)}
		}
		if at := start + int64(i); at%60 == 0 {
			minute = 0
		}
		if minute += int64(count); minute > m.out.Minute.Count {
			m.out.Minute = Peak{minute, m.at(i).Truncate(time.Minute)}
		}
	}
	m.out.Tasks = make([]TaskForecast, len(m.tasks))
	for i, t := range m.tasks {
		m.out.Tasks[i] = *t
	}
	slices.SortStableFunc(m.out.Tasks, func(a, b TaskForecast) int { return int(b.Flow.Fires - a.Flow.Fires) })
	if m.out.Queues == nil {
		m.out.Queues = []QueueLoad{}
	}
}

func (m *simulation) at(second int) time.Time {
	return m.clock.From.Add(time.Duration(second) * time.Second)
}

// peak adds up changes and finds the most.
func (m *simulation) peak(changes []int32) (p Peak) {
	now := int64(0)
	for i, change := range changes {
		if now += int64(change); now > p.Count {
			p = Peak{now, m.at(i)}
		}
	}
	return p
}

// seconds rounds up; nothing lasts less than one.
func seconds(d time.Duration) int32 {
	return int32(max(min((d+time.Second-1)/time.Second, MaxHorizon/time.Second), 1))
}

// scheduleText is a schedule as its author wrote it, shortened.
func scheduleText(s task.Schedule) string {
	var text string
	switch {
	case s.Cron != "":
		text = s.Cron
	case s.At != nil:
		text = "at " + s.At.UTC().Format(time.RFC3339)
	case s.Every > 0:
		text = "every " + s.Every.String()
	case s.Calendar != nil:
		text = fmt.Sprintf("calendar %v", s.Calendar.Times)
	}
	if s.Timezone != "" && s.Timezone != "UTC" {
		text += " " + s.Timezone
	}
	return text
}
