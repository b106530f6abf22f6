package source

import (
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/store"
)

// The kinds of remarks.
const (
	remarkRefused = "refused"
	remarkHot     = "hot"
)

const (
	// refusedPolls is after how many polls with refused items a source is remarked on.
	refusedPolls = 3
	// cleanPolls without a refused item end that. A refused item is not listed anew before
	// the source has been told, so that polls without one come between.
	cleanPolls = 3
	// hotRuns is how often within hotWindow an item may be run once more without a wait.
	hotRuns   = 20
	hotWindow = time.Minute
	// remarkEvery bounds how often the log says the same of a source.
	remarkEvery = 10 * time.Minute
	maxHotKeys  = 1000 // of one source within hotWindow
)

// remarks notices what no single answer shows: sources whose items are refused poll
// after poll, and items that are run once more without a wait again and again.
type remarks struct {
	log logrus.FieldLogger

	mu      sync.Mutex
	sources map[string]*remarked
}

// remarked is what is known of one source.
type remarked struct {
	refused int                  // polls in which items were refused, with fewer than cleanPolls others between two of them
	clean   int                  // polls since the last of them
	began   time.Time            // of the window that again is about
	again   map[string]int       // how often each key was run once more without a wait
	hot     string               // the remark on that, until its window is over
	said    map[string]time.Time // by kind
}

func newRemarks(log logrus.FieldLogger) *remarks {
	return &remarks{log: log, sources: map[string]*remarked{}}
}

func (r *remarks) of(source string) *remarked {
	one := r.sources[source]
	if one == nil {
		one = &remarked{said: map[string]time.Time{}}
		r.sources[source] = one
	}
	return one
}

// polled takes note of a poll.
func (r *remarks) polled(source string, t store.Taken, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.of(source)
	if t.Refused > 0 {
		one.refused, one.clean = one.refused+1, 0
	} else if one.clean++; one.clean >= cleanPolls {
		one.refused = 0
	}
	if t.Refused > 0 && one.refused >= refusedPolls {
		r.say(source, one, remarkRefused, refusedRemark(source), now)
	}
}

func refusedRemark(source string) string {
	return "items are refused poll after poll; `catena source show " + source + " --state refused,recorded` shows why"
}

// requeued takes note of the items that a source wants to be run once more.
func (r *remarks) requeued(source string, again map[string]time.Duration, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.of(source)
	if now.Sub(one.began) >= hotWindow {
		one.began, one.again, one.hot = now, map[string]int{}, ""
	}
	for key, wait := range again {
		if wait > 0 || one.again[key] == 0 && len(one.again) >= maxHotKeys {
			continue
		}
		one.again[key]++
		if one.again[key] == hotRuns {
			one.hot = fmt.Sprintf("item %q was run once more %d times within a minute; answer its record with after, such as \"5m\"", excerpt([]byte(key)), hotRuns)
			r.say(source, one, remarkHot, one.hot, now)
		}
	}
}

// at returns what is remarked on a source at present, "" for nothing.
func (r *remarks) at(source string, now time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.sources[source]
	switch {
	case one == nil:
		return ""
	case one.hot != "" && now.Sub(one.began) < 2*hotWindow:
		return one.hot
	case one.refused >= refusedPolls:
		return refusedRemark(source)
	}
	return ""
}

// say writes a remark to the log, unless it did so not long ago.
func (r *remarks) say(source string, one *remarked, kind, text string, now time.Time) {
	if last, before := one.said[kind]; before && now.Sub(last) < remarkEvery {
		return
	}
	one.said[kind] = now
	r.log.WithField("source", source).Warn("a source does not get on: " + text)
}
