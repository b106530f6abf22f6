package task

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a time.Duration that reads and writes as text such as "250ms" or
// "10m" in JSON and YAML.
type Duration time.Duration

// MarshalText writes d as time.Duration.String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads and refuses negative spans.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return Errorf(CodeInvalid, "%q is not a duration", text).Fix(`write a number and a unit, such as "250ms", "30s" or "10m"`)
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
