package worker

import (
	"context"
	"sync"
	"time"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

// prepared is a task revision with its chain parsed.
type prepared struct {
	task.Revision
	document *chain.Document
}

func (p *prepared) attempts() int { return max(p.Retry.Attempts, 1) }

// maxRevisions bounds the cache; what is dropped is read and parsed again.
const maxRevisions = 10_000

// revisions caches parsed task revisions, which never change.
type revisions struct {
	store *store.Store
	mu    sync.Mutex
	known map[int64]*prepared
}

func newRevisions(s *store.Store) *revisions {
	return &revisions{store: s, known: map[int64]*prepared{}}
}

// get returns a revision. An error means that the run cannot be executed as
// defined; while the database is out of reach it waits.
func (r *revisions) get(ctx context.Context, id int64) (*prepared, error) {
	r.mu.Lock()
	p := r.known[id]
	r.mu.Unlock()
	if p != nil {
		return p, nil
	}
	found, err := r.store.Revisions(ctx, []int64{id})
	for store.Unreachable(err) && ctx.Err() == nil {
		pause(ctx, 200*time.Millisecond)
		found, err = r.store.Revisions(ctx, []int64{id})
	}
	if err != nil {
		return nil, err
	}
	p = &prepared{Revision: found[id]}
	if p.document, err = chain.Parse(p.Task, p.Chain); err != nil {
		return p, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= maxRevisions {
		clear(r.known)
	}
	r.known[id] = p
	return p, nil
}
