package master_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/healthcheck"
	"github.com/catena-run/catena/master"
)

// The test binary is also the worker process that the supervisor starts, and
// the supervising process of one test: these variables say so.
const (
	envDummy = "CATENA_TEST_DUMMY" // what the dummy worker does
	envFile  = "CATENA_TEST_FILE"  // where it appends a line for each event
	envBoss  = "CATENA_TEST_BOSS"  // supervises one dummy until it is killed
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envBoss) != "":
		boss()
	case os.Getenv(envDummy) != "":
		dummy(os.Getenv(envDummy))
	default:
		goleak.VerifyTestMain(m, servertest.LeakOptions()...)
	}
}

// note appends "event pid milliseconds" to the events' file.
func note(event string) {
	f, err := os.OpenFile(os.Getenv(envFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		os.Exit(9)
	}
	defer f.Close()
	fmt.Fprintf(f, "%s %d %d\n", event, os.Getpid(), time.Now().UnixMilli())
}

// touch makes the memory resident, without the race detector's shadow of it.
//
//go:norace
func touch(memory []byte) {
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
}

// alone reports whether no other dummy has started before.
func alone() bool {
	text, _ := os.ReadFile(os.Getenv(envFile))
	return strings.Count(string(text), "start") == 1
}

// dummy behaves as a worker of the given kind.
func dummy(kind string) {
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	note("start")
	channel := os.NewFile(master.ReportFD, "reports")
	reports := json.NewEncoder(channel)
	if kind == "panic" {
		_ = debug.SetCrashOutput(channel, debug.CrashOptions{})
	}
	switch kind {
	case "probed":
		go answer(channel, reports, 3)
	case "prompt", "stuck":
		go answer(channel, reports, math.MaxInt)
	case "silent":
		time.Sleep(time.Second)
	}
	if kind == "slow" {
		time.Sleep(300 * time.Millisecond)
		note("ready")
	}
	first := alone()
	if kind != "first" && kind != "lonely" || first {
		_ = reports.Encode(master.Report{Epoch: int64(os.Getpid()), ID: strconv.Itoa(os.Getpid())})
	}
	switch kind {
	case "quits":
		os.Exit(0)
	case "crash":
		os.Exit(3)
	case "panic":
		panic("boom")
	case "fails":
		_ = reports.Encode(master.Report{Failed: "no database at postgres://catena:hunter2@db/catena"})
		os.Exit(1)
	case "greedy":
		_ = reports.Encode(master.Report{Memory: "uses 900.0 MiB of memory, the limit is 400.0 MiB"})
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "late":
		_ = reports.Encode(master.Report{Probe: 1, LateRun: "r1", LateMS: 5000})
	}
	if kind == "hang" {
		<-terms // without using the CPU: who works is busy
		note("term")
		os.Exit(0)
	}
	var hog []byte
	if kind == "hog" || kind == "bomb" {
		hog = make([]byte, 200<<20)
		touch(hog)
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	for runs := int64(0); ; runs++ {
		select {
		case <-terms:
			note("term")
			if kind == "stubborn" || kind == "bomb" || kind == "lonely" && !first {
				continue
			}
			if kind == "stuck" {
				_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
				select {} // another thread may be the one that stops
			}
			if kind == "lingering" {
				time.Sleep(400 * time.Millisecond)
				note("end")
			}
			os.Exit(0)
		case <-ticker.C:
			_ = reports.Encode(master.Report{Alive: true, Runs: runs})
			_ = len(hog)
		}
	}
}

// answer answers n probes; then it is deaf, though the process gives signs of life.
func answer(channel *os.File, reports *json.Encoder, n int) {
	probes := json.NewDecoder(channel)
	for range n {
		var p master.Word
		if probes.Decode(&p) != nil {
			return
		}
		note("probe")
		_ = reports.Encode(master.Report{Probe: p.Probe})
	}
}

// command starts this binary as a dummy.
func command(kind, file string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envBoss+"=", envDummy+"="+kind, envFile+"="+file)
	return cmd
}

// boss supervises one dummy for ever.
func boss() {
	file := os.Getenv(envFile)
	m := master.New(master.Config{Name: "boss", Supervision: master.Supervision{
		Workers: 1, CheckEvery: 50 * time.Millisecond, Policy: healthcheck.Policy{HangAfter: 2 * time.Second}, Command: func(int) *exec.Cmd { return command("good", file) },
	}}, master.Deps{Log: quiet()})
	supervise(m)
	select {}
}
