package task_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestSameJSON(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{
		{`{"a":1,"b":[true,null]}`, ` { "b" : [true, null], "a": 1 } `}, {`"\u00e9"`, `"é"`}, {`{}`, `{ }`},
		{`1`, `1.0`}, {`100`, `1e2`}, {`-0`, `0.000`}, {`0.5`, `5E-1`}, {`1e400`, `10e399`}, {`x`, `x`},
	} {
		require.True(t, task.SameJSON(json.RawMessage(pair[0]), json.RawMessage(pair[1])), pair)
	}
	for _, pair := range [][2]string{
		{`{"a":1}`, `{"a":2}`}, {`{"a":1}`, `{"a":1,"b":1}`}, {`{"a":null}`, `{"b":null}`}, {`[1,2]`, `[2,1]`}, {`[1]`, `[1,1]`}, {`1`, `"1"`},
		{`1`, `-1`}, {`9007199254740993`, `9007199254740992`}, {`1e99999999999999999999`, `1e99999999999999999998`}, {`null`, `false`},
		{`{`, `{ `}, {`1`, `1 2`}, {`{}`, `[]`}, {``, `{}`},
	} {
		require.False(t, task.SameJSON(json.RawMessage(pair[0]), json.RawMessage(pair[1])), pair)
	}
}

func FuzzSameJSON(f *testing.F) {
	f.Add(`{"a":[1,2.50,{"b":null}]}`, `[]`)
	f.Fuzz(func(t *testing.T, a, b string) {
		require.Equal(t, task.SameJSON(json.RawMessage(a), json.RawMessage(b)), task.SameJSON(json.RawMessage(b), json.RawMessage(a)))
		if json.Valid([]byte(a)) {
			require.True(t, task.SameJSON(json.RawMessage(a), json.RawMessage(strings.TrimSpace(a))))
		}
	})
}
