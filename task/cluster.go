package task

import "time"

// ClusterFigures are what a master knows of its cluster and tells its workers;
// package code reads them as ctx.cluster.
type ClusterFigures struct {
	At      time.Time     `json:"at"`
	Leader  string        `json:"leader"` // the master that leads, "" when nobody does
	Workers int           `json:"workers"`
	Slots   int           `json:"slots"`     // runs that they can execute at once
	Running int           `json:"running"`   // runs that they execute
	Memory  int64         `json:"memory"`    // bytes that they hold
	Ready   int           `json:"ready"`     // runs that wait for room, counted up to 10,000
	Waited  float64       `json:"waited_ms"` // how long the oldest of them has waited
	Master  MasterFigures `json:"master"`    // the one that supervises this worker
}

// MasterFigures are those of one master and its host.
type MasterFigures struct {
	Name    string  `json:"name"`
	Leads   bool    `json:"leads"`
	Workers int     `json:"workers"` // that it supervises
	Memory  int64   `json:"memory"`  // bytes that its process holds
	Load    float64 `json:"load"`    // average of the host over a minute
	CPUs    int     `json:"cpus"`    // of the host
}
