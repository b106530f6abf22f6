package lifecycle_test

import (
	"context"
	"fmt"

	"github.com/catena-run/catena/lifecycle"
)

func ExampleGroup() {
	g := lifecycle.NewGroup(lifecycle.GroupConfig{})
	fmt.Println("open the pool")
	_ = g.Add("pool", func(context.Context) error { fmt.Println("close the pool"); return nil })
	fmt.Println("open the listener")
	_ = g.Add("listener", func(context.Context) error { fmt.Println("close the listener"); return nil })
	fmt.Println(g.Close(context.Background()))
	// Output:
	// open the pool
	// open the listener
	// close the listener
	// close the pool
	// <nil>
}
