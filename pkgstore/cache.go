package pkgstore

import (
	"cmp"
	"container/list"
	"context"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/catena-run/catena/task"
)

// defaultCacheBytes bounds a cache that was given no limit.
const defaultCacheBytes = 128 * mebi

// Cache answers which version a package has at a release. It keeps the list of
// releases, which it completes when it is asked for a newer one than it knows,
// and the versions used last. It is safe for concurrent use.
type Cache struct {
	store   *Store
	limit   int64
	lookups *prometheus.CounterVec
	turn    chan struct{} // held by the one that reads the releases

	mu       sync.Mutex
	known    int64            // newest release that was read
	live     map[string][]pin // of each package, ids rising
	size     int64
	order    *list.List // of *Version, used last at the front
	versions map[string]*list.Element
	loading  map[string]chan struct{} // closed when a load has ended
}

// pin says that from release id on a package was at digest ("": removed).
type pin struct {
	id     int64
	digest string
}

// NewCache returns a cache that holds versions of up to maxBytes (0: 128 MiB)
// of code; the one used last stays whatever its size.
func NewCache(s *Store, maxBytes int64) *Cache {
	if maxBytes <= 0 {
		maxBytes = defaultCacheBytes
	}
	return &Cache{
		store: s, limit: maxBytes, lookups: newLookups(), turn: make(chan struct{}, 1),
		live: map[string][]pin{}, order: list.New(), versions: map[string]*list.Element{}, loading: map[string]chan struct{}{},
	}
}

// Resolve returns the version that was live at the release. It reads from the
// database only what the cache lacks, once however many ask at the same time.
func (c *Cache) Resolve(ctx context.Context, pkg string, release int64) (*Version, error) {
	if err := c.refresh(ctx, release); err != nil {
		return nil, err
	}
	digest := c.digestAt(pkg, release)
	if digest == "" {
		return nil, task.Errorf(task.CodeNotFound, "package %s has no live version (release %d)", pkg, release).
			Fix("push it with `catena pkg push DIR`")
	}
	return c.version(ctx, digest)
}

func (c *Cache) digestAt(pkg string, release int64) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	pins := c.live[pkg]
	after, _ := slices.BinarySearchFunc(pins, release, func(p pin, r int64) int {
		if p.id <= r {
			return -1
		}
		return 1
	})
	if after == 0 {
		return ""
	}
	return pins[after-1].digest
}

func (c *Cache) newest() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known
}

// refresh reads the releases up to the given one, if they are not known yet.
func (c *Cache) refresh(ctx context.Context, release int64) error {
	if c.newest() >= release {
		return nil
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return failed(ctx.Err(), "read the releases")
	}
	known := c.newest()
	if known >= release {
		return nil
	}
	if err := c.read(ctx, known); err != nil {
		return failed(err, "read the releases")
	}
	if newest := c.newest(); newest < release {
		return task.Errorf(task.CodeUnavailable, "release %d is not in the database; the newest is %d", release, newest).
			Fix("check that every process uses the same database")
	}
	return nil
}

type channelPin struct {
	pkg, channel string
	pin
}

func (c *Cache) read(ctx context.Context, known int64) error {
	rows, err := c.store.pool.Query(ctx, `
		SELECT id, package, channel, coalesce(digest, '') FROM releases WHERE id > $1 ORDER BY id`, known)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p channelPin, err error) {
		err = row.Scan(&p.id, &p.pkg, &p.channel, &p.digest)
		return p, err
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range list {
		if p.channel == task.DefaultChannel {
			c.live[p.pkg] = append(c.live[p.pkg], p.pin)
		}
		c.known = cmp.Or(p.id, c.known)
	}
	return nil
}

// version returns a version from memory or loads it. Of several that ask at
// once one loads; when that one is cancelled, another takes over.
func (c *Cache) version(ctx context.Context, digest string) (*Version, error) {
	for {
		v, wait, mine := c.look(digest)
		if v != nil {
			return v, nil
		}
		if mine {
			v, err := c.store.Load(ctx, digest)
			c.loaded(digest, v, wait)
			return v, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, failed(ctx.Err(), "load package version "+Short(digest))
		}
	}
}

// look returns the version, or the channel to wait on. mine tells the caller
// to load it and to call loaded.
func (c *Cache) look(digest string) (v *Version, wait chan struct{}, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.versions[digest]; ok {
		c.order.MoveToFront(element)
		c.lookups.WithLabelValues("hit").Inc()
		return element.Value.(*Version), nil, false
	}
	if wait, ok := c.loading[digest]; ok {
		return nil, wait, false
	}
	c.lookups.WithLabelValues("miss").Inc()
	wait = make(chan struct{})
	c.loading[digest] = wait
	return nil, wait, true
}

func (c *Cache) loaded(digest string, v *Version, wait chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.loading, digest)
	close(wait)
	if v == nil {
		return
	}
	c.versions[digest] = c.order.PushFront(v)
	c.size += v.size()
	for c.size > c.limit && c.order.Len() > 1 {
		oldest := c.order.Remove(c.order.Back()).(*Version)
		delete(c.versions, oldest.Digest)
		c.size -= oldest.size()
	}
}
