package cli

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// parseSpan reads a duration that may also count days: 90m, 36h, 7d.
func parseSpan(text string) (time.Duration, bool) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 100_000 {
			return time.Duration(n) * 24 * time.Hour, true
		}
	}
	d, err := time.ParseDuration(text)
	return d, err == nil && d >= 0
}

// parseTime reads a time of day with its zone, or a date in UTC.
func parseTime(text string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// since reads --since, a span before now or a time, as the API wants it.
func (s *session) since(cmd *cobra.Command, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if d, ok := parseSpan(text); ok {
		return s.Now().Add(-d).UTC().Format(time.RFC3339Nano), nil
	}
	if t, ok := parseTime(text); ok {
		return t.UTC().Format(time.RFC3339Nano), nil
	}
	return "", usageOf(cmd, "--since %q is no time; write a span such as 2h or 7d, or a time such as 2026-11-22T05:00:00Z", text)
}

// at reads --at, a time or +span from now; nil means now.
func (s *session) at(cmd *cobra.Command, text string) (*time.Time, error) {
	return s.timeFlag(cmd, "--at", text)
}

func (s *session) timeFlag(cmd *cobra.Command, flag, text string) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	if ahead, ok := strings.CutPrefix(text, "+"); ok {
		if d, ok := parseSpan(ahead); ok {
			t := s.Now().Add(d).UTC()
			return &t, nil
		}
	} else if t, ok := parseTime(text); ok {
		return &t, nil
	}
	return nil, usageOf(cmd, "%s %q is no time; write a time such as 2026-11-22T05:00:00Z, or +10m for ten minutes from now", flag, text)
}
