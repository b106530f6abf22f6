package task

import "time"

// Stats says how large the tables are and what waits.
type Stats struct {
	Tables  []TableStats `json:"tables"`
	Ready   []LaneDepth  `json:"ready"`   // runs that wait, by lane and by what holds them
	Parcels []LaneDepth  `json:"parcels"` // by lane and state
}

// TableStats is one table, the partitions of a partitioned one summed. Rows are
// what Postgres estimates.
type TableStats struct {
	Table      string     `json:"table"`
	Partitions int        `json:"partitions,omitempty"`
	Rows       int64      `json:"rows"`
	DeadRows   int64      `json:"dead_rows"`
	Size       int64      `json:"size"`    // bytes of rows, with what is stored out of line
	Indexes    int64      `json:"indexes"` // bytes
	Oldest     *time.Time `json:"oldest,omitempty"`
	Newest     *time.Time `json:"newest,omitempty"`
	VacuumedAt *time.Time `json:"vacuumed_at,omitempty"` // last, by hand or automatically
	AnalyzedAt *time.Time `json:"analyzed_at,omitempty"`
}

// LaneDepth counts what stands in a lane in one state.
type LaneDepth struct {
	Lane  string `json:"lane"`
	State string `json:"state"` // of ready: later, paused, limited, buffered, or "" for room only
	Count int64  `json:"count"`
}
