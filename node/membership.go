package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

// strangePatience is how long a worker waits for a sign of its cluster in a
// Redis that others use: whoever leads leaves one within a second or two.
const strangePatience = 5 * time.Second

// belongs refuses a worker whose database and Redis are those of different clusters,
// or whose cluster.name is not that of the masters: it would wait for ever for
// work that is sent elsewhere. What cannot be asked is not judged.
func (b *base) belongs(ctx context.Context) error {
	if err := b.sameName(ctx); err != nil {
		return err
	}
	deadline := time.Now().Add(strangePatience)
	for {
		strangers, err := b.queue.Strangers(ctx)
		if err != nil || len(strangers) == 0 {
			return nil // Redis may come later
		}
		if time.Now().After(deadline) {
			return b.strange(strangers)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (b *base) strange(strangers map[string]string) error {
	names := make([]string, 0, len(strangers))
	for _, id := range slices.Sorted(maps.Keys(strangers)) {
		names = append(names, fmt.Sprintf("%s (%.8s)", strangers[id], id))
	}
	if len(names) > 3 {
		names = append(names[:3], fmt.Sprintf("%d more", len(names)-3))
	}
	return task.Errorf(task.CodeConflict, "the database belongs to the cluster %s (%.8s), but the Redis is used by %s and not by it",
		b.cfg.Cluster.Name, b.cluster, strings.Join(names, ", ")).At("redis.url").
		Fix("give the worker the postgres.url and the redis.url of one cluster; for a new cluster on this Redis start a master first")
}

// sameName compares cluster.name with what the masters have.
func (b *base) sameName(ctx context.Context) error {
	masters, err := b.store.Masters(ctx, false)
	if err != nil {
		b.log.WithError(err).Debug("cannot compare the name of the cluster with that of the masters")
		return nil
	}
	other := ""
	for _, m := range masters {
		name, tells := m.Settings["cluster.name"]
		switch {
		case m.State != task.MasterActive || !tells:
		case name == b.cfg.Cluster.Name:
			return nil
		default:
			other = name
		}
	}
	if other == "" {
		return nil
	}
	return task.Errorf(task.CodeConflict, "this worker is of the cluster %s, and the masters on its database are of %s", b.cfg.Cluster.Name, other).At("cluster.name").
		Fix("set cluster.name to %s", other)
}
