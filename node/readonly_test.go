package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/check"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/node"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

const shopManifest = `name: shop
exports: ["order?place", "order?hog", "order?spin"]
permissions:
  http: ["127.0.0.1", "localhost"]
  readonly_http: ["localhost"]
`

const shopCode = `import { http, log } from "catena";
export async function place(input: any, ctx: any) {
  const price = await http.get(input.base.replace("127.0.0.1", "localhost") + "/price");
  const stock = await http.get(input.base + "/stock");
  const paid = await http.post(input.base + "/pay", {json: {n: 1}});
  const moved = await http.get(input.base.replace("127.0.0.1", "localhost") + "/move").catch((e: any) => String(e));
  log.info("price", price.text);
  return {price: price.text, stock: stock.wouldDo, paid: paid.wouldDo, readonly: ctx.readonly, moved};
}
export function hog() { const all: any[] = []; for (;;) all.push(new Array(100000).fill(all.length)); }
export function spin() { for (;;) {} }
`

const shopTasks = `name: shop/order
params: {base: none, month: 1}
retry: {attempts: 3}
chain:
  - {call: "shop:order?place", with: {base: "${params.base}"}, as: order}
  - delay: 24h
  - {task: shop/mail, with: {price: "${vars.order.price}"}, name: mail}
  - {each: "${[1, 2]}", do: [{task: shop/mail, with: {n: "${item}"}}]}
  - {set: {readonly: "${run.readonly}"}}
  - {log: "${vars.readonly} ${steps.mail.data.run}"}
  - {wait: {event: paid, key: "${params.month}", timeout: 48h}, name: payment}
  - {task: shop/mail, wait: true, when: "steps.payment.would_wait"}
  - {each: "${[1, 2]}", spawn: true, limit: 2, do: [{task: shop/mail, with: {m: "${item}"}}]}
schedule: [{cron: "* * * * * *"}, {cron: "*/2 * * * * *", overlap: allow-all}]
---
name: shop/mail
chain: [[nop]]
---
name: shop/hog
chain: [["shop:order?hog"]]
---
name: shop/spin
timeout: 1s
chain: [["shop:order?spin"]]
---
name: shop/broken
chain: [["shop:order?lace"], {task: shop/male}, {log: "${steps.nobody.data}"}]
schedule: [{at: 2020-01-01T00:00:00Z}]
`

// shop is a database with everything that a leader would work on.
func shop(t *testing.T) configs.Config {
	t.Helper()
	cfg := config(t)
	_, err := node.MigrateUp(t.Context(), cfg, &output{})
	require.NoError(t, err)
	s, err := store.Open(t.Context(), store.Config{URL: cfg.Postgres.URL})
	require.NoError(t, err)
	defer s.Close()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "catena.yaml"), []byte(shopManifest), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "order.ts"), []byte(shopCode), 0o600))
	content, err := pkgstore.ReadDir(dir, pkgstore.Limits{})
	require.NoError(t, err)
	_, err = pkgstore.New(s.Pool(), pkgstore.Config{}).Push(t.Context(), content, "", "test")
	require.NoError(t, err)
	tasks, err := chain.ParseTasks("shop.yaml", []byte(shopTasks))
	require.NoError(t, err)
	var definitions []task.Definition
	for _, one := range tasks {
		definitions = append(definitions, one.Definition)
	}
	_, err = s.ApplyTasks(t.Context(), definitions, false)
	require.NoError(t, err)
	_, _, err = s.InsertRuns(t.Context(), []store.NewRun{{Task: "shop/mail"}})
	require.NoError(t, err)
	_, err = s.RegisterWorker(t.Context(), task.Worker{ID: "greedy", Host: "h", Queues: []string{"*"}, Slots: 2, RSS: 1 << 40})
	require.NoError(t, err)
	for _, sql := range []string{
		`INSERT INTO schedule_due (schedule, due_at) SELECT id, date_trunc('second', clock_timestamp()) + interval '1 second' FROM schedules WHERE cron IS NOT NULL`,
		`UPDATE schedules SET planned = version WHERE cron IS NOT NULL`,
		`UPDATE cluster SET tick = 100`,
		`INSERT INTO sources (name, http) VALUES ('shop/orders', '{"url": "http://127.0.0.1:1/work"}')`,
		`INSERT INTO source_items (source, key, state, task, record_at) VALUES ('shop/orders', 'a', 'refused', 'x', clock_timestamp())`,
	} {
		_, err = s.Pool().Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	return cfg
}

