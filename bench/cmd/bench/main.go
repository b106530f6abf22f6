// Command bench measures Catena beside its peers, on the servers that
// CATENA_TEST_POSTGRES_URL and CATENA_TEST_REDIS_URL name, and prints tables.
// `make bench` starts such servers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/catena-run/catena/bench"
	"github.com/catena-run/catena/bench/ours"
	"github.com/catena-run/catena/bench/peers"
)

type options struct {
	runs, samples, rounds int
	schedules             int
	history               bool // what a large history costs instead
	rows                  int
	parts                 bool // Catena's own parts instead of the comparison
	limits                bool // Catena with limits beside Catena without
	http                  bool // the status page beside a bare handler of net/http
	only, profile         string
}

// row is what was measured of one subject.
type row struct {
	name                string
	throughput, backlog []float64
	p50, p99            time.Duration
	failure             error
}

func main() {
	var o options
	flag.IntVar(&o.runs, "runs", 30000, "no-op runs in a measurement of throughput")
	flag.IntVar(&o.samples, "samples", 60, "triggers in a measurement of latency")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of throughput; the median counts")
	flag.StringVar(&o.only, "only", "", "measure only subjects, loads (-limits) or parts (-parts: steps, calls, schedules) whose name contains this")
	flag.BoolVar(&o.parts, "parts", false, "measure Catena's parts that have no peer here: steps, calls, schedules")
	flag.BoolVar(&o.limits, "limits", false, "measure runs without limits beside runs with limits on 1,000 keys")
	flag.BoolVar(&o.http, "http", false, "measure the status page of the shared server beside a bare handler of net/http")
	flag.IntVar(&o.schedules, "schedules", 1_000_000, "schedules in the table, with -parts")
	flag.BoolVar(&o.history, "history", false, "measure Catena with an empty and with a large history")
	flag.IntVar(&o.rows, "rows", 10_000_000, "ended runs in the history, with -history")
	flag.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, o options) error {
	if o.profile != "" {
		file, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if o.http {
		fmt.Fprintf(out, "%s, %d cores, %s\n", runtime.Version(), runtime.NumCPU(), time.Now().Format(time.DateOnly))
		return printFigures(out)(ours.HTTP(ctx))
	}
	servers := bench.Servers{PostgresURL: os.Getenv("CATENA_TEST_POSTGRES_URL"), RedisURL: os.Getenv("CATENA_TEST_REDIS_URL")}
	if servers.PostgresURL == "" || servers.RedisURL == "" {
		return errors.New("CATENA_TEST_POSTGRES_URL and CATENA_TEST_REDIS_URL are not set; run `make bench`")
	}
	durability, err := peers.MakeDurable(ctx, servers.PostgresURL)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, %d cores, %s; %s\n", runtime.Version(), runtime.NumCPU(), time.Now().Format(time.DateOnly), durability)
	if o.parts {
		return printFigures(out)(ours.Parts(ctx, servers, o.schedules, o.only))
	}
	if o.history {
		return printFigures(out)(ours.History(ctx, servers, o.rows, o.runs))
	}
	if o.limits {
		return printLimits(ctx, out, servers, o)
	}
	rows := measure(ctx, out, subjects(servers), o)
	fmt.Fprintln(out)
	if err := printRows(out, rows); err != nil {
		return err
	}
	var failures []error
	for _, r := range rows {
		if r.failure != nil {
			failures = append(failures, fmt.Errorf("%s: %w", r.name, r.failure))
		}
	}
	return errors.Join(failures...)
}

func printFigures(out io.Writer) func([]ours.Figure, error) error {
	return func(figures []ours.Figure, err error) error {
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "figure\tvalue\tgoal\tshare of the goal\t")
		for _, f := range figures {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t\n", f.Name, f.Value, f.Goal, f.Share)
		}
		return errors.Join(err, table.Flush())
	}
}

// subjects lists what is measured, Catena first.
func subjects(servers bench.Servers) []bench.Subject {
	return append([]bench.Subject{ours.Catena{Servers: servers}}, peers.All(servers)...)
}

