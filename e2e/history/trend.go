package history

import (
	"fmt"
	"math"
	"time"
)

// Sample is a figure at a time of a test.
type Sample struct {
	At    time.Duration
	Value float64
	Unit  string
}

// Series are samples by name.
type Series map[string][]Sample

// Trend is the straight line through samples.
type Trend struct {
	Samples     int
	First, Last float64 // of the line
	Least, Most float64 // of the samples
	PerHour     float64
	Error       float64 // standard error of PerHour
	Unit        string
}

// TrendOf lays a line of least squares through the samples after a time in which
// the process gets warm.
func TrendOf(list []Sample, warm time.Duration) (t Trend) {
	var x, y []float64
	for _, s := range list {
		if s.At >= warm {
			x, y = append(x, s.At.Hours()), append(y, s.Value)
			t.Unit = s.Unit
		}
	}
	if t.Samples = len(x); t.Samples == 0 {
		return t
	}
	t.Least, t.Most = math.Inf(1), math.Inf(-1)
	var meanX, meanY float64
	for i := range x {
		meanX, meanY = meanX+x[i]/float64(len(x)), meanY+y[i]/float64(len(x))
		t.Least, t.Most = min(t.Least, y[i]), max(t.Most, y[i])
	}
	var xx, xy float64
	for i := range x {
		xx += (x[i] - meanX) * (x[i] - meanX)
		xy += (x[i] - meanX) * (y[i] - meanY)
	}
	if xx > 0 {
		t.PerHour = xy / xx
	}
	t.First, t.Last = meanY+t.PerHour*(x[0]-meanX), meanY+t.PerHour*(x[len(x)-1]-meanX)
	if len(x) > 2 && xx > 0 {
		var left float64 // squares that the line does not explain
		for i := range x {
			d := y[i] - meanY - t.PerHour*(x[i]-meanX)
			left += d * d
		}
		t.Error = math.Sqrt(left / float64(len(x)-2) / xx)
	}
	return t
}

// growth is the least change over the time of the samples that counts, as a part
// of the first value and in units.
const (
	growthPart  = 0.10
	growthUnits = 8
)

// Grows tells whether the line rises by more than chance (three standard errors)
// and by more than what is worth a word.
func (t Trend) Grows() bool {
	rise := t.Last - t.First
	return t.Samples > 2 && t.PerHour > 3*t.Error && rise > growthUnits && rise > growthPart*t.First
}

// String says it in figures.
func (t Trend) String() string {
	if t.Samples == 0 {
		return "no samples"
	}
	return fmt.Sprintf("%.1f to %.1f %s (least %.1f, most %.1f, %d samples), slope %+.1f ± %.1f an hour",
		t.First, t.Last, t.Unit, t.Least, t.Most, t.Samples, t.PerHour, t.Error)
}