// snapshot is the content of every table and sequence, and of the cluster's
// keys in Redis.
func snapshot(t *testing.T, cfg configs.Config) map[string]string {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, cfg.Postgres.URL)
	require.NoError(t, err)
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT c.oid::regclass::text, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'S', 'i', 'v') ORDER BY 1`)
	require.NoError(t, err)
	type object struct{ Name, Kind string }
	objects, err := pgx.CollectRows(rows, pgx.RowToStructByPos[object])
	require.NoError(t, err)
	require.Greater(t, len(objects), 40)
	content := map[string]string{}
	for _, o := range objects {
		sql := `SELECT count(*) || ' ' || md5(coalesce(string_agg(t::text, E'\n' ORDER BY t::text), '')) FROM ` + o.Name + ` t`
		switch o.Kind {
		case "S":
			sql = `SELECT last_value || ' ' || is_called FROM ` + o.Name
		case "i", "v":
			sql = `SELECT 'there'`
		}
		var text string
		require.NoError(t, conn.QueryRow(ctx, sql).Scan(&text), o.Name)
		content[o.Kind+" "+o.Name] = text
	}
	options, err := redis.ParseURL(cfg.Redis.URL)
	require.NoError(t, err)
	r := redis.NewClient(options)
	defer r.Close()
	keys, err := r.Keys(ctx, "*"+cfg.Cluster.Name+"*").Result()
	require.NoError(t, err)
	for _, key := range keys {
		content["redis "+key], err = r.Dump(ctx, key).Result()
		require.NoError(t, err)
	}
	members, err := r.SMembers(ctx, "asynq:queues").Result()
	require.NoError(t, err)
	for _, m := range members {
		if strings.Contains(m, cfg.Cluster.Name) {
			content["redis asynq:queues "+m] = "member"
		}
	}
	return content
}

// readerOf is cfg with a role that may only read.
func readerOf(t *testing.T, cfg configs.Config) configs.Config {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), cfg.Postgres.URL)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	role := fmt.Sprintf("reader_%d", time.Now().UnixNano())
	for _, sql := range []string{
		`CREATE ROLE ` + role + ` LOGIN PASSWORD 'reader'`,
		`GRANT USAGE ON SCHEMA public TO ` + role, `GRANT SELECT ON ALL TABLES IN SCHEMA public TO ` + role,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, cfg.Postgres.URL)
		require.NoError(t, err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, `DROP OWNED BY `+role+`; DROP ROLE `+role)
		require.NoError(t, err)
	})
	u, err := url.Parse(cfg.Postgres.URL)
	require.NoError(t, err)
	u.User = url.UserPassword(role, "reader")
	cfg.Postgres.URL = u.String()
	return cfg
}

// TestDryRunsWriteNothing compares every table, every sequence and Redis before
// and after a check, readonly runs and a master that looks for some seconds,
// with the role of the cluster and with one that may only read.
func TestDryRunsWriteNothing(t *testing.T) {
	t.Parallel()
	asked := &atomic.Int32{}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/move" {
			http.Redirect(w, r, "http://"+r.Host[:0]+"127.0.0.1:1/", http.StatusFound)
			return
		}
		fmt.Fprint(w, r.Method+" "+r.URL.Path)
	}))
	t.Cleanup(site.Close)
	cfg := shop(t)
	before := snapshot(t, cfg)
	for name, c := range map[string]configs.Config{"owner": cfg, "reader": readerOf(t, cfg)} {
		t.Run(name, func(t *testing.T) {
			checkShop(t, c)
			readonlyShop(t, c, site.URL)
			observeShop(t, c)
		})
	}
	require.Equal(t, before, snapshot(t, cfg))
	touch(t, cfg)
	require.NotEqual(t, before, snapshot(t, cfg), "the comparison sees one row")
	require.EqualValues(t, 4, asked.Load(), "only what readonly_http permits was asked, twice with each role")
}

// touch writes one row.
func touch(t *testing.T, cfg configs.Config) {
	conn, err := pgx.Connect(t.Context(), cfg.Postgres.URL)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `UPDATE schedule_due SET due_at = due_at + interval '1 microsecond' WHERE schedule = (SELECT min(schedule) FROM schedule_due)`)
	require.NoError(t, err)
}

func checkShop(t *testing.T, cfg configs.Config) {
	cluster, done, err := node.OpenCluster(t.Context(), cfg, &output{})
	require.NoError(t, err)
	defer done()
	report, err := check.Run(t.Context(), check.Input{Cluster: cluster, Clock: check.Clock{From: time.Now()}})
	require.NoError(t, err)
	for _, c := range report.Checks {
		require.True(t, c.OK, "%+v", c)
	}
	require.True(t, report.Problems())
	require.Equal(t, 5, report.Tasks)
	texts := fmt.Sprint(report.Findings)
	for _, want := range []string{"exports no function lace", "did you mean order?place?", "there is no task shop/male", "did you mean shop/mail?", "${steps.nobody}", "never fires"} {
		require.Contains(t, texts, want)
	}
	require.Equal(t, "shop", report.Packages[0].Name)
	require.Equal(t, []string{"localhost"}, report.Packages[0].Permissions["readonly_http"])
	require.EqualValues(t, check.DefaultHorizon/time.Second*3/2, report.Forecast.Total.Fires)
	require.Equal(t, 2, report.Forecast.Queues[0].Slots)
}

func readonlyShop(t *testing.T, cfg configs.Config, base string) {
	log := &output{}
	params := json.RawMessage(`{"base": "` + base + `"}`)
	result, err := node.ReadonlyRunOn(t.Context(), cfg, "shop/order", params, log)
	require.NoError(t, err, log.String())
	require.Equal(t, task.StateSucceeded, result.State, result.Outcome.Reason)
	var order struct {
		Price                 string
		Stock, Paid, Readonly bool
		Moved                 string
	}
	require.NoError(t, json.Unmarshal(result.Steps[0].Outcome.Data, &order))
	require.Equal(t, "GET /price", order.Price, "what is harmless to read is read")
	require.True(t, order.Stock && order.Paid && order.Readonly)
	require.Contains(t, order.Moved, "a dry run may not read from")
	var kinds []string
	for _, e := range result.WouldDo {
		step := strings.NewReplacer("8[0]", "8[*]", "8[1]", "8[*]").Replace(e.Step) // at once, in any order
		kinds = append(kinds, step+" "+e.Kind)
	}
	require.Equal(t, []string{"0 http", "0 http", "1 wait", "2 task", "3[0].do.0 task", "3[1].do.0 task", "6 wait", "7 task", "7 wait", "8 task",
		"8[*].do.0 task", "8[*].do.0 task"}, kinds)
	require.Contains(t, result.WouldDo[1].What, "POST http://127.0.0.1")
	require.Equal(t, `shop/mail {"price":"GET /price"}`, result.WouldDo[3].What)
	require.Equal(t, "event paid with key 1, at most 48h0m0s", result.WouldDo[6].What)
	require.Equal(t, "2 runs, one for each element", result.WouldDo[9].What)
	require.Contains(t, fmt.Sprint(result.Log), "true 00000000-0000-0000-0000-000000000000")
	require.Contains(t, result.Packages["shop"], "sha256:")

	spun, err := node.ReadonlyRunOn(t.Context(), cfg, "shop/spin", nil, log)
	require.NoError(t, err)
	require.Equal(t, task.StateTimedOut, spun.State)
	lost, err := node.ReadonlyRunOn(t.Context(), cfg, "shop/broken", nil, log)
	require.NoError(t, err)
	require.Equal(t, task.StateFailed, lost.State)
	require.Contains(t, lost.Outcome.Reason, "does not export order?lace")
	_, err = node.ReadonlyRunOn(t.Context(), cfg, "shop/nothing", nil, log)
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))
	_, err = node.ReadonlyRunOn(t.Context(), cfg, "shop/mail", json.RawMessage(`[]`), log)
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
}

// observeShop has a master look until it has told of several due times.
func observeShop(t *testing.T, cfg configs.Config) {
	out, log := &output{}, &output{}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- node.RunReadonlyMaster(ctx, cfg, node.Options{Out: out, Err: log}, true) }()
	wants := []string{`"would":"start","task":"shop/order"`, `"would":"dispatch","task":"shop/mail"`, `"would":"replace-worker"`, `"would":"take-back"`,
		`"would":"poll","source":"shop/orders"`, `"would":"record","source":"shop/orders"`,
		`"would":"start-workers"`, `"would":"plan","task":"shop/broken"`}
	require.Eventually(t, func() bool {
		text := out.String()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				return false
			}
		}
		return strings.Count(text, wants[0]) >= 5
	}, 30*time.Second, 20*time.Millisecond, "%s %s", log, out)
	stop()
	require.NoError(t, <-ended)
	seen := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		var w struct {
			Would, What string
			DueAt       *time.Time `json:"due_at"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &w))
		key := fmt.Sprint(w.Would, w.What, w.DueAt)
		require.False(t, seen[key], "told twice: %s", line)
		seen[key] = true
	}
}

