package lifecycle

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// ownCgroup is the leaf into which a process moves itself, since a cgroup whose
// controllers are handed to its children holds no processes.
const ownCgroup = "catena-master"

// childCgroup begins the names of children's cgroups.
const childCgroup = "catena-worker-"

// Cgroups makes a cgroup of version 2 for each child, below that of this
// process. That takes a cgroup that was delegated to it (Delegate=yes in
// systemd); elsewhere NewCgroups says why not.
type Cgroups struct {
	root string // holds a leaf for this process and those of its children
	seq  int
}

// NewCgroupsAt prepares root, of which self, the cgroup of this process, is
// either root itself or the leaf that a process before this one made there.
func NewCgroupsAt(self string) (*Cgroups, error) {
	c := &Cgroups{root: self}
	prepared := filepath.Base(self) == ownCgroup
	if prepared {
		c.root = filepath.Dir(self)
	}
	if _, err := os.Stat(filepath.Join(c.root, "cgroup.type")); err != nil {
		return nil, errors.New("this process is in the root of all cgroups, which is not to be divided")
	}
	controllers, err := os.ReadFile(filepath.Join(c.root, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	if !slices.Contains(strings.Fields(string(controllers)), "memory") {
		return nil, errors.New("the memory controller is not there for " + c.root)
	}
	if !prepared {
		if err := c.prepare(); err != nil {
			return nil, err
		}
	}
	c.sweep()
	return c, nil
}

// prepare moves this process into a leaf and hands the controller on. When that
// cannot be done it moves back.
func (c *Cgroups) prepare() error {
	leaf := filepath.Join(c.root, ownCgroup)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	err := setting(leaf, "cgroup.procs", "0")
	if err == nil {
		err = setting(c.root, "cgroup.subtree_control", "+memory")
		if err == nil {
			return nil
		}
		err = errors.Join(err, setting(c.root, "cgroup.procs", "0"))
	}
	_ = os.Remove(leaf)
	return err
}

// sweep removes what children of processes before this one have left. A cgroup
// with processes stays, and so does one of a process that lives: it may have made
// it just now.
func (c *Cgroups) sweep() {
	left, _ := filepath.Glob(filepath.Join(c.root, childCgroup+"*"))
	for _, path := range left {
		maker, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), childCgroup), "-")
		if pid, err := strconv.Atoi(maker); err != nil || pid == os.Getpid() || !lives(pid) {
			_ = os.Remove(path)
		}
	}
}

func lives(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	defer func() { _ = p.Release() }()
	err = p.Signal(syscall.Signal(0))
	return err == nil || errors.Is(err, os.ErrPermission)
}

func setting(cgroup, name, value string) error {
	return os.WriteFile(filepath.Join(cgroup, name), []byte(value), 0o644) //nolint:gosec // the kernel's own file
}

// Cgroup is the cgroup of one child.
type Cgroup struct {
	path string
	dir  *os.File
}

// New makes a cgroup whose processes get at most memory bytes together, and are
// killed together when they need more. It is not for several goroutines at once.
func (c *Cgroups) New(memory uint64) (*Cgroup, error) {
	c.seq++
	g := &Cgroup{path: filepath.Join(c.root, childCgroup+strconv.Itoa(os.Getpid())+"-"+strconv.Itoa(c.seq))}
	err := os.Mkdir(g.path, 0o755)
	if err != nil {
		return nil, err
	}
	err = setting(g.path, "memory.max", strconv.FormatUint(memory, 10))
	if err == nil {
		err = setting(g.path, "memory.oom.group", "1")
	}
	if err == nil {
		g.dir, err = os.Open(g.path)
	}
	if err != nil {
		g.Remove()
		return nil, err
	}
	_ = setting(g.path, "memory.swap.max", "0") // not there without swap accounting
	return g, nil
}

// Killed reports whether the kernel has killed processes of the cgroup for
// their memory.
func (g *Cgroup) Killed() bool {
	text, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if count, found := strings.CutPrefix(line, "oom_kill "); found {
			return strings.TrimSpace(count) != "0"
		}
	}
	return false
}

// Remove removes the cgroup once its processes have ended. It may be called twice.
func (g *Cgroup) Remove() {
	if g.dir != nil {
		_ = g.dir.Close()
		g.dir = nil
	}
	_ = os.Remove(g.path)
}
