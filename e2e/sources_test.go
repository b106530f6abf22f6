package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// office lists work and has each key run thrice. It keeps what it is told, and can
// leave a request without an answer.
type office struct {
	*httptest.Server
	recorder string

	mu     sync.Mutex
	keys   int
	runs   map[string]map[int]uuid.UUID // by key and attempt
	wrong  []string
	frozen string        // the action that gets no answer
	held   chan struct{} // gets one when such a request is there
}

const officeAttempts = 3

func newOffice(t *testing.T, recorder string, keys int) *office {
	t.Helper()
	o := &office{recorder: recorder, keys: keys, runs: map[string]map[int]uuid.UUID{}, held: make(chan struct{}, 100)}
	o.Server = httptest.NewServer(o)
	t.Cleanup(o.Close)
	return o
}

func (o *office) freeze(action string, keys int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.frozen, o.keys = action, o.keys+keys
}

func (o *office) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Action, Runtime string
		Items           []struct {
			Key     string
			Attempt int
			Run     *uuid.UUID
			State   string
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	o.mu.Lock()
	items := []map[string]any{}
	switch asked.Action {
	case "iterate":
		for n := range o.keys {
			key := fmt.Sprintf("k-%d", n)
			if len(o.runs[key]) == officeAttempts {
				continue
			}
			item := map[string]any{"key": key}
			if n%2 == 0 {
				item["chain"] = []any{[]any{"//inline/faults:work?step", map[string]any{"recorder": o.recorder, "step": 0}}}
			}
			items = append(items, item)
		}
	case "record":
		for _, told := range asked.Items {
			if o.runs[told.Key] == nil {
				o.runs[told.Key] = map[int]uuid.UUID{}
			}
			before, twice := o.runs[told.Key][told.Attempt]
			switch {
			case told.Run == nil || told.State != "succeeded" || asked.Runtime != "eu-1":
				o.wrong = append(o.wrong, fmt.Sprintf("%+v of %s", told, asked.Runtime))
			case twice && before != *told.Run, !twice && told.Attempt != len(o.runs[told.Key])+1:
				o.wrong = append(o.wrong, fmt.Sprintf("%+v after %v", told, o.runs[told.Key]))
			default:
				o.runs[told.Key][told.Attempt] = *told.Run
			}
			items = append(items, map[string]any{"key": told.Key, "requeue": told.Attempt < officeAttempts})
		}
	}
	frozen := o.frozen == asked.Action
	o.mu.Unlock()
	if frozen {
		o.held <- struct{}{}
		<-r.Context().Done()
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"items": items})
}

// done reports whether every attempt of every key was recorded.
func (o *office) done() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for n := range o.keys {
		if len(o.runs[fmt.Sprintf("k-%d", n)]) < officeAttempts {
			return false
		}
	}
	return true
}

const officeSource = `
source: office
http: {url: OFFICE}
every: 200ms
task: faults/short
runtime: eu-1
`

// TestSources kills the leader while a source waits for an answer to its list, and
// while it takes note of outcomes: each attempt of each item runs once, and
// each outcome arrives. The example sources are served beside that.
func TestSources(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "worker.tags=eu-1")
	c.startMaster(0)
	c.startMaster(0)
	c.startWorker()
	c.awaitWorkers(1)
	c.push()
	o := newOffice(t, c.recorder.url, 8)
	c.apply(strings.ReplaceAll(officeSource, "OFFICE", o.URL))
	shop := c.shop()
	c.inbox()

	for _, action := range []string{"record", "iterate"} {
		o.freeze(action, 4)
		<-o.held
		c.replaceMaster(c.leader(), 0)
		o.freeze("", 0)
	}
	c.eventually(o.done, "not every outcome has arrived")
	require.Empty(t, o.wrong)
	list, err := ask(c.t.Context(), c, func(ctx context.Context, api *client.Client) ([]task.Run, error) {
		return api.Runs(ctx, client.RunFilter{Limit: 1000})
	})
	require.NoError(t, err)
	runs := map[uuid.UUID]bool{}
	for _, run := range list {
		if run.Task == "faults/short" || run.Task == "source-item/office" {
			runs[run.ID] = true
		}
	}
	require.Len(t, runs, o.keys*officeAttempts)
	for key, attempts := range o.runs {
		for attempt, run := range attempts {
			require.True(t, runs[run], "attempt %d of %s", attempt, key)
			require.Equal(t, 1, c.recorder.count(run, 0), "attempt %d of %s", attempt, key)
		}
	}
	c.eventually(func() bool {
		return c.text(`SELECT count(*)::text FROM source_items WHERE source = 'office' AND state <> 'recorded'`) == "0"
	}, "an item is open")

	c.eventually(func() bool {
		return strings.Contains(shop(), `"id":"o-2","city":"Atlantis","state":"given up","attempts":3`)
	}, "the shop: %s", shop())
	require.Contains(t, shop(), `"id":"o-1","city":"Paris","state":"shipped","attempts":1`)
	c.eventually(func() bool {
		return c.text(`SELECT max(attempt)::text FROM source_items WHERE source = 'examples/inbox' AND key LIKE 'nobody %'`) > "1" &&
			c.text(`SELECT count(*)::text FROM source_items WHERE source = 'examples/inbox' AND result = 'succeeded'`) > "1"
	}, "the letters are not answered")
}

// shop builds and starts the example program with its task file, and returns
// what asks it for its orders.
func (c *cluster) shop() func() string {
	c.t.Helper()
	bin := filepath.Join(folder, "shop")
	out, err := exec.Command("go", "build", "-o", bin, "../examples/sources").CombinedOutput()
	require.NoError(c.t, err, "%s", out)
	p := startAs(c.t, bin, "the shop", nil, "-listen", "127.0.0.1:0")
	c.eventually(func() bool { return len(p.log.find("the shop is at")) > 0 }, "the shop does not open")
	address := strings.TrimSpace(strings.TrimPrefix(p.log.find("the shop is at")[0].text, "the shop is at "))
	text, err := os.ReadFile("../examples/sources/orders.yaml")
	require.NoError(c.t, err)
	c.apply(strings.ReplaceAll(string(text), "http://127.0.0.1:20090/work", strings.ReplaceAll(address, "/orders", "/work")))
	return func() string {
		answer, err := http.Get(address)
		if err != nil {
			return err.Error()
		}
		defer answer.Body.Close()
		var text bytes.Buffer
		_, _ = text.ReadFrom(answer.Body)
		return text.String()
	}
}

// inbox applies the example of a source that is a function.
func (c *cluster) inbox() {
	c.t.Helper()
	content, err := pkgstore.ReadDir("../examples/packages/inbox", pkgstore.Limits{})
	require.NoError(c.t, err)
	var archive bytes.Buffer
	require.NoError(c.t, content.WriteArchive(&archive))
	must(c, func(ctx context.Context, api *client.Client) (client.PushResult, error) {
		return api.Push(ctx, bytes.NewReader(archive.Bytes()), "")
	})
	text, err := os.ReadFile("../examples/tasks/inbox.yaml")
	require.NoError(c.t, err)
	c.apply(string(text))
}
