package dispatch

import (
	"encoding/json"
	"sync"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// Keys evaluates the expressions of limits for the store. It is safe for
// concurrent use.
type Keys struct {
	mu    sync.Mutex
	known map[int64]*compiledKeys
}

// maxCompiled bounds the cache of compiled expressions.
const maxCompiled = 10_000

// compiledKeys are the expressions of one task revision.
type compiledKeys struct {
	keys   map[string]*chain.Key // by field
	params map[string]any        // the task's own; not changed
}

var _ store.Keyer = (*Keys)(nil)

// NewKeys returns what store.Config asks for.
func NewKeys() *Keys { return &Keys{known: map[int64]*compiledKeys{}} }

// Keys implements store.Keyer.
func (k *Keys) Keys(revision int64, limits task.Limits, base, own json.RawMessage) (store.LimitKeys, error) {
	if len(limits.Keys()) == 0 {
		return store.KeysOf(limits, nil)
	}
	compiled, err := k.compiled(revision, limits, base)
	if err != nil {
		return store.LimitKeys{}, err
	}
	params, err := chain.Params(compiled.params, own)
	if err != nil {
		return store.LimitKeys{}, task.Errorf(task.CodeInvalid, "%w", err).At("params")
	}
	return store.KeysOf(limits, func(field, _ string) (string, error) { return compiled.keys[field].Eval(params) })
}

func (k *Keys) compiled(revision int64, limits task.Limits, base json.RawMessage) (*compiledKeys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.known[revision]; c != nil {
		return c, nil
	}
	c := &compiledKeys{keys: map[string]*chain.Key{}}
	for _, one := range limits.Keys() {
		key, err := chain.ParseKey(one.Field, one.Text)
		if err != nil {
			return nil, err
		}
		c.keys[one.Field] = key
	}
	params, err := chain.Params(nil, base)
	if err != nil {
		return nil, task.Errorf(task.CodeInvalid, "%w", err).At("params")
	}
	c.params = params
	if len(k.known) >= maxCompiled {
		clear(k.known)
	}
	k.known[revision] = c
	return c, nil
}
