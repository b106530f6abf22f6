package task

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

// Dedupe makes one run of those that are asked for with the same key within a
// window; the others are answered with that run.
type Dedupe struct {
	Key    string   `json:"key"`    // "${...}" over params
	Window Duration `json:"window"` // from the first run on
}
