package configs

import (
	"sort"
	"strings"

	"github.com/catena-run/catena/task"
)

// meant are names, in lower case, that others give to settings of ours and that
// look like none of them, or like the wrong one.
var meant = map[string]string{
	"admin": "master.admin", "admin.address": "master.admin", "admin.listen": "master.admin", "admin.host": "master.admin", "admin.port": "master.admin",
	"master.address": "master.admin", "master.listen": "master.admin", "master.port": "master.admin", "api": "master.admin", "api.address": "master.admin",
	"http": "server.http", "http.address": "server.http", "http.listen": "server.http", "http.port": "server.http",
	"server.address": "server.http", "server.listen": "server.http", "server.port": "server.http",
	"https": "server.https", "tls": "server.https", "server.tls": "server.https",
	"database": "postgres", "db": "postgres", "database.url": "postgres.url", "db.url": "postgres.url", "postgres.dsn": "postgres.url",
	"redis.address": "redis.url", "redis.addr": "redis.url",
	"logging": "log", "logger": "log", "logging.level": "log.level", "logger.level": "log.level",
	"workers": "master.workers", "worker.count": "master.workers", "workers.count": "master.workers", "worker.concurrency": "worker.slots",
	"worker.memory": "worker.maxMemory", "worker.maxage": "worker.ttl",
}

// nearestKey looks for path among all keys and sections: first among what others
// call them, then among its siblings, then anywhere, then for a key of that name in another section.
func nearestKey(path string, known []string) string {
	if len(path) > 200 {
		return ""
	}
	if near := meant[strings.ToLower(path)]; near != "" {
		return near
	}
	var siblings, named []string
	for _, k := range known {
		if parent(k) == parent(path) {
			siblings = append(siblings, k)
		}
		if strings.EqualFold(lastPart(k), lastPart(path)) {
			named = append(named, k)
		}
	}
	if near := nearestByLastPart(path, siblings); near != "" {
		return near
	}
	if near := task.Nearest(path, named); near != "" {
		return near
	}
	if near := task.Nearest(path, known); near != "" {
		return near
	}
	if len(named) > 0 {
		return named[0]
	}
	return ""
}

func nearestByLastPart(path string, siblings []string) string {
	byName := make(map[string]string, len(siblings))
	names := make([]string, 0, len(siblings))
	for _, s := range siblings {
		byName[lastPart(s)] = s
		names = append(names, lastPart(s))
	}
	sort.Strings(names)
	return byName[task.Nearest(lastPart(path), names)]
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
