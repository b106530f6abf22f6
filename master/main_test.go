package master_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
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
	reports := json.NewEncoder(os.NewFile(master.ReportFD, "reports"))
	if kind == "slow" {
		time.Sleep(300 * time.Millisecond)
		note("ready")
	}
	if kind != "first" || alone() {
		_ = reports.Encode(master.Report{Epoch: int64(os.Getpid()), ID: strconv.Itoa(os.Getpid())})
	}
	if kind == "crash" {
		os.Exit(3)
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
			if kind == "stubborn" || kind == "bomb" {
				continue
			}
			os.Exit(0)
		case <-ticker.C:
			if kind != "hang" {
				_ = reports.Encode(master.Report{Alive: true, Runs: runs})
			}
			_ = len(hog)
		}
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
