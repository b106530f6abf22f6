package queue

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/catena-run/catena/task"
)

// Config says where Redis is: a single server (URL) or one found through
// Sentinel. With Sentinel.MasterName set, URL is not used.
type Config struct {
	URL       string   `koanf:"url" yaml:"url" secret:"url"` // redis://[user:password@]host:port/db, rediss:// or unix://
	Sentinel  Sentinel `koanf:"sentinel" yaml:"sentinel"`
	Namespace string   `koanf:"namespace" yaml:"namespace"` // keeps clusters on one server apart
	// The cluster, for those that use the same server to know of it; "": unknown.
	ClusterID   string `koanf:"-" yaml:"-"`
	ClusterName string `koanf:"-" yaml:"-"`
}

// Sentinel finds the current master of a replicated Redis.
type Sentinel struct {
	MasterName       string   `koanf:"masterName" yaml:"masterName"`
	Addrs            []string `koanf:"addrs" yaml:"addrs"` // host:port of the sentinels
	Username         string   `koanf:"username" yaml:"username"`
	Password         string   `koanf:"password" yaml:"password" secret:"true"`
	SentinelUsername string   `koanf:"sentinelUsername" yaml:"sentinelUsername"`
	SentinelPassword string   `koanf:"sentinelPassword" yaml:"sentinelPassword" secret:"true"`
	DB               int      `koanf:"db" yaml:"db"`
}

// Redis keys are built from namespaces: no braces, blanks or colons.
var namespacePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

const urlRemedy = "write redis://[user:password@]host:port/db, rediss:// for TLS or unix:///path, with special characters percent-encoded"

// Validate checks c without reaching for a server. No error shows a password.
func (c Config) Validate() error {
	if !namespacePattern.MatchString(c.Namespace) {
		return task.Errorf(task.CodeInvalid, "%q cannot be a namespace", c.Namespace).At("redis.namespace").
			Fix(`use letters, digits, ".", "_" and "-", at most 100 characters`)
	}
	if c.Sentinel.MasterName != "" || len(c.Sentinel.Addrs) > 0 {
		return c.Sentinel.validate()
	}
	_, err := parseURL(c.URL)
	return err
}

func (s Sentinel) validate() error {
	switch {
	case s.MasterName == "":
		return task.Errorf(task.CodeInvalid, "sentinels are given, but not which master they watch").At("redis.sentinel.masterName").
			Fix(`set it to the name in "sentinel monitor NAME ..."`)
	case len(s.Addrs) == 0:
		return task.Errorf(task.CodeInvalid, "no sentinel's address is given").At("redis.sentinel.addrs").Fix("list host:port of each")
	case slices.ContainsFunc(s.Addrs, func(a string) bool { return !strings.Contains(a, ":") || strings.Contains(a, "@") }):
		return task.Errorf(task.CodeInvalid, "a sentinel's address is not host:port").At("redis.sentinel.addrs").Fix("list host:port of each, without credentials")
	case s.DB < 0:
		return task.Errorf(task.CodeInvalid, "database %d is out of range", s.DB).At("redis.sentinel.db")
	}
	return nil
}

// Addr names the server without credentials.
func (c Config) Addr() string {
	if c.Sentinel.MasterName != "" {
		addrs := slices.Clone(c.Sentinel.Addrs)
		for i, addr := range addrs {
			addrs[i] = addr[strings.LastIndex(addr, "@")+1:]
		}
		return c.Sentinel.MasterName + " by sentinels " + strings.Join(addrs, ",")
	}
	options, err := parseURL(c.URL)
	if err != nil {
		return Unknown
	}
	return options.Addr
}

// parseURL drops the cause of a failure on purpose: the messages of net/url quote
// what they could not read, which may be a piece of a password.
func parseURL(text string) (*redis.Options, error) {
	where := "redis.url"
	if text == "" {
		return nil, task.Errorf(task.CodeInvalid, "no Redis server is given").At(where).Fix(urlRemedy)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, task.Errorf(task.CodeInvalid, "the Redis URL cannot be read").At(where).Fix(urlRemedy)
	}
	if !slices.Contains([]string{"redis", "rediss", "unix"}, u.Scheme) {
		return nil, task.Errorf(task.CodeInvalid, "the Redis URL does not begin with redis://, rediss:// or unix://").At(where).Fix(urlRemedy)
	}
	options, err := redis.ParseURL(text)
	if err != nil {
		return nil, task.Errorf(task.CodeInvalid, "the Redis URL has a bad database number or option").At(where).Fix(urlRemedy)
	}
	return options, nil
}

// Short limits make an outage show soon; the callers above try again anyway.
const (
	dialTimeout = 2 * time.Second
	ioTimeout   = 3 * time.Second
	maxRetries  = 1
)

// connect makes a client. It opens no connection yet.
func (c Config) connect(poolSize int) (*redis.Client, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if s := c.Sentinel; s.MasterName != "" {
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: s.MasterName, SentinelAddrs: s.Addrs,
			SentinelUsername: s.SentinelUsername, SentinelPassword: s.SentinelPassword,
			Username: s.Username, Password: s.Password, DB: s.DB,
			DialTimeout: dialTimeout, DialerRetries: 1, ReadTimeout: ioTimeout, WriteTimeout: ioTimeout, MaxRetries: maxRetries,
			PoolSize: poolSize, ContextTimeoutEnabled: true, DisableIdentity: true,
		}), nil
	}
	options, err := parseURL(c.URL)
	if err != nil {
		return nil, err
	}
	options.DialTimeout, options.DialerRetries = dialTimeout, 1
	options.ReadTimeout, options.WriteTimeout, options.MaxRetries = ioTimeout, ioTimeout, maxRetries
	options.PoolSize, options.ContextTimeoutEnabled = poolSize, true
	options.DisableIdentity = true
	// The notices of managed clusters are not used; asking for them costs a failing command per connection.
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewClient(options), nil
}