// measure takes the subjects in turn within each round, so that a noisy moment
// of the machine does not fall on one of them alone.
func measure(ctx context.Context, out io.Writer, all []bench.Subject, o options) []*row {
	var rows []*row
	var chosen []bench.Subject
	for _, s := range all {
		if strings.Contains(s.Name(), o.only) {
			chosen = append(chosen, s)
			rows = append(rows, &row{name: s.Name()})
		}
	}
	for round := range o.rounds {
		for i, s := range chosen {
			fmt.Fprintf(out, "round %d: %s\n", round+1, s.Name())
			rows[i].failure = errors.Join(rows[i].failure, throughput(ctx, s, rows[i], o.runs))
		}
	}
	for i, s := range chosen {
		fmt.Fprintf(out, "latency: %s\n", s.Name())
		var err error
		rows[i].p50, rows[i].p99, err = s.Latency(ctx, o.samples)
		rows[i].failure = errors.Join(rows[i].failure, err)
	}
	return rows
}

func throughput(ctx context.Context, s bench.Subject, r *row, runs int) error {
	figure, err := s.Throughput(ctx, runs)
	if err != nil {
		return err
	}
	r.throughput = append(r.throughput, figure)
	b, ok := s.(bench.Backlogger)
	if !ok {
		return nil
	}
	figure, err = b.Backlog(ctx, runs)
	if err != nil {
		return err
	}
	r.backlog = append(r.backlog, figure)
	return nil
}

func printRows(out io.Writer, rows []*row) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "no-op runs\truns/s, accept to end\tours/its\truns/s of a backlog\tours/its\tidle start p50\tp99\t")
	for _, r := range rows {
		throughput, backlog := bench.Median(r.throughput), bench.Median(r.backlog)
		fmt.Fprintf(table, "%s\t%.0f\t%s\t%.0f\t%s\t%s\t%s\t\n", r.name,
			throughput, ratio(bench.Median(rows[0].throughput), throughput), backlog, ratio(bench.Median(rows[0].backlog), backlog),
			r.p50.Round(10*time.Microsecond), r.p99.Round(10*time.Microsecond))
	}
	return table.Flush()
}

func ratio(ours, its float64) string {
	if ours == 0 || its == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", ours/its)
}

// printLimits measures the loads in turn within each round and prints medians.
func printLimits(ctx context.Context, out io.Writer, servers bench.Servers, o options) error {
	var rows []*row
	var loads []ours.LimitLoad
	for _, l := range ours.LimitLoads {
		if !strings.Contains(l.Name, o.only) {
			continue
		}
		loads = append(loads, l)
		rows = append(rows, &row{name: l.Name})
	}
	for round := range o.rounds {
		for i, l := range loads {
			accepted, backlog, err := ours.Limits(ctx, servers, l, o.runs)
			if err != nil {
				return fmt.Errorf("%s: %w", l.Name, err)
			}
			fmt.Fprintf(out, "round %d: %s: %.0f, of a backlog %.0f runs/s\n", round+1, l.Name, accepted, backlog)
			rows[i].throughput, rows[i].backlog = append(rows[i].throughput, accepted), append(rows[i].backlog, backlog)
		}
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "no-op runs on 1,000 keys\truns/s, accept to end\tof unlimited\tours / goal\truns/s of a backlog\tof unlimited\tours / goal\t")
	for _, r := range rows {
		throughput, backlog := bench.Median(r.throughput), bench.Median(r.backlog)
		whole, wholeBacklog := bench.Median(rows[0].throughput), bench.Median(rows[0].backlog)
		fmt.Fprintf(table, "%s\t%.0f\t%s %%\t%s\t%.0f\t%s %%\t%s\t\n", r.name,
			throughput, share(throughput, whole), goal(throughput, whole), backlog, share(backlog, wholeBacklog), goal(backlog, wholeBacklog))
	}
	return table.Flush()
}

// goal compares with what limits may cost: a fifth of the throughput.
func goal(its, whole float64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", its/whole/0.8)
}

func share(its, whole float64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", 100*its/whole)
}
