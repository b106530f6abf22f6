package script

import (
	"container/list"
	"sync"
)

// cacheKey names a module of one immutable version.
type cacheKey struct{ pkg, digest, module string }

// cache keeps the compiled programs used last, bounded by the bytes of their
// sources. A program is compiled once however many calls ask for it at once.
type cache struct {
	limit int64

	mu      sync.Mutex
	size    int64
	order   *list.List // of *cached, used last at the front
	entries map[cacheKey]*list.Element
}

type cached struct {
	key  cacheKey
	size int64

	once    sync.Once
	program *program
	err     error
}

func newCache(limit int64) *cache {
	return &cache{limit: limit, order: list.New(), entries: map[cacheKey]*list.Element{}}
}

// get returns the program of key, compiled from the code if need be; hit: it was not.
func (c *cache) get(key cacheKey, code, sourceMap string) (p *program, hit bool, err error) {
	entry := c.entry(key, int64(len(code)+len(sourceMap)))
	hit = true
	entry.once.Do(func() {
		hit = false
		entry.program, entry.err = compile(key.module, code, sourceMap)
	})
	return entry.program, hit, entry.err
}

func (c *cache) entry(key cacheKey, size int64) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.entries[key]; ok {
		c.order.MoveToFront(element)
		return element.Value.(*cached)
	}
	entry := &cached{key: key, size: size}
	c.entries[key] = c.order.PushFront(entry)
	c.size += size
	for c.size > c.limit && c.order.Len() > 1 {
		c.drop(c.order.Back())
	}
	return entry
}

func (c *cache) drop(element *list.Element) {
	entry := c.order.Remove(element).(*cached)
	delete(c.entries, entry.key)
	c.size -= entry.size
}
