package lifecycle

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// rlimitData is missing in package syscall.
const rlimitData = 2

// workerScore is what a limited process gives itself at least, of 1000, so that
// a kernel without memory kills it before its parent.
const workerScore = 500

// LimitSelf has the kernel bound this process: it writes no core dump, is
// killed before others when the machine has no memory left, and gets at most
// data bytes of private memory beyond what it has now; 0: any. It applies what
// it can and returns what it cannot.
//
// RLIMIT_AS would count the address space, of which the Go runtime
// reserves far more than it uses; RLIMIT_DATA counts what is mapped for writing.
func LimitSelf(data uint64) error {
	failed := []error{named("RLIMIT_CORE", syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})), raiseScore()}
	if data > 0 && !raceDetector {
		failed = append(failed, limitData(data))
	}
	return errors.Join(failed...)
}

func limitData(data uint64) error {
	has, err := mappedData()
	if err != nil {
		return err
	}
	var now syscall.Rlimit
	if err := syscall.Getrlimit(rlimitData, &now); err != nil {
		return named("RLIMIT_DATA", err)
	}
	wanted := has + data
	if now.Cur < wanted { // it is tighter already; the limit may be infinite, which is the largest number
		return nil
	}
	return named("RLIMIT_DATA", syscall.Setrlimit(rlimitData, &syscall.Rlimit{Cur: wanted, Max: now.Max}))
}

// mappedData is what RLIMIT_DATA is compared with.
func mappedData() (uint64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if rest, found := bytes.CutPrefix(line, []byte("VmData:")); found {
			var kib uint64
			_, err := fmt.Sscan(string(rest), &kib)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/self/status does not tell VmData")
}

func raiseScore() error {
	const file = "/proc/self/oom_score_adj"
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if score, err := strconv.Atoi(string(bytes.TrimSpace(text))); err != nil || score >= workerScore {
		return err
	}
	return os.WriteFile(file, []byte(strconv.Itoa(workerScore)), 0) //nolint:gosec // the file is there
}
