package task

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that reads and writes as text such as "250ms",
// "10m" or "2d" in JSON and YAML.
type Duration time.Duration

// MarshalText writes d as time.Duration.String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// maxDays is how many days ParseDuration reads.
const maxDays = 100_000

// ParseDuration reads what time.ParseDuration reads, and days of 24 hours in
// front of it: "2d", "1d12h", "-0.5d".
func ParseDuration(text string) (time.Duration, error) {
	number, rest, days := strings.Cut(text, "d")
	if !days {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.Trim(number, "+-.0123456789") != "" || math.Abs(n) > maxDays {
		return 0, Errorf(CodeInvalid, "%q is not a duration", text)
	}
	d := time.Duration(n * 24 * float64(time.Hour))
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+") {
		return 0, Errorf(CodeInvalid, "%q is not a duration", text)
	}
	if strings.HasPrefix(number, "-") {
		return d - more, nil
	}
	return d + more, nil
}

// BadDuration says what is wrong with a text that ParseDuration refuses.
func BadDuration(text string) *Error {
	if _, err := ParseDuration(digits.ReplaceAllString(text, "1")); err == nil {
		return Errorf(CodeInvalid, "the duration %q is too long", text).Fix("use at most 100000d")
	}
	return Errorf(CodeInvalid, "%q is not a duration", text).Fix(`write a number and a unit, such as "250ms", "30s", "10m" or "2d"`)
}

var digits = regexp.MustCompile(`[0-9]+`)

// UnmarshalText reads what ParseDuration reads and refuses negative spans.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	if err != nil {
		return BadDuration(string(text))
	}
	if v < 0 {
		return Errorf(CodeInvalid, "duration %q is negative", text)
	}
	*d = Duration(v)
	return nil
}

// UnmarshalJSON accepts only JSON strings, since a bare number has no unit.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf(`%s is not a duration: write it as text with a unit, such as "30s"`, data)
	}
	return d.UnmarshalText([]byte(text))
}

const day = 24 * time.Hour

// DurationText writes d as a person would, without its zero units: 500d, 1d12h,
// 10m, 1.5s. ParseDuration reads it back to the same.
func DurationText(d time.Duration) string {
	days := d / day
	if d < 0 || days > maxDays {
		days = 0
	}
	text := (d - days*day).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	switch {
	case days == 0:
		return text
	case text == "0s":
		text = ""
	}
	return strconv.FormatInt(int64(days), 10) + "d" + text
}

// MarshalYAML writes d for a person, who reads configurations.
func (d Duration) MarshalYAML() (any, error) { return DurationText(time.Duration(d)), nil }

// String returns the text form.
func (d Duration) String() string { return time.Duration(d).String() }
