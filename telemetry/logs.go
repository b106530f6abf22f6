package telemetry

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sirupsen/logrus"
)

// Format says how a log line is written.
type Format string

// The formats of a log.
const (
	FormatAuto Format = "auto" // text on a terminal, JSON elsewhere
	FormatText Format = "text"
	FormatJSON Format = "json"
)

// Config is the log of a process.
type Config struct {
	Level  string // debug info warn error; "": info
	Format Format // "": auto
}

// Setup makes the logger of a process that writes to out. A level it does not
// know counts as info and a format as auto.
func Setup(c Config, out io.Writer) *logrus.Logger {
	level, err := logrus.ParseLevel(c.Level)
	if err != nil {
		level = logrus.InfoLevel
	}
	log := logrus.New()
	log.SetOutput(out)
	log.SetLevel(level)
	log.SetFormatter(c.formatter(out))
	return log
}

func (c Config) formatter(out io.Writer) logrus.Formatter {
	if c.Format == FormatText || (c.Format != FormatJSON && IsTerminal(out)) {
		return redactor{&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "15:04:05.000", DisableColors: !IsTerminal(out)}}
	}
	return redactor{&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano}}
}

// redactor masks passwords of URLs in messages and in error and text fields,
// since drivers put the address they failed to reach into their errors.
type redactor struct{ logrus.Formatter }

// Format writes a masked copy of entry.
func (r redactor) Format(entry *logrus.Entry) ([]byte, error) {
	masked := mask(entry)
	return r.Formatter.Format(&masked)
}

func mask(entry *logrus.Entry) logrus.Entry {
	masked := *entry
	masked.Message = Redact(entry.Message)
	masked.Data = make(logrus.Fields, len(entry.Data))
	for key, value := range entry.Data {
		switch v := value.(type) {
		case string:
			masked.Data[key] = Redact(v)
		case error:
			masked.Data[key] = Redact(v.Error())
		case fmt.Stringer:
			masked.Data[key] = redactStringer(v)
		default:
			masked.Data[key] = value
		}
	}
	return masked
}

// redactStringer keeps a nil pointer in a field from ending the process.
func redactStringer(v fmt.Stringer) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("<nil %T>", v)
		}
	}()
	return Redact(v.String())
}

// IsTerminal reports whether a person reads out directly. The null device is none,
// whatever name it was opened by, such as that of standard input.
func IsTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
