package script

import (
	"net/url"
	"time"

	"github.com/catena-run/catena/task"
)

// Config limits the calls of an Engine. Zero values mean the defaults.
type Config struct {
	Timeout     time.Duration // wall time of one call; 0: 1m
	StackDepth  int           // nested function calls; 0: 2000
	MaxOutput   int           // bytes of JSON that a call may return; 0: 1 MiB
	HeapLimit   int64         // bytes of the process's heap at which a call is stopped; 0: 256 MiB, negative: none
	MaxAlloc    int64         // bytes that one built-in call such as "x".repeat(n) may take; 0: an eighth of HeapLimit
	MaxLogLine  int           // bytes of one line of a run's log; 0: 16 KiB
	CacheSize   int64         // bytes of source whose compiled programs are kept; 0: 64 MiB
	HTTPTimeout time.Duration // of one request of package code; 0: 30s
	HTTPMaxBody int64         // bytes of one response; 0: 10 MiB
	HTTPProxy   string        // URL of a proxy for the requests of package code; "": none, whatever the environment says
}

// Defaults of a Config.
const (
	DefaultTimeout     = time.Minute
	DefaultStackDepth  = 2000
	DefaultMaxOutput   = 1 << 20
	DefaultHeapLimit   = 256 << 20
	DefaultMaxLogLine  = 16 << 10
	DefaultCacheSize   = 64 << 20
	DefaultHTTPTimeout = 30 * time.Second
	DefaultHTTPMaxBody = 10 << 20
)

// maxStackDepth bounds the recursion of built-ins that call back into a script.
// Leaving it costs time by the square of its depth, 0.4 s at 2000 and 3.5 s at
// 4000, and its Go stack must stay well under the 1 GB that ends the process.
const maxStackDepth = 10_000

// Normalize returns c with every default filled in.
func (c Config) Normalize() Config {
	orDefault(&c.Timeout, DefaultTimeout)
	orDefault(&c.StackDepth, DefaultStackDepth)
	orDefault(&c.MaxOutput, DefaultMaxOutput)
	orDefault(&c.HeapLimit, DefaultHeapLimit)
	orDefault(&c.MaxLogLine, DefaultMaxLogLine)
	orDefault(&c.CacheSize, DefaultCacheSize)
	orDefault(&c.HTTPTimeout, DefaultHTTPTimeout)
	orDefault(&c.HTTPMaxBody, DefaultHTTPMaxBody)
	if c.MaxAlloc == 0 {
		c.MaxAlloc = max(c.HeapLimit, 128<<20) / 8
	}
	return c
}

func orDefault[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Validate reports the first value that cannot work.
func (c Config) Validate() error {
	switch {
	case c.Timeout < 0:
		return task.Errorf(task.CodeInvalid, "timeout %v is negative", c.Timeout).At("timeout")
	case c.StackDepth < 0 || c.StackDepth > maxStackDepth:
		return task.Errorf(task.CodeInvalid, "stack depth %d is out of range", c.StackDepth).At("stackDepth").Fix("use 1 to %d", maxStackDepth)
	case c.MaxOutput < 0:
		return task.Errorf(task.CodeInvalid, "output limit %d is negative", c.MaxOutput).At("maxOutput")
	case c.MaxAlloc < 0 || c.MaxLogLine < 0 || c.CacheSize < 0 || c.HTTPMaxBody < 0:
		return task.Errorf(task.CodeInvalid, "a size limit is negative").Fix("leave it out for its default")
	case c.HTTPTimeout < 0:
		return task.Errorf(task.CodeInvalid, "http timeout %v is negative", c.HTTPTimeout).At("httpTimeout")
	}
	if c.HTTPProxy == "" {
		return nil
	}
	if u, err := url.Parse(c.HTTPProxy); err != nil || u.Host == "" {
		return task.Errorf(task.CodeInvalid, "%q is not the URL of a proxy", c.HTTPProxy).At("httpProxy").Fix("write http://host:port")
	}
	return nil
}
