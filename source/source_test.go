package source_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/source"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, servertest.LeakOptions()...) }

// patience bounds every wait for something that takes moments when all is well.
const patience = 30 * time.Second

// fixture is a leader on a database of its own, which starts no run by itself.
type fixture struct {
	*store.Store
	t       *testing.T
	term    int64
	sources *source.Sources
	stop    func()
}

type nobody struct{}

func (nobody) Enqueue(context.Context, []store.Parcel) {}

func open(t *testing.T, environment map[string]string) *fixture {
	t.Helper()
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{URL: servertest.PostgresURL(t)})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.EnsurePartitions(ctx))
	lease, won, err := s.Campaign(ctx, "test")
	require.NoError(t, err)
	require.True(t, won)
	log := logrus.New()
	log.SetOutput(io.Discard)
	f := &fixture{Store: s, t: t, term: lease.Term}
	f.sources = source.New(source.Config{Lookup: func(name string) (string, bool) { v, ok := environment[name]; return v, ok }}, s, nobody{}, log)
	_, err = s.ApplyTasks(ctx, []task.Definition{{Name: "demo", Chain: json.RawMessage(`["nop"]`)}}, false)
	require.NoError(t, err)
	return f
}

// lead leads until the test ends or stop is called.
func (f *fixture) lead() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.sources.Lead(ctx, f.term)
	}()
	f.stop = func() { cancel(); <-ended }
	f.t.Cleanup(f.stop)
}

func (f *fixture) source(def task.SourceDefinition) {
	f.t.Helper()
	if def.Every == 0 {
		def.Every = task.Duration(100 * time.Millisecond)
	}
	if def.Task == "" {
		def.Task = "demo"
	}
	require.NoError(f.t, def.Validate())
	_, err := f.Apply(f.t.Context(), store.Documents{Sources: []task.SourceDefinition{def}}, false)
	require.NoError(f.t, err)
}

func (f *fixture) eventually(holds func() bool, format string, args ...any) {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			list, _ := f.Sources(context.Background())
			shown, _ := json.Marshal(list)
			require.Fail(f.t, fmt.Sprintf(format, args...), "sources: %s", shown)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (f *fixture) get(name string) task.Source {
	f.t.Helper()
	one, err := f.Source(f.t.Context(), name)
	require.NoError(f.t, err)
	return one
}

// finish ends the runs of items, or those of the source itself, that have not ended.
func (f *fixture) finish(where, outcome string) int64 {
	f.t.Helper()
	tag, err := f.Pool().Exec(f.t.Context(), `UPDATE runs SET state = CASE WHEN $1::json->>'success' = 'true' THEN 'succeeded' ELSE 'failed' END,
		outcome = $1::json, finished_at = clock_timestamp() WHERE finished_at IS NULL AND `+where, outcome)
	require.NoError(f.t, err)
	return tag.RowsAffected()
}

// endpoint is a source of work that keeps what it is told.
type endpoint struct {
	*httptest.Server
	mu      sync.Mutex
	due     []string // items, JSON
	answer  func(told map[string]any) string
	records []map[string]any // items
	headers http.Header
	polls   int
}

func newEndpoint(t *testing.T, due ...string) *endpoint {
	t.Helper()
	e := &endpoint{due: due}
	e.Server = httptest.NewServer(http.HandlerFunc(e.serve))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) serve(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Action, Source, Runtime string
		Limit                   int
		Params                  map[string]any
		Items                   []map[string]any
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.headers = r.Header
	w.Header().Set("Content-Type", "application/json")
	if asked.Action == "iterate" {
		e.polls++
		_, _ = io.WriteString(w, `{"items":[`+strings.Join(e.due, ",")+`]}`)
		return
	}
	var answers []string
	for _, item := range asked.Items {
		e.records = append(e.records, item)
		if e.answer != nil {
			answers = append(answers, e.answer(item))
		}
	}
	_, _ = io.WriteString(w, `{"items":[`+strings.Join(answers, ",")+`]}`)
}

func (e *endpoint) told() []map[string]any {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]map[string]any{}, e.records...)
}

