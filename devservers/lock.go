package devservers

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/catena-run/catena/task"
)

// dirLock is an advisory lock on a folder. The kernel releases it when the
// process ends in any way; the file stays.
type dirLock struct{ file *os.File }

// lockDir takes the lock of dir, or says which process has it.
func lockDir(dir string) (*dirLock, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, _ := os.ReadFile(path)
		f.Close()
		return nil, task.Errorf(task.CodeConflict, "another process (pid %s) uses this data", strings.TrimSpace(string(holder))).
			At(dir).Fix("stop that process, or choose another data folder")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return &dirLock{file: f}, nil
}

func (l *dirLock) release() {
	if l != nil {
		l.file.Close()
	}
}
