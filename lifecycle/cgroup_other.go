//go:build !linux

package lifecycle

import (
	"errors"
	"os/exec"
)

// NewCgroups fails: only Linux has cgroups.
func NewCgroups() (*Cgroups, error) { return nil, errors.New("this system has no cgroups") }

// Attach does nothing: there is no cgroup to start in.
func (g *Cgroup) Attach(*exec.Cmd) {}
