package task

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that reads and writes as text such as "250ms" or
// "10m" in JSON and YAML.
type Duration time.Duration

// MarshalText writes d as time.Duration.String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads, and days of 24 hours before
// that, as in "30d" or "1d12h"; it refuses negative spans.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := parseDuration(string(text))
	if err != nil {
		return Errorf(CodeInvalid, "%q is not a duration", text).Fix(`write a number and a unit, such as "250ms", "30s", "10m" or "7d"`)
	}
	if v < 0 {
		return Errorf(CodeInvalid, "duration %q is negative", text)
	}
	*d = Duration(v)
	return nil
}

func parseDuration(text string) (time.Duration, error) {
	number, rest, found := strings.Cut(text, "d")
	if !found {
		return time.ParseDuration(text)
	}
	days, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0, err
	}
	var v time.Duration
	if rest != "" {
		if v, err = time.ParseDuration(rest); err != nil {
			return 0, err
		}
	}
	const day = 24 * time.Hour
	if v < 0 || days > uint64((math.MaxInt64-v)/day) {
		return 0, strconv.ErrRange
	}
	return time.Duration(days)*day + v, nil
}

// UnmarshalJSON accepts only JSON strings, since a bare number has no unit.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf(`%s is not a duration: write it as text with a unit, such as "30s"`, data)
	}
	return d.UnmarshalText([]byte(text))
}

// String returns the text form.
func (d Duration) String() string { return time.Duration(d).String() }
