package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/telemetry"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"postgres://u:secret@host/db":                         "postgres://u:***@host/db",
		"redis://:secret@host:6379/0":                         "redis://:***@host:6379/0",
		"redis://:p@ss/w@rd@host:6379/0":                      "redis://:***@host:6379/0",
		`dial "redis://u:secret@h:1": refused`:                `dial "redis://u:***@h:1": refused`,
		"http://127.0.0.1:20081/api":                          "http://127.0.0.1:20081/api",
		"postgres://host/db?user=u&password=secret&sslmode=x": "postgres://host/db?user=u&password=***&sslmode=x",
		"host=h password=secret dbname=d":                     "host=h password=*** dbname=d",
		`host=h password='a b\'c' dbname=d`:                   "host=h password=*** dbname=d",
		"Authorization: Bearer ctn_abc.DEF":                   "Authorization: Bearer ***",
		"nothing to hide":                                     "nothing to hide",
	} {
		require.Equal(t, want, telemetry.Redact(in), in)
	}
	require.Equal(t, "", telemetry.RedactSecret(""))
	require.Equal(t, telemetry.Mask, telemetry.RedactSecret("x"))
}

func TestLogIsJSONWithoutATerminalAndMasked(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var missing *url.URL
	log := telemetry.Setup(telemetry.Config{Level: "debug"}, &out)
	log.WithError(errors.New("dial redis://:secret@h: refused")).
		WithField("missing", missing).Debug("at postgres://u:secret@h/d")
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, "debug", line["level"])
	require.Equal(t, "at postgres://u:***@h/d", line["msg"])
	require.Equal(t, "dial redis://:***@h: refused", line["error"])
	require.NotEmpty(t, line["time"])
}

func TestLogFormatsAndLevels(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := telemetry.Setup(telemetry.Config{Format: telemetry.FormatText, Level: "warn"}, &out)
	log.Info("hidden")
	log.Warn("shown")
	require.NotContains(t, out.String(), "hidden")
	require.Contains(t, out.String(), "msg=shown")
	require.Equal(t, logrus.InfoLevel, telemetry.Setup(telemetry.Config{}, &out).GetLevel())
	require.Equal(t, logrus.InfoLevel, telemetry.Setup(telemetry.Config{Level: "loud"}, &out).GetLevel())
}

func TestAFileIsNoTerminal(t *testing.T) {
	t.Parallel()
	file, err := os.CreateTemp(t.TempDir(), "log")
	require.NoError(t, err)
	defer file.Close()
	require.False(t, telemetry.IsTerminal(file))
	require.False(t, telemetry.IsTerminal(&bytes.Buffer{}))
	fd, err := syscall.Open(os.DevNull, syscall.O_RDONLY, 0)
	require.NoError(t, err)
	null := os.NewFile(uintptr(fd), "/dev/stdin")
	defer null.Close()
	require.False(t, telemetry.IsTerminal(null))
}

func TestRegistryTellsOfProcessAndBuild(t *testing.T) {
	t.Parallel()
	families, err := telemetry.NewRegistry("v1").Gather()
	require.NoError(t, err)
	names := map[string]bool{}
	for _, family := range families {
		names[family.GetName()] = true
	}
	require.True(t, names["go_goroutines"] && names["process_cpu_seconds_total"] && names["catena_build_info"], names)
}
