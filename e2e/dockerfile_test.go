package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/stretchr/testify/require"
)

// dockerfileFaults reads a Dockerfile with BuildKit's own parser and linter, checks
// the rules that an image of Catena must keep, and returns what is broken. No daemon is needed.
func dockerfileFaults(text string) (faults []string) {
	parsed, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return []string{err.Error()}
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, _ []parser.Range) {
		faults = append(faults, rule+": "+message)
	}})
	stages, _, err := instructions.Parse(parsed.AST, lint)
	if err != nil {
		return append(faults, err.Error())
	}
	for _, s := range stages {
		if strings.HasSuffix(s.BaseName, ":latest") {
			faults = append(faults, "a base without a version: "+s.BaseName)
		}
	}
	if !strings.Contains(text, "CGO_ENABLED=0 go build") {
		faults = append(faults, "the binary is not static")
	}
	last := stages[len(stages)-1]
	if last.BaseName != "scratch" {
		faults = append(faults, "the base holds more than the binary needs: "+last.BaseName)
	}
	return append(faults, imageFaults(last)...)
}

// imageFaults looks at what the image itself says.
func imageFaults(image instructions.Stage) (faults []string) {
	wanted := map[string]string{
		`USER 65532:65532`:        "it runs as root",
		`ENTRYPOINT ["/catena"]`:  "the entry point is not catena",
		`STOPSIGNAL SIGTERM`:      "it is not stopped with the signal that drains",
		`COPY LICENSE `:           "the licence is missing",
		`EXPOSE 20080 20081`:      "the ports are not named",
		`HEALTHCHECK --interval=`: "it has no health check",
	}
	for _, command := range image.Commands {
		line := command.(fmt.Stringer).String()
		for prefix := range wanted {
			if strings.HasPrefix(line, prefix) {
				delete(wanted, prefix)
			}
		}
		switch c := command.(type) {
		case *instructions.RunCommand:
			faults = append(faults, "scratch has no shell for: "+line)
		case *instructions.HealthCheckCommand:
			if c.Health.Test[0] != "CMD" {
				faults = append(faults, "the health check needs a shell: "+line)
			}
		}
	}
	for prefix, fault := range wanted {
		faults = append(faults, fault+": no "+prefix)
	}
	return faults
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
		{"FROM golang:1.26 AS build", "from golang:1.26 AS build", "FromAsCasing"},
		{"STOPSIGNAL", "STOPSIGNALS", "unknown instruction"},
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
