package task_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestOutcomeIsOneFlatObject(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"success":true}`,
		`{"success":true,"data":[1,2.50,{"a":null}]}`,
		`{"success":false,"reason":"no \"luck\" \u003c","call_stack":[{"module":"a:b","source":"b.ts:1:2"}]}`,
		`{"success":false,"reason":"x","data":null,"code":"timeout","skipped":true}`,
	} {
		var o task.Outcome
		require.NoError(t, json.Unmarshal([]byte(text), &o), text)
		out, err := json.Marshal(o)
		require.NoError(t, err)
		require.JSONEq(t, text, string(out))
	}
	_, err := json.Marshal(task.Outcome{Data: json.RawMessage(`{`)})
	require.Error(t, err)
	var o task.Outcome
	require.Error(t, json.Unmarshal([]byte(`{"success":"yes"}`), &o))
	require.Error(t, json.Unmarshal([]byte(`[]`), &o))
}

func TestStateChanges(t *testing.T) {
	t.Parallel()
	for _, from := range task.States {
		for _, to := range task.States {
			if from.Terminal() {
				require.Equal(t, to == task.StateQueued && from != task.StateSucceeded, from.CanBecome(to), "%s -> %s", from, to)
			}
			require.False(t, from == to && from.CanBecome(to), "%s to itself", from)
		}
		require.True(t, from.Valid())
	}
	require.True(t, task.StateQueued.CanBecome(task.StateDispatched))
	require.False(t, task.StateQueued.CanBecome(task.StateSucceeded))
	require.False(t, task.State("gone").Valid())
}

func TestRetryWaits(t *testing.T) {
	t.Parallel()
	r := task.Retry{Attempts: 9, Backoff: task.Duration(time.Second), Factor: 3, Max: task.Duration(10 * time.Second)}
	require.Equal(t, time.Second, r.Wait(1, 0.9))
	require.Equal(t, 9*time.Second, r.Wait(3, 0))
	require.Equal(t, 10*time.Second, r.Wait(300, 0.5))
	r.Jitter = 0.5
	require.Equal(t, 500*time.Millisecond, r.Wait(1, 0))
	require.Equal(t, 1500*time.Millisecond, r.Wait(1, 1))
}

func TestDefinitionsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	good := task.Definition{Name: "a/b", Chain: json.RawMessage(`[]`)}
	require.NoError(t, good.Validate())
	require.NoError(t, good.Normalize().Validate())
	ten := 10
	now := time.Now()
	for name, change := range map[string]func(*task.Definition){
		"name":           func(d *task.Definition) { d.Name = "A b" },
		"chain":          func(d *task.Definition) { d.Chain = nil },
		"queue":          func(d *task.Definition) { d.Queue = "a:b" },
		"priority":       func(d *task.Definition) { d.Priority = &ten },
		"params":         func(d *task.Definition) { d.Params = json.RawMessage(`[]`) },
		"retry.attempts": func(d *task.Definition) { d.Retry.Attempts = -1 },
		"retry.factor":   func(d *task.Definition) { d.Retry.Factor = 0.5 },
		"retry.jitter":   func(d *task.Definition) { d.Retry.Jitter = 2 },
		"schedule[0]":    func(d *task.Definition) { d.Schedule = []task.Schedule{{}} },
		"schedule[1]": func(d *task.Definition) {
			d.Schedule = []task.Schedule{{Cron: "* * * * *"}, {Cron: "* * * * *", At: &now}}
		},
		"schedule[0].buffer": func(d *task.Definition) {
			d.Schedule = []task.Schedule{{Cron: "* * * * *", Overlap: task.OverlapBufferOne, Buffer: 3}}
		},
		"schedule[0].buff": func(d *task.Definition) {
			d.Schedule = []task.Schedule{{Cron: "* * * * *", Overlap: task.OverlapBufferAll, Buffer: 10_001}}
		},
		"schedule[0].catch_up": func(d *task.Definition) {
			before := task.Duration(-1)
			d.Schedule = []task.Schedule{{Cron: "* * * * *", CatchUp: &before}}
		},
		"schedule[0].pause_on": func(d *task.Definition) { d.Schedule = []task.Schedule{{Cron: "* * * * *", PauseOnFailure: -1}} },
		"schedule[0].note":     func(d *task.Definition) { d.Schedule = []task.Schedule{{Cron: "* * * * *", Note: "why"}} },
		"schedule[0].over":     func(d *task.Definition) { d.Schedule = []task.Schedule{{Cron: "* * * * *", Overlap: "maybe"}} },
	} {
		d := good
		change(&d)
		var e *task.Error
		require.ErrorAs(t, d.Validate(), &e, name)
		require.Equal(t, task.CodeInvalid, e.Code)
		require.Contains(t, e.Where, name)
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	t.Parallel()
	cause := errors.New("down")
	err := task.Errorf(task.CodeUnavailable, "ask: %w", cause).At("postgres.url").Fix("start %s", "it")
	require.EqualError(t, err, "postgres.url: ask: down; start it")
	require.ErrorIs(t, err, cause)
	require.Equal(t, task.CodeUnavailable, task.CodeOf(fmt.Errorf("wrapped: %w", err)))
	require.Equal(t, task.CodeInternal, task.CodeOf(cause))
	require.Equal(t, task.Code(""), task.CodeOf(nil))
}

func TestDurationsNeedAUnit(t *testing.T) {
	t.Parallel()
	var d task.Duration
	require.NoError(t, json.Unmarshal([]byte(`"90s"`), &d))
	require.Equal(t, "1m30s", d.String())
	for _, bad := range []string{`90`, `"90"`, `"-1s"`, `null x`} {
		require.Error(t, json.Unmarshal([]byte(bad), &d), bad)
	}
}

func FuzzParsePackageRef(f *testing.F) {
	for _, seed := range []string{"a:b?c", "a/b:c/d", ":x", "a:?", "a:b?"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := task.ParsePackageRef(text)
		if err != nil {
			return
		}
		again, err := task.ParsePackageRef(ref.String())
		require.NoError(t, err)
		require.Equal(t, ref, again)
	})
}

func TestAReferenceWithAnEmptyFunctionIsRefused(t *testing.T) {
	t.Parallel()
	_, err := task.ParsePackageRef("billing:invoice?")
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
}
