package healthcheck

import (
	"bytes"
	"fmt"
	"os"
)

// OpenResident returns a way to read the resident memory of this process that
// takes some microseconds and no memory, for those who look often.
func OpenResident() (read func() (uint64, error), stop func(), err error) {
	file, err := os.Open("/proc/self/statm")
	if err != nil {
		return nil, nil, err
	}
	page, buf := uint64(os.Getpagesize()), make([]byte, 128)
	read = func() (uint64, error) {
		n, err := file.ReadAt(buf, 0)
		if n == 0 {
			return 0, err
		}
		_, rest, _ := bytes.Cut(buf[:n], []byte(" ")) // the first figure is the address space
		var pages uint64
		for _, c := range rest {
			if c < '0' || c > '9' {
				return pages * page, nil
			}
			pages = pages*10 + uint64(c-'0')
		}
		return 0, fmt.Errorf("cannot read %q", buf[:n])
	}
	return read, func() { _ = file.Close() }, nil
}
