package chain_test

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// constant answers every call with the same data.
type constant string

func (c constant) Invoke(context.Context, chain.Invocation) task.Outcome {
	return task.Succeed(json.RawMessage(c))
}

// code is package code written in Go: functions by name, each call recorded.
type code struct {
	functions map[string]func(ctx context.Context, input map[string]any) task.Outcome
	mu        sync.Mutex
	calls     []chain.Invocation
}

func (c *code) Invoke(ctx context.Context, call chain.Invocation) task.Outcome {
	c.mu.Lock()
	c.calls = append(c.calls, call)
	f := c.functions[call.Ref.Function]
	c.mu.Unlock()
	var input map[string]any
	if err := json.Unmarshal(call.Input, &input); err != nil {
		return task.Fail("input: " + err.Error())
	}
	if f == nil {
		return task.Succeed(call.Input)
	}
	return f(ctx, input)
}

func (c *code) inputs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	texts := make([]string, len(c.calls))
	for i, call := range c.calls {
		texts[i] = string(call.Input)
	}
	return texts
}

// starter records what was started, once per key.
type starter struct {
	mu   sync.Mutex
	keys map[string]string
}

func (s *starter) StartTask(_ context.Context, start chain.Start) (uuid.UUID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = map[string]string{}
	}
	key := uuid.Nil.String() + "/" + strconv.Itoa(start.Iteration) + "/" + start.Path
	s.keys[key] = start.Task + " " + string(start.Params)
	return uuid.NewSHA1(uuid.Nil, []byte(key)), nil
}

func parse(t testing.TB, text string) *chain.Document {
	t.Helper()
	doc, err := chain.Parse("test.yaml", []byte(text))
	require.NoError(t, err)
	return doc
}

// execute runs a document with code that echoes its input.
func execute(t testing.TB, text, params string) chain.Result {
	t.Helper()
	res, err := parse(t, text).Run(t.Context(), chain.Options{
		Run: chain.RunInfo{Task: "test"}, Params: json.RawMessage(params), Invoker: &code{}, Starter: &starter{},
	})
	require.NoError(t, err)
	return res
}
