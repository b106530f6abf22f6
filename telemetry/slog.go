package telemetry

import (
	"context"
	"io"
	"log/slog"
	"slices"

	"github.com/sirupsen/logrus"
)

// FromSlog makes a logger whose lines go to handler, masked as those of Setup.
// The handler decides which levels are written.
func FromSlog(handler slog.Handler) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.SetFormatter(noFormat{})
	log.SetLevel(logrus.DebugLevel)
	for level := logrus.DebugLevel; level >= logrus.ErrorLevel; level-- {
		if handler.Enabled(context.Background(), slogLevel(level)) {
			log.SetLevel(level)
			break
		}
	}
	log.AddHook(slogHook{handler})
	return log
}

// noFormat spares the work for the output that nobody reads.
type noFormat struct{}

// Format writes nothing.
func (noFormat) Format(*logrus.Entry) ([]byte, error) { return nil, nil }

type slogHook struct{ handler slog.Handler }

// Levels are all: the logger has chosen already.
func (slogHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire passes a line on, its fields in the order of their names.
func (h slogHook) Fire(entry *logrus.Entry) error {
	ctx := entry.Context
	if ctx == nil {
		ctx = context.Background()
	}
	level := slogLevel(entry.Level)
	if !h.handler.Enabled(ctx, level) {
		return nil
	}
	masked := mask(entry)
	record := slog.NewRecord(entry.Time, level, masked.Message, 0)
	names := make([]string, 0, len(masked.Data))
	for name := range masked.Data {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		record.AddAttrs(slog.Any(name, masked.Data[name]))
	}
	return h.handler.Handle(ctx, record)
}

func slogLevel(level logrus.Level) slog.Level {
	switch level {
	case logrus.TraceLevel, logrus.DebugLevel:
		return slog.LevelDebug
	case logrus.InfoLevel:
		return slog.LevelInfo
	case logrus.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}
