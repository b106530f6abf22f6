package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// dockerfileFaults checks the rules that an image of Catena must keep and
// returns what is broken. It reads instructions, not layers: no daemon is needed.
func dockerfileFaults(text string) []string {
	text = strings.ReplaceAll(text, "\\\n", " ")
	var faults, last []string // last: the instructions of the last stage
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "FROM ") {
			last = nil
			if strings.HasSuffix(line, ":latest") {
				faults = append(faults, "a base without a version: "+line)
			}
		}
		last = append(last, line)
	}
	if !strings.Contains(text, "CGO_ENABLED=0 go build") {
		faults = append(faults, "the binary is not static")
	}
	for instruction, fault := range map[string]string{
		`USER 65532:65532`:        "it runs as root",
		`ENTRYPOINT ["/catena"]`:  "the entry point is not catena",
		`STOPSIGNAL SIGTERM`:      "it is not stopped with the signal that drains",
		`COPY LICENSE `:           "the licence is missing",
		`EXPOSE 20080 20081`:      "the ports are not named",
		`FROM scratch`:            "the base holds more than the binary needs",
		`HEALTHCHECK --interval=`: "it has no health check",
	} {
		if !hasPrefix(last, instruction) {
			faults = append(faults, fault+": no "+instruction)
		}
	}
	for _, line := range last {
		switch {
		case strings.HasPrefix(line, "RUN "):
			faults = append(faults, "scratch has no shell for: "+line)
		case strings.HasPrefix(line, "HEALTHCHECK ") && !strings.Contains(line, `CMD ["/catena", `):
			faults = append(faults, "the health check needs a shell: "+line)
		}
	}
	return faults
}

func hasPrefix(lines []string, prefix string) bool {
	for _, line := range lines {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

func TestDockerfile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../Dockerfile")
	require.NoError(t, err)
	require.Empty(t, dockerfileFaults(string(text)))

	for _, c := range []struct{ old, broken, want string }{
		{"USER 65532:65532", "", "it runs as root"},
		{"CGO_ENABLED=0 ", "", "the binary is not static"},
		{`CMD ["/catena", "doctor"`, `CMD catena doctor`, "the health check needs a shell"},
		{"FROM scratch", "FROM alpine:latest", "a base without a version"},
		{"ENV ZONEINFO", "RUN true\nENV ZONEINFO", "scratch has no shell"},
	} {
		require.Contains(t, string(text), c.old)
		faults := dockerfileFaults(strings.Replace(string(text), c.old, c.broken, 1))
		require.NotEmpty(t, faults)
		require.Contains(t, strings.Join(faults, "\n"), c.want)
	}
}

// TestScripts lets bash read every script of the repository's own tools.
func TestScripts(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("../.ci/*")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, script := range scripts {
		info, err := os.Stat(script)
		require.NoError(t, err)
		require.NotZero(t, info.Mode()&0o111, "%s is not executable", script)
		out, err := exec.Command("bash", "-n", script).CombinedOutput()
		require.NoError(t, err, "%s: %s", script, out)
	}
}
