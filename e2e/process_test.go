package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v3/process"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/lifecycle"
)

// folder holds what the tests build; TestMain makes and removes it.
var folder string

func TestMain(m *testing.M) {
	if path := os.Getenv(recorderFile); path != "" {
		_, _ = os.Stderr.WriteString(record(path, os.Args[1]).Error() + "\n")
		os.Exit(1)
	}
	if os.Getenv(clockAnswers) != "" {
		answerClock()
		os.Exit(0)
	}
	var err error
	if folder, err = servertest.NewFolder(); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = servertest.RemoveFolder(folder)
	os.Exit(code)
}

// built is the program under test, built once for all tests of the process.
var built = sync.OnceValues(func() (string, error) { return build("catena", withRace) })

// builtPlain is the program without the race detector, whose own memory is many times
// that of the program.
var builtPlain = sync.OnceValues(func() (string, error) { return build("catena-plain", false) })

func build(name string, race bool) (string, error) {
	bin := filepath.Join(folder, name)
	args := []string{"build", "-o", bin}
	if race {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../cmd/catena")...).CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: "go build: " + string(out), Err: err}
	}
	return bin, nil
}

// plain is the program for tests of memory.
func plain(t *testing.T) string {
	t.Helper()
	bin, err := builtPlain()
	require.NoError(t, err)
	return bin
}

func binary(t *testing.T) string {
	t.Helper()
	bin, err := built()
	require.NoError(t, err)
	return bin
}

// logLine is a line of a process's log, of which the tests look at a few fields.
type logLine struct {
	Level     string `json:"level"`
	Msg       string `json:"msg"`
	Admin     string `json:"admin"`
	HTTP      string `json:"http"`
	Reason    string `json:"reason"`
	Successor int    `json:"successor"`
	PID       int    `json:"pid"`
	text      string
}

// logBook keeps the log of a process and of the workers that it supervises.
type logBook struct {
	mu    sync.Mutex
	rest  []byte
	lines []logLine
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rest = append(b.rest, p...)
	for {
		line, rest, found := bytes.Cut(b.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		b.rest = rest
		l := logLine{text: string(line)}
		_ = json.Unmarshal(line, &l) // what is no JSON has only its text
		b.lines = append(b.lines, l)
	}
}

// find returns the lines whose text contains part.
func (b *logBook) find(part string) []logLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []logLine
	for _, l := range b.lines {
		if strings.Contains(l.text, part) {
			found = append(found, l)
		}
	}
	return found
}

func (b *logBook) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var text strings.Builder
	for _, l := range b.lines[max(0, len(b.lines)-n):] {
		text.WriteString(l.text + "\n")
	}
	return text.String()
}

// program is a running catena process. It dies with the test process.
type program struct {
	name  string
	child *lifecycle.Child
	log   *logBook
	read  chan struct{} // closed when the log has ended
}

// start runs the program under test. What a data race detector says of it fails the test.
func start(t *testing.T, name string, env []string, args ...string) *program {
	t.Helper()
	return startAs(t, binary(t), name, env, args...)
}

// startAs does so with the program under test at another path.
func startAs(t *testing.T, path, name string, env []string, args ...string) *program {
	t.Helper()
	log, theirs, err := os.Pipe()
	require.NoError(t, err)
	defer theirs.Close()
	p := startTo(t, theirs, path, name, env, args...)
	p.read = make(chan struct{})
	go func() { // ends with the last process that has the pipe: a master's successors write there too
		defer close(p.read)
		defer log.Close()
		_, _ = io.Copy(p.log, log)
	}()
	return p
}

// startTo does so with a file for the log.
func startTo(t *testing.T, log *os.File, path, name string, env []string, args ...string) *program {
	t.Helper()
	p := &program{name: name, log: &logBook{}}
	cmd := exec.Command(path, args...)
	cmd.Env = append(withoutSettings(os.Environ()), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	p.child, err = lifecycle.StartChild(cmd, syscall.SIGKILL)
	require.NoError(t, err)
	t.Cleanup(func() {
		p.kill()
		_ = syscall.Kill(-p.child.PID(), syscall.SIGKILL) // the successors that it handed over to
		p.readAll()
		require.Empty(t, p.log.find("DATA RACE"), "%s:\n%s", name, p.log.tail(200))
		if t.Failed() {
			t.Logf("the end of the log of %s (%d):\n%s", name, p.child.PID(), p.log.tail(60))
		}
	})
	return p
}

// readAll waits for what the process has written, unless another goes on writing.
func (p *program) readAll() {
	if p.read == nil {
		return
	}
	select {
	case <-p.read:
	case <-time.After(2 * time.Second):
	}
}

func withoutSettings(environ []string) []string {
	var kept []string
	for _, v := range environ {
		if !strings.HasPrefix(v, "CATENA_") {
			kept = append(kept, v)
		}
	}
	return kept
}

func (p *program) alive() bool { return p.child.Alive() }

// kill is kill -9; it returns when the process is gone.
func (p *program) kill() {
	_ = p.child.Signal(syscall.SIGKILL)
	<-p.child.Done()
}

func (p *program) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, p.child.Signal(sig))
}

// ended waits until the process has ended by itself and returns its exit code.
func (p *program) ended(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.child.Done():
	case <-time.After(within):
		require.FailNow(t, "still running", "%s after %v:\n%s", p.name, within, p.log.tail(40))
	}
	p.readAll()
	var exit *exec.ExitError
	if err := p.child.Err(); err != nil {
		require.ErrorAs(t, err, &exit)
		return exit.ExitCode()
	}
	return 0
}

// exists tells whether a process runs; one that is dead and not yet collected does not.
func exists(pid int) bool {
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		return false
	}
	status, err := p.Status()
	return err == nil && !strings.Contains(strings.Join(status, ""), process.Zombie)
}
