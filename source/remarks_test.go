package source

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
)

func TestRefusalsPollAfterPollAreRemarked(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	log := logrus.New()
	log.SetOutput(&text)
	r, now := newRemarks(log), time.Now()
	for range 2 {
		r.polled("due", store.Taken{Refused: 1, Started: 5}, now)
		r.polled("due", store.Taken{Known: 1, Started: 1}, now) // not recorded yet
	}
	require.Empty(t, r.at("due", now))
	r.polled("due", store.Taken{Refused: 2}, now)
	require.Contains(t, r.at("due", now), "`catena source show due --state refused,recorded` shows why")
	for n := range 1000 {
		r.polled("due", store.Taken{Refused: 2}, now.Add(time.Duration(n)*time.Second))
	}
	require.Equal(t, 2, strings.Count(text.String(), "poll after poll"), "at once and ten minutes later")
	require.Empty(t, r.at("other", now))
	for range cleanPolls {
		require.NotEmpty(t, r.at("due", now))
		r.polled("due", store.Taken{Started: 2, Known: 1}, now)
	}
	require.Empty(t, r.at("due", now), "polls without refusals end it")
}

func TestRequeuesWithoutAWaitAreRemarked(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	log := logrus.New()
	log.SetOutput(&text)
	r, now := newRemarks(log), time.Now()
	for n := range 100 {
		at := now.Add(time.Duration(n) * time.Second)
		r.requeued("slow", map[string]time.Duration{"a": time.Second}, at)
		r.requeued("seldom", map[string]time.Duration{"a": 0}, now.Add(time.Duration(n)*4*time.Second))
	}
	require.Empty(t, r.at("slow", now)+r.at("seldom", now))
	for n := range hotRuns {
		require.Empty(t, r.at("hot", now))
		r.requeued("hot", map[string]time.Duration{"a": 0, "b": time.Minute}, now.Add(time.Duration(n)*time.Second))
	}
	require.Contains(t, r.at("hot", now), `item "a" was run once more 20 times within a minute; answer its record with after`)
	for n := range 300 {
		r.requeued("hot", map[string]time.Duration{"a": 0}, now.Add(time.Duration(n)*time.Second))
	}
	require.Equal(t, 1, strings.Count(text.String(), "level=warning"))
	later := now.Add(7 * time.Minute)
	require.Empty(t, r.at("hot", later), "it is over")
	keys := map[string]time.Duration{}
	for n := range 3 * maxHotKeys {
		keys[strings.Repeat("k", n)] = 0
	}
	r.requeued("wide", keys, later)
	require.Len(t, r.sources["wide"].again, maxHotKeys)
}
