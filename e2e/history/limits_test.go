package history_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
)

func TestLimitsAreJudgedByWhatWasSeen(t *testing.T) {
	t.Parallel()
	zero := time.Unix(1000, 0)
	at := func(ms int) time.Time { return zero.Add(time.Duration(ms) * time.Millisecond) }
	a, b, c, other := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	seen := []history.Execution{
		{Run: a, Step: 0, Began: at(0)}, {Run: a, Step: 0, Began: at(500)}, {Run: a, Step: 1, Began: at(600)}, // began again after a kill
		{Run: b, Step: 0, Began: at(600)}, {Run: b, Step: 1, Began: at(700)},
		{Run: other, Step: 0, Began: at(650)},
	}
	runs := map[uuid.UUID]bool{a: true, b: true, c: true}
	spans := history.Spans(seen, runs, 1, at(9000))
	require.Len(t, spans, 2)
	require.Empty(t, history.CheckPlaces(spans, 1))
	seen = append(seen, history.Execution{Run: c, Step: 0, Began: at(100)}) // and never ends
	spans = history.Spans(seen, runs, 1, at(9000))
	most, at2 := history.MostAtOnce(spans)
	require.Equal(t, 2, most)
	require.Contains(t, at2, c)
	require.Len(t, history.CheckPlaces(spans, 1), 1)

	require.Equal(t, 2, history.MostInWindow([]time.Time{at(0), at(1000), at(1999), at(3000)}, time.Second))
	require.Equal(t, 1, history.MostInWindow([]time.Time{at(0), at(1000), at(2000)}, time.Second))
	require.Zero(t, history.MostInWindow(nil, time.Second))
}
