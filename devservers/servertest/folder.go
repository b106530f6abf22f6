package servertest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const folderPrefix = "catena-test-"

// NewFolder makes a folder for servers and locks it for as long as this process
// lives; RemoveFolder, or the next test process that finds the lock free, removes it.
func NewFolder() (string, error) {
	dir, err := openTempDir(folderPrefix)
	if err != nil {
		return "", err
	}
	lock, err := os.Create(filepath.Join(dir, "owner"))
	if err != nil {
		return "", err
	}
	// A copy of the descriptor is never closed, so that no finalizer drops the lock.
	fd, err := syscall.Dup(int(lock.Fd()))
	if err != nil {
		return "", err
	}
	syscall.CloseOnExec(fd)
	defer lock.Close()
	return dir, syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB)
}

// openTempDir makes a temporary folder that every user may enter.
func openTempDir(prefix string) (string, error) {
	for _, base := range tempBases() {
		if !anyoneMayEnter(base) {
			continue
		}
		dir, err := os.MkdirTemp(base, prefix)
		if err != nil {
			continue
		}
		return dir, os.Chmod(dir, 0o755)
	}
	return "", errNoTempDir
}

func tempBases() []string { return []string{os.TempDir(), "/tmp", "/var/tmp"} }

// anyoneMayEnter matters only to root, who runs PostgreSQL as another user.
func anyoneMayEnter(dir string) bool {
	if os.Geteuid() != 0 {
		return true
	}
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
}

// removeDeadFolders removes what test processes left that are gone.
func removeDeadFolders() {
	for _, base := range tempBases() {
		found, _ := filepath.Glob(filepath.Join(base, folderPrefix+"*"))
		for _, dir := range found {
			if isDead(dir) {
				_ = os.RemoveAll(dir)
			}
		}
	}
}

// isDead tells whether the owner of a folder is gone: its lock is free.
func isDead(dir string) bool {
	f, err := os.Open(filepath.Join(dir, "owner"))
	if err != nil {
		info, statErr := os.Stat(dir)
		return statErr == nil && os.IsNotExist(err) && time.Since(info.ModTime()) > time.Minute
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || time.Since(info.ModTime()) < 2*time.Second { // its owner may be about to lock it
		return false
	}
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

// RemoveFolder removes a folder made by NewFolder.
func RemoveFolder(dir string) error {
	if !strings.HasPrefix(filepath.Base(dir), folderPrefix) {
		return os.ErrInvalid
	}
	return os.RemoveAll(dir)
}
