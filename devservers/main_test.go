package devservers

import (
	"github.com/catena-run/catena/lifecycle"

	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// helperEnv makes the test binary act as a parent that can be killed.
const helperEnv = "CATENA_DEVSERVERS_HELPER"

func TestMain(m *testing.M) {
	if mode := os.Getenv(helperEnv); mode != "" {
		if err := parent(mode, os.Args[len(os.Args)-1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// parent starts servers, prints their process ids and waits to be killed.
func parent(mode, dir string) error {
	ctx := context.Background()
	var pids []int
	switch mode {
	case "servers":
		pg, err := StartPostgres(ctx, PostgresConfig{DataDir: filepath.Join(dir, "pg")})
		if err != nil {
			return err
		}
		rd, err := StartRedis(ctx, RedisConfig{DataDir: filepath.Join(dir, "redis")})
		if err != nil {
			return err
		}
		pids = []int{pg.Pid(), rd.Pid()}
	case "guard":
		cmd := exec.Command("sleep", "600")
		if _, err := lifecycle.StartGuarded(cmd, syscall.SIGKILL); err != nil {
			return err
		}
		pids = []int{cmd.Process.Pid}
	}
	if err := json.NewEncoder(os.Stdout).Encode(pids); err != nil {
		return err
	}
	time.Sleep(10 * time.Minute)
	return errors.New("was not killed")
}

// killedParent runs a parent, kills it with SIGKILL once its servers run, and
// returns their process ids.
func killedParent(t *testing.T, mode, dir string) []int {
	t.Helper()
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), helperEnv+"="+mode)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadBytes('\n')
	require.NoError(t, err)
	var pids []int
	require.NoError(t, json.Unmarshal(line, &pids))
	for _, pid := range pids {
		require.NoError(t, syscall.Kill(pid, 0), "process %d must run", pid)
	}
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	return pids
}

// requireEnded waits until the processes are gone or are zombies that an init
// process has yet to collect.
func requireEnded(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		require.Eventually(t, func() bool {
			if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				return true
			}
			out, err := exec.Command("ps", "-o", "stat=", "-p", fmt.Sprint(pid)).Output()
			return err != nil || out[0] == 'Z'
		}, 15*time.Second, 20*time.Millisecond, "process %d outlived its parent", pid)
	}
}

// serverDir is a folder that the user postgres can enter when the tests run as root.
func serverDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "catena-dir-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

func testLog(t *testing.T) (*logrus.Logger, *test.Hook) {
	t.Helper()
	log, hook := test.NewNullLogger()
	return log, hook
}

func TestServersEndWithTheirKilledParent(t *testing.T) {
	t.Parallel()
	dir := serverDir(t)
	requireEnded(t, killedParent(t, "servers", dir))
	// The data must be usable at once afterwards.
	p := startPostgres(t, PostgresConfig{DataDir: filepath.Join(dir, "pg")})
	require.NoError(t, p.exec(t.Context(), "SELECT 1"))
}

func TestGuardEndsTheServerOfAKilledParent(t *testing.T) {
	t.Parallel()
	requireEnded(t, killedParent(t, "guard", ""))
}

func TestGuardEndsWithTheServer(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "600")
	release, err := lifecycle.StartGuarded(cmd, syscall.SIGKILL)
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	ended := make(chan struct{})
	go func() { defer close(ended); release() }()
	select {
	case <-ended:
	case <-time.After(15 * time.Second):
		t.Fatal("the guard still runs")
	}
}

// The parent-death signal belongs to the thread that started the child.
func TestChildOutlivesTheThreadOfItsCaller(t *testing.T) {
	t.Parallel()
	var r *Redis
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		r, err = StartRedis(context.Background(), RedisConfig{DataDir: t.TempDir()})
	}()
	<-ended
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Stop(context.Background())) }()
	select {
	case <-r.Done():
		t.Fatal("the server ended with the thread")
	case <-time.After(300 * time.Millisecond):
	}
}
