package devservers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

func startPostgres(t *testing.T, cfg PostgresConfig) *Postgres {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log, _ = testLog(t)
	}
	p, err := StartPostgres(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Stop(context.Background())) })
	return p
}

// query reads one text from the database that URL names.
func query(t *testing.T, p *Postgres, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.URL)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	var text string
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&text))
	return text
}

func TestPostgresIsPrivateAndDurable(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, PostgresConfig{DataDir: serverDir(t)})
	for setting, want := range map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "listen_addresses": "", "max_connections": "200",
		"unix_socket_permissions": "0700", "server_encoding": "UTF8",
	} {
		require.Equal(t, want, query(t, p, "SELECT current_setting('"+setting+"')"), setting)
	}
	require.Equal(t, DatabaseName, query(t, p, "SELECT current_database()::text"))
	require.Equal(t, "C", query(t, p, "SELECT datcollate::text FROM pg_database WHERE datname = 'catena'"))
	info, err := os.Stat(p.dataPath())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

func TestPostgresKeepsWhatWasCommittedOverKillAndRestart(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, PostgresConfig{DataDir: serverDir(t)})
	url, done := p.URL, p.Done()
	query(t, p, "SELECT set_config('a.b', 'c', false)")
	conn, err := pgx.Connect(t.Context(), p.URL)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 'kept' AS word")
	require.NoError(t, err)
	require.NoError(t, p.Kill(syscall.SIGKILL))
	<-done
	require.Zero(t, p.Pid())
	require.Error(t, conn.Ping(t.Context()), "a backend outlived its postmaster")
	conn.Close(t.Context())

	require.NoError(t, p.Restart(t.Context()), "after a kill")
	require.Equal(t, "kept", query(t, p, "SELECT word FROM kept"))
	require.NoError(t, p.Restart(t.Context()), "while it runs")
	require.Equal(t, "kept", query(t, p, "SELECT word FROM kept"))
	require.Equal(t, url, p.URL)

	require.NoError(t, p.Stop(t.Context()))
	require.NoError(t, p.Stop(t.Context()))
	require.NoError(t, p.Kill(syscall.SIGTERM), "killing what is stopped is fine")
	require.Equal(t, task.CodeConflict, task.CodeOf(p.Restart(t.Context())))
	again := startPostgres(t, PostgresConfig{DataDir: p.cfg.DataDir})
	require.Equal(t, "kept", query(t, again, "SELECT word FROM kept"))
}

func TestPostgresIgnoresAPidFileWhoseNumberAnotherProcessHas(t *testing.T) {
	t.Parallel()
	dir := serverDir(t)
	p := startPostgres(t, PostgresConfig{DataDir: dir})
	require.NoError(t, p.Kill(syscall.SIGKILL))
	<-p.Done()
	require.NoError(t, p.Stop(t.Context()))
	// The same user's process, so that PostgreSQL itself would refuse.
	other := exec.Command("sleep", "60")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: p.account.credential()}
	require.NoError(t, other.Start())
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	path := filepath.Join(p.dataPath(), "postmaster.pid")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(raw), "\n")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "%d\n%s", other.Process.Pid, rest), 0o600))
	startPostgres(t, PostgresConfig{DataDir: dir})
}

func TestPostgresRefusesDataInUse(t *testing.T) {
	t.Parallel()
	dir := serverDir(t)
	p := startPostgres(t, PostgresConfig{DataDir: dir})
	_, err := StartPostgres(t.Context(), PostgresConfig{DataDir: dir})
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	require.ErrorContains(t, err, fmt.Sprintf("another process (pid %d) uses this data", os.Getpid()))
	require.ErrorContains(t, err, dir)
	query(t, p, "SELECT 'the first still works'")
	// A server that was started by other means holds no lock of ours.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = clearStalePid(ctx, p.dataPath())
	require.Equal(t, task.CodeConflict, task.CodeOf(err))
	require.ErrorContains(t, err, fmt.Sprintf("kill -INT %d", p.Pid()))
}

func TestPostgresWithALongDataPathHasAShortSocketPath(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, PostgresConfig{DataDir: filepath.Join(serverDir(t), strings.Repeat("long", 40), "data, with a comma")})
	require.Less(t, len(p.sockets), 60)
	require.Equal(t, "ok", query(t, p, "SELECT 'ok'"))
	require.NoError(t, p.Stop(t.Context()))
	require.NoDirExists(t, p.sockets)
}

func TestPostgresAsRootInAFolderItsUserCannotEnter(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(t.TempDir(), "pg") // below a folder with mode 0700
	log, hook := testLog(t)
	p := startPostgres(t, PostgresConfig{DataDir: dir, Log: log})
	t.Cleanup(func() { _ = os.RemoveAll(p.Home()) })
	require.Contains(t, hook.LastEntry().Message, "cannot enter")
	require.True(t, strings.HasPrefix(p.Home(), elsewhereRoot))
	require.NotEqual(t, "0", strings.TrimSpace(ownerOf(t, p.Pid())), "PostgreSQL must not run as root")
	require.NoError(t, p.Stop(t.Context()))
	again := startPostgres(t, PostgresConfig{DataDir: dir})
	require.Equal(t, p.Home(), again.Home(), "the same data must be found again")
}

func ownerOf(t *testing.T, pid int) string {
	t.Helper()
	out, err := exec.Command("ps", "-o", "uid=", "-p", fmt.Sprint(pid)).Output()
	require.NoError(t, err)
	return string(out)
}

func TestPostgresThatCannotStartShowsItsLog(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, PostgresConfig{DataDir: serverDir(t)})
	require.NoError(t, p.Stop(t.Context()))
	require.NoError(t, os.WriteFile(filepath.Join(p.dataPath(), "postgresql.conf"), []byte("no_such_setting = 1\n"), 0o600))
	_, err := StartPostgres(t.Context(), p.cfg)
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	require.ErrorContains(t, err, "no_such_setting")
	require.ErrorContains(t, err, "server.log")
}

func TestChooseInstallation(t *testing.T) {
	t.Parallel()
	_, err := choose(nil, t.TempDir())
	require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
	require.ErrorContains(t, err, "`apt-get install -y postgresql`")

	data := t.TempDir()
	found := []installation{{"/17", 17}, {"/15", 15}}
	inst, err := choose(found, data)
	require.NoError(t, err)
	require.Equal(t, 17, inst.major)
	require.NoError(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("15\n"), 0o600))
	inst, err = choose(found, data)
	require.NoError(t, err)
	require.Equal(t, 15, inst.major)
	require.NoError(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("16\n"), 0o600))
	_, err = choose(found, data)
	require.ErrorContains(t, err, "apt-get install -y postgresql-16")
	require.Empty(t, installations([]string{t.TempDir()}))
	require.Less(t, numberIn("/usr/lib/postgresql/9/bin"), numberIn("/usr/lib/postgresql/15/bin"))
}

func TestPostgresConfigValidate(t *testing.T) {
	t.Parallel()
	_, err := StartPostgres(t.Context(), PostgresConfig{})
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	require.Error(t, PostgresConfig{DataDir: "x", StartTimeout: -1}.Validate())
}
