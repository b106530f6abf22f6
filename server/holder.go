package server

import (
	"fmt"
	"net"
	"strconv"

	gopsnet "github.com/shirou/gopsutil/v3/net"
	"github.com/shirou/gopsutil/v3/process"
)

// holder names the process that listens on a TCP address, where the system
// tells; "" else.
func holder(a Address) string {
	_, portText, err := net.SplitHostPort(a.Text)
	if err != nil {
		return ""
	}
	port, err := strconv.ParseUint(portText, 10, 32)
	if err != nil {
		return ""
	}
	connections, err := gopsnet.Connections("tcp")
	if err != nil {
		return ""
	}
	for _, c := range connections {
		if c.Status != "LISTEN" || uint64(c.Laddr.Port) != port || c.Pid == 0 {
			continue
		}
		name := ""
		if p, err := process.NewProcess(c.Pid); err == nil {
			name, _ = p.Name()
		}
		return fmt.Sprintf(" (%s, process %d)", name, c.Pid)
	}
	return ""
}
