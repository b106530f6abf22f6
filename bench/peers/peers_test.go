package peers_test

import (
	"context"
	"testing"
	"time"

	"github.com/catena-run/catena/bench"
	"github.com/catena-run/catena/bench/peers"
	"github.com/catena-run/catena/devservers/servertest"
)

// TestPeers runs every peer once, small, so that a figure is never the fault
// of a program that no longer works.
func TestPeers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	servers := bench.Servers{PostgresURL: servertest.EmptyPostgresURL(t), RedisURL: servertest.Redis(t)}
	for _, peer := range peers.All(servers) {
		t.Run(peer.Name(), func(t *testing.T) { // one after the other: asynq owns its Redis database
			const runs, samples = 200, 3
			if rate, err := peer.Throughput(ctx, runs); err != nil || rate <= 0 {
				t.Errorf("throughput %v, %v", rate, err)
			}
			if rate, err := peer.(bench.Backlogger).Backlog(ctx, runs); err != nil || rate <= 0 {
				t.Errorf("backlog %v, %v", rate, err)
			}
			p50, p99, err := peer.Latency(ctx, samples)
			if err != nil || p50 <= 0 || p99 < p50 {
				t.Errorf("latency %v, %v, %v", p50, p99, err)
			}
		})
	}
}