func TestAnEndpointIsPolledAndTold(t *testing.T) {
	t.Parallel()
	f := open(t, map[string]string{"SOURCE_TOKEN": "t0p"})
	e := newEndpoint(t, `{"key":"a","params":{"n":1}}`, `{"key":"b","task":"nothing"}`)
	e.answer = func(item map[string]any) string {
		requeue := item["key"] == "a" && item["attempt"] == 1.0
		return fmt.Sprintf(`{"key":%q,"requeue":%v}`, item["key"], requeue)
	}
	f.source(task.SourceDefinition{Name: "work", HTTP: &task.SourceHTTP{URL: e.URL, Headers: map[string]string{"Authorization": "Bearer ${env.SOURCE_TOKEN}"}},
		Params: json.RawMessage(`{"region":"eu"}`), Runtime: "eu-1"})
	f.lead()
	f.eventually(func() bool { return f.get("work").Running == 1 && len(e.told()) > 0 }, "nothing was started and refused")
	require.Equal(t, "Bearer t0p", e.headers.Get("Authorization"))
	refused := e.told()[0]
	require.Equal(t, "b", refused["key"])
	require.Equal(t, "refused", refused["state"])
	require.Nil(t, refused["run"])
	require.Contains(t, refused["reason"], `there is no task "nothing"`)
	e.mu.Lock()
	e.due = nil
	e.mu.Unlock()

	for attempt := 1; attempt <= 2; attempt++ {
		f.eventually(func() bool { return f.finish(`task = 'demo'`, fmt.Sprintf(`{"success":true,"data":%d}`, attempt)) == 1 }, "attempt %d has not begun", attempt)
	}
	f.eventually(func() bool { return f.get("work").Running+f.get("work").Ended == 0 }, "not all is recorded")
	attempts := 0
	for _, item := range e.told() {
		if item["key"] == "a" {
			attempts++
			require.EqualValues(t, attempts, item["attempt"])
			require.Equal(t, "succeeded", item["state"])
			require.Equal(t, map[string]any{"success": true, "data": float64(attempts)}, item["outcome"])
		}
	}
	require.Equal(t, 2, attempts)
	f.stop()
	require.Equal(t, 1, series(t, f.sources, "catena_source_polls_total"))
	require.Equal(t, 4, series(t, f.sources, "catena_source_items_total"))
}

func TestASourceThatIsAFunction(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	once := false
	f.source(task.SourceDefinition{Name: "inbox", Call: "inbox:source?work", Loop: &once, Runtime: "eu-1"})
	f.lead()
	const own = `task = 'source-poll/inbox'`
	f.eventually(func() bool {
		return f.finish(own, `{"success":true,"data":{"items":[{"key":"a"},{"key":"b","chain":[["nop"]]}]}}`) == 1
	}, "it was not asked")
	f.eventually(func() bool {
		return f.finish(`task IN ('demo', 'source-item/inbox')`, `{"success":true}`) == 2
	}, "nothing was started")
	f.eventually(func() bool { return f.get("inbox").RecordRun != nil }, "it was not told")
	record := *f.get("inbox").RecordRun
	run, err := f.Run(t.Context(), record)
	require.NoError(t, err)
	require.Contains(t, string(run.Params), `"action":"record"`)
	require.EqualValues(t, 1, f.finish(own, `{"success":false,"reason":"not now"}`))
	f.eventually(func() bool { return strings.Contains(f.get("inbox").RecordError, "not now") }, "the failure is not shown")
	_, err = f.PollSource(t.Context(), "inbox")
	require.NoError(t, err)
	f.eventually(func() bool {
		f.finish(own, `{"success":true,"items":[]}`) // an outcome whose fields are the answer
		one := f.get("inbox")
		return one.Ended == 0 && one.Status == task.SourceDone
	}, "it was not told again: %+v", f.get("inbox"))
}

