package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"time"

	"github.com/catena-run/catena/client"
)

// Start a run, wait for its end and read its outcome.
func Example() {
	c, err := client.New(client.Config{Server: "http://127.0.0.1:20081", Token: "catena_..."})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	started, err := c.StartRun(ctx, "billing/close-month", client.RunRequest{
		Params: json.RawMessage(`{"month": "2026-11"}`),
		Key:    "close-2026-11", // a second start with this key gives the same run
	})
	if err != nil {
		log.Fatal(err)
	}
	run, err := c.WaitRun(ctx, started.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(run.State, run.Outcome.Success)
}

// Start many runs and show the progress of all of them.
func ExampleClient_WaitRuns() {
	c, err := client.New(client.Config{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	batch, err := c.StartRuns(ctx, "demo", []client.RunRequest{{Key: "line-1"}, {Key: "line-2"}})
	if err != nil {
		log.Fatal(err)
	}
	states, err := c.WaitRuns(ctx, batch.IDs, func(done, total int) { fmt.Printf("%d of %d\n", done, total) })
	if err != nil {
		log.Fatal(err)
	}
	for id, state := range states {
		fmt.Println(id, state)
	}
}
