package healthcheck_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"

	"github.com/catena-run/catena/healthcheck"
)

func fetch(url string) string {
	res, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(res.StatusCode, " ", string(text))
}

// Providers may answer at once or take a context and their time.
func Example_providers() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	server := healthcheck.NewListeningLiveness(listener, 0)
	if err := server.Start(context.Background()); err != nil {
		panic(err)
	}
	defer server.Stop(context.Background())

	server.RegisterInstance(healthcheck.Instance{ID: "steady", Liveness: healthcheck.InstanceFunc(func(string) int { return healthcheck.Healthy })})
	server.RegisterInstance(healthcheck.Instance{ID: "remote", Liveness: func(ctx context.Context, instance string) (int, error) {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", "127.0.0.1:1") // nobody is there
		if err != nil {
			return 0, err // counts as unhealthy
		}
		return healthcheck.Healthy, conn.Close()
	}})
	base := "http://" + server.Addr().String() + "/api/v1"
	fmt.Println(fetch(base + "/instances/steady/liveness"))
	fmt.Println(fetch(base + "/instances/remote/liveness"))
	fmt.Println(fetch(base + "/liveness"))

	// One of them is enough.
	server.SetAggregate(healthcheck.AggregateFunc(func(codes []int) int {
		if slices.Contains(codes, healthcheck.Healthy) {
			return healthcheck.Healthy
		}
		return healthcheck.Unhealthy
	}))
	fmt.Println(fetch(base + "/liveness"))
	// Output:
	// 200 ok
	// 500 error
	// 500 error
	// 200 ok
}

// journal is a server of one's own: it tells of instances in any way it likes.
type journal struct {
	instances map[string]healthcheck.Instance
}

func (j *journal) Start(context.Context) error                { fmt.Println("start"); return nil }
func (j *journal) Stop(context.Context) error                 { fmt.Println("stop"); return nil }
func (j *journal) SetAggregate(healthcheck.AggregateProvider) {}
func (j *journal) RegisterInstance(i healthcheck.Instance)    { j.instances[i.ID] = i }
func (j *journal) UnregisterInstance(id string)               { delete(j.instances, id) }
func (j *journal) UnregisterService(string, string)           {}
func (j *journal) RegisterService(instance, id string, s healthcheck.Service) {
	fmt.Printf("%s offers %s version %d\n", instance, s.Type, s.Version)
}

// A server of one's own is given to a node in its Options.
func Example_server() {
	var server healthcheck.LivenessServer = &journal{instances: map[string]healthcheck.Instance{}}
	ctx := context.Background()
	if err := server.Start(ctx); err != nil {
		panic(err)
	}
	server.RegisterInstance(healthcheck.Instance{ID: "worker-1", Liveness: healthcheck.InstanceFunc(func(string) int { return healthcheck.Healthy })})
	server.RegisterService("worker-1", "1", healthcheck.Service{Type: "catena.worker", Realm: "catena", Version: 1})
	for _, id := range slices.Sorted(maps.Keys(server.(*journal).instances)) {
		code, err := server.(*journal).instances[id].Liveness(ctx, id)
		fmt.Println(id, code, err)
	}
	if err := server.Stop(ctx); err != nil {
		panic(err)
	}
	// Output:
	// start
	// worker-1 offers catena.worker version 1
	// worker-1 200 <nil>
	// stop
}