func TestABadEndpointIsAnErrorOfItsSourceAlone(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	release := make(chan struct{})
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/500":
			http.Error(w, "password=hunter2 is wrong", http.StatusInternalServerError)
		case "/html":
			_, _ = io.WriteString(w, "<html>")
		case "/large":
			_, _ = io.WriteString(w, `{"items":[],"x":"`+strings.Repeat("x", 2<<20)+`"}`)
		case "/away":
			http.Redirect(w, r, "/html", http.StatusFound)
		case "/slow":
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	}))
	t.Cleanup(bad.Close)
	defer close(release)
	e := newEndpoint(t, `{"key":"good"}`)
	wants := map[string]string{
		"500": "500 Internal Server Error: password=***", "html": "is not JSON: <html>", "large": "larger than 1048576 bytes", "away": "redirects are not followed",
		"slow": "did not answer within 200ms", "link-local": "169.254.169.254 is an address that sources may not reach", "down": "cannot be asked", "env": "no variable SOURCE_NONE",
	}
	for name := range wants {
		def := task.SourceDefinition{Name: name, HTTP: &task.SourceHTTP{URL: bad.URL + "/" + name}, Timeout: task.Duration(5 * time.Second)}
		switch name {
		case "slow":
			def.Timeout = task.Duration(200 * time.Millisecond)
		case "link-local":
			def.HTTP.URL = "http://169.254.169.254/latest"
		case "down":
			def.HTTP.URL = "http://127.0.0.1:1/"
		case "env":
			def.HTTP.Headers = map[string]string{"Authorization": "${env.SOURCE_NONE}"}
		}
		f.source(def)
	}
	f.source(task.SourceDefinition{Name: "good", HTTP: &task.SourceHTTP{URL: e.URL}})
	f.lead()
	for name, want := range wants {
		f.eventually(func() bool { return strings.Contains(f.get(name).Error, want) }, "%s: %q is not %q", name, f.get(name).Error, want)
		require.NotContains(t, f.get(name).Error, "hunter2")
	}
	f.eventually(func() bool { return f.get("good").Running == 1 }, "the good source does not work beside the bad ones")
}

func TestATermEndsWhileAnEndpointIsSlow(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	asked := make(chan struct{}, 10)
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server notices the end of the request
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(slow.Close)
	f.source(task.SourceDefinition{Name: "slow", HTTP: &task.SourceHTTP{URL: slow.URL}, Timeout: task.Duration(time.Minute)})
	f.lead()
	<-asked
	began := time.Now()
	f.stop()
	require.Less(t, time.Since(began), 5*time.Second)
	require.Zero(t, f.get("slow").Failures, "the end of a term is no failure of the source")
	require.Empty(t, asked, "it was asked once")
}

func TestItemsThatPostgresCannotKeepAreAnErrorOfTheSource(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	deep := `{"key":"deep","params":{"x":` + strings.Repeat("[", 9990) + strings.Repeat("]", 9990) + `}}`
	odd := `{"key":"odd","params":{"x":"\u0000\ud800"}}`
	e := newEndpoint(t, odd)
	d := newEndpoint(t, deep)
	f.source(task.SourceDefinition{Name: "odd", HTTP: &task.SourceHTTP{URL: e.URL}})
	f.source(task.SourceDefinition{Name: "deep", HTTP: &task.SourceHTTP{URL: d.URL}})
	f.lead()
	f.eventually(func() bool { return f.get("odd").Running == 1 }, "odd text is not kept: %s", f.get("odd").Error)
	f.eventually(func() bool { one := f.get("deep"); return one.Running == 1 || one.Error != "" }, "nothing became of a deep item")
}

func TestManySourcesShareTheFigures(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	e := newEndpoint(t)
	for n := range 105 {
		f.source(task.SourceDefinition{Name: fmt.Sprintf("s%d", n), HTTP: &task.SourceHTTP{URL: e.URL}, Every: task.Duration(time.Hour)})
	}
	f.lead()
	f.eventually(func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.polls >= 105
	}, "not all were polled")
	f.eventually(func() bool {
		return series(t, f.sources, "catena_source_polls_total") == 101
	}, "the figures are not bounded")
}

// series counts the lines of a figure.
func series(t *testing.T, s *source.Sources, name string) int {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(s.Metrics())
	families, err := r.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == name {
			return len(family.GetMetric())
		}
	}
	return 0
}

func TestItemsThatAreAlwaysRefusedShowWithTheSource(t *testing.T) {
	t.Parallel()
	f := open(t, nil)
	e := newEndpoint(t, `{"key":"b","task":"nothing"}`)
	f.source(task.SourceDefinition{Name: "work", HTTP: &task.SourceHTTP{URL: e.URL}})
	f.lead()
	f.eventually(func() bool { return strings.Contains(f.get("work").Error, "items are refused poll after poll") }, "nothing is remarked")
	require.Equal(t, task.SourceReady, f.get("work").Status, "it works")
}
