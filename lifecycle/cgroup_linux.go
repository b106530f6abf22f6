package lifecycle

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// NewCgroups prepares the cgroup of this process for children of their own.
func NewCgroups() (*Cgroups, error) {
	self, err := cgroupOfSelf()
	if err != nil {
		return nil, err
	}
	return NewCgroupsAt(self)
}

func cgroupOfSelf() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(strings.TrimSpace(line), "0::"); found {
			mount, err := cgroupMount(string(mounts))
			return filepath.Join(mount, path), err
		}
	}
	return "", errors.New("this system has no cgroups of version 2")
}

// cgroupMount finds where cgroups of version 2 are, see proc_pid_mountinfo(5).
func cgroupMount(mounts string) (string, error) {
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4], nil
		}
	}
	return "", errors.New("cgroups of version 2 are not mounted")
}

// Attach has cmd start in the cgroup.
func (g *Cgroup) Attach(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(g.dir.Fd())
}
