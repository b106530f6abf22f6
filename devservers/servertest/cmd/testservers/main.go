// Command testservers runs a command beside one PostgreSQL and one Redis:
//
//	go run ./devservers/servertest/cmd/testservers -- go test ./...
//
// The command finds them in CATENA_TEST_POSTGRES_URL and CATENA_TEST_REDIS_URL.
// Its exit code is passed on; the servers and their data are gone afterwards.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/devservers"
	"github.com/catena-run/catena/devservers/servertest"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: testservers -- COMMAND [ARGUMENT]...")
		os.Exit(2)
	}
	code, err := run(args, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testservers:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run starts the servers, runs args beside them and returns its exit code.
func run(args []string, out io.Writer) (code int, err error) {
	// Ctrl-C reaches the command too: this process waits for it to end.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	dir, err := servertest.NewFolder()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, servertest.RemoveFolder(dir)) }()
	log := logrus.New()
	pg, err := devservers.StartPostgres(ctx, devservers.PostgresConfig{DataDir: filepath.Join(dir, "pg"), Log: log})
	if err != nil {
		return 1, err
	}
	defer stop(&err, pg.Stop)
	rd, err := devservers.StartRedis(ctx, devservers.RedisConfig{DataDir: filepath.Join(dir, "redis"), Log: log})
	if err != nil {
		return 1, err
	}
	defer stop(&err, rd.Stop)
	servers := [][2]string{{servertest.EnvPostgres, pg.URL}, {servertest.EnvRedis, rd.URL}}
	var vars []string
	for _, v := range servers {
		fmt.Fprintf(out, "export %s='%s'\n", v[0], v[1])
		vars = append(vars, v[0]+"="+v[1])
	}
	return command(ctx, args, vars)
}

func stop(err *error, do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	*err = errors.Join(*err, do(ctx))
}

func command(ctx context.Context, args, vars []string) (int, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), vars...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if exit.ExitCode() < 0 { // ended by a signal
			return 1, err
		}
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
