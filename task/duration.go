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

// ParseDuration reads what time.ParseDuration reads, and days of 24 hours in
// front of it: "2d", "1d12h", "-0.5d".
func ParseDuration(text string) (time.Duration, error) {
	number, rest, days := strings.Cut(text, "d")
	if !days {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.Trim(number, "+-.0123456789") != "" || math.Abs(n) > 100_000 {
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

// String returns the text form.
func (d Duration) String() string { return time.Duration(d).String() }
