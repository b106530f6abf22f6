package chain_test

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/task"
)

// invoker stands for what runs package code.
type invoker func(call chain.Invocation) any

func (f invoker) Invoke(_ context.Context, call chain.Invocation) task.Outcome {
	data, err := json.Marshal(f(call))
	if err != nil {
		return task.Fail(err.Error())
	}
	return task.Succeed(data)
}

func Example() {
	doc, err := chain.Parse("close-month.yaml", []byte(`
- call: billing:invoice?close
  with: {month: "${params.month}"}
  as: invoice
- when: ${steps.invoice.data.total > 0}
  call: billing:mail?send
  with: {text: "total ${steps.invoice.data.total}"}
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	result, err := doc.Run(context.Background(), chain.Options{
		Params: json.RawMessage(`{"month": "2026-11"}`),
		Invoker: invoker(func(call chain.Invocation) any {
			fmt.Println(call.Ref, string(call.Input))
			return map[string]any{"total": 42}
		}),
		Commit: func(_ context.Context, step task.Step) error {
			fmt.Println("committed step", step.Path, step.Name)
			return nil
		},
	})
	fmt.Println(result.Outcome.Success, err)
	// Output:
	// billing:invoice?close {"month":"2026-11"}
	// committed step 0 invoice
	// billing:mail?send {"text":"total 42"}
	// true <nil>
}
