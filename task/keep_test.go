package task_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func TestDurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"30s": 30 * time.Second, "7d": 7 * 24 * time.Hour, "1d12h30m": 36*time.Hour + 30*time.Minute, "0d": 0, "1.5d": 36 * time.Hour,
	} {
		var d task.Duration
		require.NoError(t, d.UnmarshalText([]byte(text)), text)
		require.Equal(t, want, time.Duration(d), text)
	}
	for _, text := range []string{"", "d", "-1d", "1d-2h", "1h2d", "1d2d", "99999999999d", "5", "x"} {
		var d task.Duration
		require.Error(t, d.UnmarshalText([]byte(text)), text)
	}
}

func TestKeepHasALeast(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{"1h": true, "30d": true, "59m": false, "1ns": false} {
		def := task.Definition{Name: "a", Chain: json.RawMessage(`["nop"]`)}
		require.NoError(t, json.Unmarshal([]byte(`{"keep": "`+text+`"}`), &def))
		err := def.Validate()
		if good {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, "keep: ")
	}
}