// TestAReadonlyRunIsStoppedAtItsMemoryLimit: the process dies, not the master.
func TestAReadonlyRunIsStoppedAtItsMemoryLimit(t *testing.T) {
	t.Parallel()
	cfg := shop(t)
	cfg.Script.HeapLimit = configs.Size(8 << 30)
	cfg.Worker.MaxMemory = 192 * configs.MiB
	_, err := node.ReadonlyRunOn(t.Context(), cfg, "shop/hog", nil, &output{})
	require.Equal(t, task.CodeTooLarge, task.CodeOf(err), "%v", err)
	require.Contains(t, err.Error(), "of memory, the limit is 192 MiB")
}

// TestAReadonlyRunOverTheAPI leaves no trace among the runs.
func TestAReadonlyRunOverTheAPI(t *testing.T) {
	t.Parallel()
	d := startDev(t, config(t), t.TempDir())
	_, err := d.ApplyTasks(t.Context(), client.ApplyRequest{Files: []client.File{{Name: "a.yaml", Content: "name: quiet\nchain: [{task: other}, {set: {x: \"${params.x}\"}}]\n"}}})
	require.NoError(t, err)
	result, err := d.ReadonlyRun(t.Context(), "quiet", client.ReadonlyRequest{Params: json.RawMessage(`{"x": 1}`)})
	require.NoError(t, err)
	require.Equal(t, task.StateSucceeded, result.State, result.Outcome.Reason)
	require.Equal(t, []task.Effect{{Step: "0", Kind: "task", What: "other {}"}}, result.WouldDo)
	runs, err := d.Runs(t.Context(), client.RunFilter{})
	require.NoError(t, err)
	require.Empty(t, runs)
	_, err = d.ReadonlyRun(t.Context(), "nobody", client.ReadonlyRequest{})
	require.Equal(t, task.CodeNotFound, task.CodeOf(err))

	report, err := check.Run(t.Context(), check.Input{Cluster: check.NewServer(d.Client), Clock: check.Clock{From: time.Now()}})
	require.NoError(t, err)
	require.Equal(t, 1, report.Tasks)
	require.Contains(t, fmt.Sprint(report.Findings), "there is no task other")
}
