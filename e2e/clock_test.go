package e2e

import (
	"bufio"
	"bytes"
	"debug/elf"
	endian "encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// clock changes the wall clock that one running process sees, as when the clock
// of its machine is set: the monotonic clock goes on undisturbed.
//
// The program under test is not changed. A Go program asks the kernel's vDSO for
// the time; a copy of that page belongs to the process, and its function for
// clock_gettime is replaced there by one that asks the kernel and adds an offset
// to CLOCK_REALTIME. The offset stands beside the code and is set from outside.
type clock struct {
	memory *os.File
	offset int64 // address of the offset in the process
}

// newClock takes over the clock of a process; it says why it cannot.
func newClock(pid int) (*clock, error) {
	if runtime.GOARCH != "amd64" {
		return nil, errors.New("written for amd64 only")
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	c := &clock{memory: memory}
	if err := c.install(pid); err != nil {
		_ = memory.Close()
		return nil, err
	}
	return c, nil
}

func (c *clock) install(pid int) error {
	start, size, err := vdso(pid)
	if err != nil {
		return err
	}
	image := make([]byte, size)
	if _, err := c.memory.ReadAt(image, start); err != nil {
		return err
	}
	function, end, err := clockFunction(image)
	if err != nil {
		return err
	}
	room := (end + 15) &^ 15
	const offsetAt = 24 // aligned, so that it is read and written as one
	code := []byte{
		0xb8, 228, 0, 0, 0, // mov eax, 228: clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
		0x75, 0x0a, // jne the ret
		0x4c, 0x8b, 0x1d, 0x06, 0, 0, 0, // mov r11, [rip+6]: the offset
		0x4c, 0x01, 0x1e, // add [rsi], r11: the seconds
		0xc3, // ret
		0xcc, 0xcc,
		0, 0, 0, 0, 0, 0, 0, 0, // the offset
	}
	if room+int64(len(code)) > size {
		return errors.New("the vDSO has no room left")
	}
	c.offset = start + room + offsetAt
	if bytes.Equal(image[room:room+offsetAt], code[:offsetAt]) {
		return nil // it was taken over before
	}
	if bytes.ContainsFunc(image[room:room+int64(len(code))], func(r rune) bool { return r != 0 }) {
		return errors.New("the vDSO is not empty at its end")
	}
	jump := append([]byte{0xe9}, endian.LittleEndian.AppendUint32(nil, uint32(int32(room-(function+5))))...)
	return stopped(pid, start+function, start+function+int64(len(jump)), func() error {
		if _, err := c.memory.WriteAt(code, start+room); err != nil {
			return err
		}
		_, err := c.memory.WriteAt(jump, start+function)
		return err
	})
}

// shift sets how far the process's wall clock is ahead of the machine's.
func (c *clock) shift(by time.Duration) error {
	_, err := c.memory.WriteAt(endian.LittleEndian.AppendUint64(nil, uint64(int64(by/time.Second))), c.offset)
	return err
}

func (c *clock) close() { _ = c.memory.Close() }

// vdso finds the page in the process.
func vdso(pid int) (start, size int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		var end int64
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil {
			return 0, 0, err
		}
		return start, end - start, nil
	}
	return 0, 0, errors.New("the process has no vDSO")
}

// clockFunction returns where the function begins, and the end of what the
// image uses.
func clockFunction(image []byte) (begin, end int64, err error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, 0, err
	}
	end = int64(endian.LittleEndian.Uint64(image[0x28:])) + int64(len(file.Sections))*64 // behind the section headers
	for _, s := range file.Sections {
		end = max(end, int64(s.Offset+s.Size))
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, 0, err
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" {
			return int64(s.Value), end, nil
		}
	}
	return 0, 0, errors.New("the vDSO has no clock_gettime")
}

// stopped does something while no thread of the process runs or stands within
// the given addresses.
func stopped(pid int, from, to int64, do func() error) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		clear, err := standsElsewhere(pid, from, to)
		if err == nil && clear {
			err = do()
		}
		if again := syscall.Kill(pid, syscall.SIGCONT); err == nil {
			err = again
		}
		if err != nil || clear {
			return err
		}
	}
	return errors.New("the process does not come to rest")
}

func standsElsewhere(pid int, from, to int64) (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return false, err
	}
	for _, thread := range threads {
		status, err := os.ReadFile(filepath.Join(thread, "stat"))
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(status), ") ")
		where, err := os.ReadFile(filepath.Join(thread, "syscall"))
		if err != nil {
			return false, err
		}
		fields := strings.Fields(string(where)) // the last is the instruction pointer; "running" has none
		at, err := strconv.ParseInt(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if !strings.HasPrefix(rest, "T") || err != nil || at >= from && at < to {
			return false, nil
		}
	}
	return len(threads) > 0, nil
}

// clockAnswers makes the test binary tell its time for each line that it reads.
const clockAnswers = "CATENA_TEST_CLOCK"

func answerClock() {
	began := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		now := time.Now()
		fmt.Println(now.UnixMilli(), now.Sub(began).Milliseconds())
	}
}

// TestTheClockOfOneProcess shows that the wall clock of a Go program is set, and
// nothing else.
func TestTheClockOfOneProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clockAnswers+"=1")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	answers := bufio.NewReader(out)
	ahead := func() (wall, monotonic time.Duration) {
		_, err := in.Write([]byte("\n"))
		require.NoError(t, err)
		line, err := answers.ReadString('\n')
		require.NoError(t, err)
		var ms, since int64
		_, err = fmt.Sscan(line, &ms, &since)
		require.NoError(t, err)
		return time.Since(time.UnixMilli(ms)) * -1, time.Duration(since) * time.Millisecond
	}
	before, _ := ahead()
	require.InDelta(t, 0, before.Seconds(), 5)
	_, err = newClock(cmd.Process.Pid)
	if err != nil {
		t.Skipf("the clock of a process cannot be set here: %v", err)
	}
	c, err := newClock(cmd.Process.Pid) // again, as later faults do
	require.NoError(t, err)
	defer c.close()
	_, last := ahead()
	for _, by := range []time.Duration{0, time.Minute, -time.Minute, 0} {
		require.NoError(t, c.shift(by))
		wall, monotonic := ahead()
		require.InDelta(t, by.Seconds(), wall.Seconds(), 5)
		require.InDelta(t, 0, (monotonic - last).Seconds(), 5, "the monotonic clock jumped")
		last = monotonic
	}
}
