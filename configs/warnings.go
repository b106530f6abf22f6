package configs

import (
	"fmt"
	"net"

	"github.com/catena-run/catena/task"
)

// Warnings tells of values that are allowed each by itself, but together or in
// most places hardly what somebody wants.
func (c Config) Warnings() []task.Finding {
	found := []task.Finding{}
	warn := func(bad bool, path, remedy, format string, args ...any) {
		if bad {
			found = append(found, task.Warn(path, fmt.Sprintf(format, args...), remedy))
		}
	}
	warn(!c.Master.Leader && c.Master.Workers == 0, "master.leader", "set master.leader or master.workers",
		"a master that neither may lead nor has workers only answers the API")
	warn(c.Packages.CacheSize < c.Packages.MaxSize, "packages.cacheSize", "use at least packages.maxSize",
		"%s is below packages.maxSize (%s): the largest packages are read again for each use", c.Packages.CacheSize, c.Packages.MaxSize)
	warn(c.Worker.MaxMemory > 0 && c.Script.HeapLimit < c.Worker.MaxMemory && c.Script.HeapLimit+c.Packages.CacheSize >= c.Worker.MaxMemory,
		"worker.maxMemory", "raise it, or lower script.heapLimit or packages.cacheSize",
		"script.heapLimit (%s) and packages.cacheSize (%s) together reach it (%s): a busy worker is replaced before a greedy call is stopped",
		c.Script.HeapLimit, c.Packages.CacheSize, c.Worker.MaxMemory)
	warn(c.Script.MaxOutput > c.Script.HeapLimit/8, "script.maxOutput", "lower it or raise script.heapLimit",
		"%s is more than an eighth of script.heapLimit (%s): a few such answers stop all calls of a worker", c.Script.MaxOutput, c.Script.HeapLimit)
	warn(!loopback(c.Master.Admin), "master.admin", "use 127.0.0.1 behind a proxy that speaks HTTPS",
		"%s can be reached from other machines, and tokens travel there in the clear", c.Master.Admin)
	return found
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true // reported as an error
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
