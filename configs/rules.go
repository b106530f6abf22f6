package configs

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

// Validate returns every problem of c joined, each with the path of its key,
// its value and a remedy; nil when there is none.
func (c Config) Validate() error {
	var errs []error
	for _, p := range c.problems() {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// Missing lists the settings without a default that a master and a worker need.
func (c Config) Missing() []error {
	var errs []error
	if c.Postgres.URL == "" {
		errs = append(errs, task.Errorf(task.CodeInvalid, "no database is given").At("postgres.url").
			Fix("set postgres.url in the file or %s in the environment", envName("postgres.url")))
	}
	if c.Redis.URL == "" && c.Redis.Sentinel.Master == "" {
		errs = append(errs, task.Errorf(task.CodeInvalid, "no Redis is given").At("redis.url").
			Fix("set redis.url or redis.sentinel in the file or %s in the environment", envName("redis.url")))
	}
	return errs
}

func (c Config) problems() []*task.Error {
	var found []*task.Error
	value := reflect.ValueOf(c)
	for _, key := range Keys() {
		field := value.FieldByIndex(key.index)
		if p := key.outOfBounds(field); p != nil {
			found = append(found, p.At(key.Path))
		}
		if p := key.breaksRule(field); p != nil {
			found = append(found, p.At(key.Path))
		}
	}
	return append(found, c.contradictions()...)
}

func (k Key) outOfBounds(field reflect.Value) *task.Error {
	if len(k.Enum) > 0 && !slices.Contains(k.Enum, field.String()) {
		return task.Errorf(task.CodeInvalid, "unknown value %q", field.String()).Fix("use %s", strings.Join(k.Enum, ", "))
	}
	if !field.CanInt() {
		return nil
	}
	switch {
	case k.Min != "" && field.Int() < bound(k.Kind, k.Min):
		return task.Errorf(task.CodeInvalid, "%s is too small", show(field)).Fix("use at least %s", k.Min)
	case k.Max != "" && field.Int() > bound(k.Kind, k.Max):
		return task.Errorf(task.CodeInvalid, "%s is too large", show(field)).Fix("use at most %s", k.Max)
	case field.Int() < 0:
		return task.Errorf(task.CodeInvalid, "%s is negative", show(field)).Fix("use 0 or more")
	}
	return nil
}

func (k Key) breaksRule(field reflect.Value) *task.Error {
	switch k.check {
	case "name":
		return checkName(field.String())
	case "address":
		return checkAddress(field.String())
	case "optional-address":
		if field.String() == "" {
			return nil
		}
		return checkAddress(field.String())
	case "addresses":
		return checkEach(field, checkAddress)
	case "queues":
		if field.Len() == 0 {
			return task.Errorf(task.CodeInvalid, "the list is empty").Fix(`use ["*"] to serve all queues`)
		}
		return checkEach(field, checkQueue)
	case "tags":
		return checkEach(field, checkTag)
	case "postgres":
		return checkURL(field.String(), "postgres://user@host:5432/database", "postgres", "postgresql")
	case "receiver":
		return checkURL(field.String(), "http://host:4318", "http", "https")
	case "redis":
		return checkURL(field.String(), "redis://host:6379/0", "redis", "rediss", "unix")
	}
	return nil
}

func checkEach(field reflect.Value, check func(string) *task.Error) *task.Error {
	for i := range field.Len() {
		if p := check(field.Index(i).String()); p != nil {
			return p
		}
	}
	return nil
}

func checkName(name string) *task.Error {
	if task.ValidQueue(name) {
		return nil
	}
	return task.Errorf(task.CodeInvalid, "%q cannot name a cluster", name).
		Fix(`use lower-case letters, digits, "_" and "-", at most 60 characters`)
}

func checkTag(tag string) *task.Error {
	if !task.ValidTag(tag) {
		return task.Errorf(task.CodeInvalid, "%q cannot be a tag", tag).
			Fix(`use lower-case letters, digits, ".", "_" and "-", at most 60 characters`)
	}
	return nil
}

func checkQueue(name string) *task.Error {
	if name == "*" || task.ValidQueue(name) {
		return nil
	}
	return task.Errorf(task.CodeInvalid, "%q cannot name a queue", name).
		Fix(`use lower-case letters, digits, "_" and "-", or "*" for all queues`)
}

func checkAddress(address string) *task.Error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil {
		return nil
	}
	return task.Errorf(task.CodeInvalid, "%q is not an address", address).Fix("write host:port, such as 127.0.0.1:20081")
}

// checkURL never shows the value, for it may hold a password in a place that
// no masking finds.
func checkURL(text, example string, schemes ...string) *task.Error {
	if text == "" {
		return nil
	}
	isKeyValue := schemes[0] == "postgres" && !strings.Contains(text, "://") && strings.Contains(text, "=")
	if isKeyValue {
		return nil
	}
	parsed, err := url.Parse(text)
	if err != nil {
		return task.Errorf(task.CodeInvalid, "the value is not a URL").
			Fix("write %s and percent-encode special characters of the password", example)
	}
	if !slices.Contains(schemes, parsed.Scheme) {
		return task.Errorf(task.CodeInvalid, "the URL does not start with %s://", schemes[0]).Fix("write %s", example)
	}
	return nil
}

// contradictions are the rules about two keys.
func (c Config) contradictions() []*task.Error {
	var found []*task.Error
	add := func(bad bool, path, remedy, format string, args ...any) {
		if bad {
			for i, arg := range args {
				if d, ok := arg.(task.Duration); ok {
					args[i] = task.DurationText(time.Duration(d))
				}
			}
			found = append(found, task.Errorf(task.CodeInvalid, format, args...).At(path).Fix("%s", remedy))
		}
	}
	s := c.Redis.Sentinel
	add(c.Redis.URL != "" && s.Master != "", "redis.sentinel.master", "keep redis.url or redis.sentinel", "a Redis is also given by redis.url")
	add(s.Master != "" && len(s.Addresses) == 0, "redis.sentinel.addresses", "list host:port of each Sentinel", "no Sentinel is given")
	add(s.Master == "" && len(s.Addresses) > 0, "redis.sentinel.master", "name the Redis that the Sentinels watch", "the Sentinels' name of the Redis is missing")
	add(c.Worker.MaxMemory > 0 && c.Script.HeapLimit >= c.Worker.MaxMemory, "script.heapLimit", "lower it or raise worker.maxMemory",
		"%s is not below worker.maxMemory (%s)", c.Script.HeapLimit, c.Worker.MaxMemory)
	add(c.Worker.MaxMemory > 0 && c.Worker.MaxMemory < 64*MiB, "worker.maxMemory", "use at least 64MiB, or 0 for no limit", "%s is too small", c.Worker.MaxMemory)
	add(c.Worker.TTL > 0 && c.Worker.TTL < task.Duration(10e9), "worker.ttl", "use at least 10s, or 0s for no limit", "%s is too short", c.Worker.TTL)
	add(c.Retention.Logs > c.Retention.Runs, "retention.logs", "use at most the value of retention.runs",
		"%s is longer than retention.runs (%s)", c.Retention.Logs, c.Retention.Runs)
	add(c.Master.MaxWorkers > 0 && c.Master.MaxWorkers < c.Master.Workers, "master.maxWorkers", "raise it, or set it to 0 for a fixed number",
		"%d is less than master.workers (%d)", c.Master.MaxWorkers, c.Master.Workers)
	add(c.Server.HTTPS != "" && (c.Server.Certificate == "" || c.Server.Key == ""), "server.https", "set server.certificate and server.key to PEM files",
		"there is no certificate for it")
	add(c.Worker.TTL > 0 && c.Worker.TTL <= c.Worker.DrainTimeout, "worker.ttl", "raise it or lower worker.drainTimeout",
		"%s is not above worker.drainTimeout (%s): a worker would always drain", c.Worker.TTL, c.Worker.DrainTimeout)
	add(c.Worker.TTL > 0 && c.Master.HealthCheckInterval*2 > c.Worker.TTL, "master.healthCheckInterval", "lower it or raise worker.ttl",
		"%s is more than half of worker.ttl (%s)", c.Master.HealthCheckInterval, c.Worker.TTL)
	add(c.Server.HTTP != "" && c.Server.HTTP == c.Master.Admin && !strings.HasSuffix(c.Master.Admin, ":0"), "server.http", "use two ports",
		"%s", fmt.Sprintf("%s is also master.admin", c.Server.HTTP))
	return found
}
