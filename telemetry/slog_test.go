package telemetry_test

import (
	"errors"
	"log/slog"
	"os"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/telemetry"
)

// A process logs to the slog.Handler that the program around it has: the logger
// goes into the Options of a node.
func ExampleFromSlog() {
	handler := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{} // another one at each run of this example
		}
		return a
	}})
	log := telemetry.FromSlog(handler)
	log.WithFields(logrus.Fields{"worker": "host-7-1a2b3c4d", "run": "0198c0de-0000-7000-8000-000000000001"}).Info("a run was taken back")
	log.WithError(errors.New("dial redis://:secret@h:6379: refused")).Warn("the queue cannot be reached")
	log.Debug("not shown")
	// Output:
	// level=INFO msg="a run was taken back" run=0198c0de-0000-7000-8000-000000000001 worker=host-7-1a2b3c4d
	// level=WARN msg="the queue cannot be reached" error="dial redis://:***@h:6379: refused"
}
