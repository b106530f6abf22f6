package devservers

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shirou/gopsutil/v3/process"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/lifecycle"
	"github.com/catena-run/catena/task"
)

const (
	elsewhereRoot  = "/var/lib/catena"
	maxLogSize     = 16 << 20
	orphanPatience = 15 * time.Second
)

// chooseHome makes the folder for the server's files and returns its real path:
// dataDir itself, or one under /var/lib/catena when the account cannot enter it.
func chooseHome(dataDir string, acc *account, log logrus.FieldLogger) (string, error) {
	if err := os.MkdirAll(dataDir, 0o755); err != nil {
		return "", err
	}
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return "", err
	}
	home, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", err
	}
	if blocked := acc.blockedBy(home); blocked != "" {
		if home, err = moveElsewhere(home, blocked, acc, log); err != nil {
			return "", err
		}
	}
	return home, acc.own(home)
}

// moveElsewhere follows the link dataDir/elsewhere, or makes the folder and it.
func moveElsewhere(dataDir, blocked string, acc *account, log logrus.FieldLogger) (string, error) {
	link := filepath.Join(dataDir, "elsewhere")
	if home, err := filepath.EvalSymlinks(link); err == nil && acc.blockedBy(home) == "" {
		return home, nil
	}
	refuse := func(err error) error {
		return task.Errorf(task.CodeForbidden, "PostgreSQL runs as the user %s, who cannot enter %s, and %s cannot be used instead: %w", acc.name, blocked, elsewhereRoot, err).
			At(dataDir).Fix("choose a data folder that all users can enter, or start this as a normal user")
	}
	if err := os.MkdirAll(elsewhereRoot, 0o755); err != nil {
		return "", refuse(err)
	}
	home, err := os.MkdirTemp(elsewhereRoot, "dev-")
	if err != nil {
		return "", refuse(err)
	}
	if at := acc.blockedBy(home); at != "" {
		_ = os.Remove(home)
		return "", refuse(errors.New("the user cannot enter " + at))
	}
	_ = os.Remove(link)
	if err := os.Symlink(home, link); err != nil {
		return "", err
	}
	log.WithFields(logrus.Fields{"folder": home, "link": link}).
		Warnf("PostgreSQL runs as the user %s, who cannot enter %s: its data is kept elsewhere", acc.name, blocked)
	return home, nil
}

// clearStalePid deals with the postmaster.pid of a server that was killed. The
// caller holds the lock of the folder, so a server that still runs on the data
// has lost its parent and is about to end, or was started by other means.
func clearStalePid(ctx context.Context, data string) error {
	path := filepath.Join(data, "postmaster.pid")
	ctx, cancel := context.WithTimeout(ctx, orphanPatience)
	defer cancel()
	for {
		pid, err := readPid(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !servesData(ctx, pid, data) {
			// Without this, PostgreSQL refuses to start when another process
			// of its user has got the number since.
			return os.Remove(path)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return task.Errorf(task.CodeConflict, "another PostgreSQL (pid %d) uses this data", pid).
				At(data).Fix("stop it with `kill -INT %d`, or choose another data folder", pid)
		}
	}
}

// readPid reads the first line of postmaster.pid.
func readPid(path string) (int32, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.ParseInt(strings.TrimSpace(line), 10, 32)
	return int32(pid), err
}

// servesData tells whether pid is a server on this data.
func servesData(ctx context.Context, pid int32, data string) bool {
	p, err := process.NewProcessWithContext(ctx, pid)
	if err != nil {
		return false
	}
	if state, err := p.StatusWithContext(ctx); err == nil && slices.Contains(state, process.Zombie) {
		return false
	}
	args, err := p.CmdlineSliceWithContext(ctx)
	return err == nil && slices.Contains(args, data)
}

// killBackends kills the postmaster and every process it has started, which
// each have a process group of their own.
func killBackends(pid int) error {
	victims := []int32{int32(pid)}
	if p, err := process.NewProcess(int32(pid)); err == nil {
		// Stopped first: it must not start another while these die.
		_ = p.Suspend()
		children, _ := p.Children()
		for _, c := range children {
			victims = append(victims, c.Pid)
		}
	}
	var errs []error
	for _, v := range victims {
		if err := syscall.Kill(int(v), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// openLog opens a server's log for appending, anew when it has grown large.
func openLog(path string) (*os.File, error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxLogSize {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o644)
}

// logTail returns the last lines of a server's log in one line.
func logTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "no log"
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 4096 {
		_, _ = f.Seek(-4096, 2)
	}
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		lines = append(lines, strings.TrimSpace(s.Text()))
	}
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}

func doneOf(c *lifecycle.Child) <-chan struct{} {
	if c == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	return c.Done()
}

func pidOf(c *lifecycle.Child) int {
	if c == nil || !c.Alive() {
		return 0
	}
	return c.PID()
}
