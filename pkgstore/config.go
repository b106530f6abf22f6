package pkgstore

import (
	"time"

	"github.com/catena-run/catena/task"
)

const (
	mebi = 1 << 20

	// ManifestFile is the file that makes a folder a package.
	ManifestFile = "catena.yaml"

	maxPath = 255 // bytes of a path
)

// Limits bound what a package may hold. Zero values mean the defaults.
type Limits struct {
	MaxSize  int64 // bytes of all files; 0: 16 MiB
	MaxFiles int   // 0: 2000
}

// WithDefaults returns l with every default filled in.
func (l Limits) WithDefaults() Limits {
	if l.MaxSize == 0 {
		l.MaxSize = 16 * mebi
	}
	if l.MaxFiles == 0 {
		l.MaxFiles = 2000
	}
	return l
}

// MaxArchive is the size of a tar beyond which no allowed package can lie,
// whatever it was packed with. Bound the body of a push by it.
func (l Limits) MaxArchive() int64 {
	l = l.WithDefaults()
	return 2*l.MaxSize + int64(l.MaxFiles)*4096
}

// Config is how a Store works. Zero values mean the defaults.
type Config struct {
	MaxSize     int64         // bytes of the files of a version; 0: 16 MiB
	MaxFiles    int           // 0: 2000
	MaxBundle   int64         // bytes of what a push makes of the modules; 0: 64 MiB
	DeleteGrace time.Duration // how long a version stays undeletable after a channel left it; 0: 1m
}

// WithDefaults returns c with every default filled in.
func (c Config) WithDefaults() Config {
	limits := c.Limits().WithDefaults()
	c.MaxSize, c.MaxFiles = limits.MaxSize, limits.MaxFiles
	if c.MaxBundle == 0 {
		c.MaxBundle = 64 * mebi
	}
	if c.DeleteGrace == 0 {
		c.DeleteGrace = time.Minute
	}
	return c
}

// Limits returns the part of c that bounds a package.
func (c Config) Limits() Limits { return Limits{MaxSize: c.MaxSize, MaxFiles: c.MaxFiles} }

// Validate reports a value that cannot work.
func (c Config) Validate() error {
	c = c.WithDefaults()
	switch {
	case c.MaxSize < 1024 || c.MaxSize > 512*mebi:
		return task.Errorf(task.CodeInvalid, "%d bytes are out of range", c.MaxSize).At("maxSize").Fix("use 1024 to %d", 512*mebi)
	case c.MaxFiles < 1 || c.MaxFiles > 100_000:
		return task.Errorf(task.CodeInvalid, "%d files are out of range", c.MaxFiles).At("maxFiles").Fix("use 1 to 100000")
	case c.MaxBundle < c.MaxSize || c.MaxBundle > 512*mebi:
		return task.Errorf(task.CodeInvalid, "%d bytes are out of range", c.MaxBundle).At("maxBundle").Fix("use maxSize (%d) to %d", c.MaxSize, 512*mebi)
	case c.DeleteGrace < 0:
		return task.Errorf(task.CodeInvalid, "%s is negative", c.DeleteGrace).At("deleteGrace")
	}
	return nil
}
