package telemetry

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/proto"
)

// Prefix starts the names of the metrics of this product.
const Prefix = "catena_"

// BuildInfo is the metric that tells the version.
const BuildInfo = Prefix + "build_info"

// EncodeFamilies writes the product's own metrics of one process in a form
// that an Aggregate of another process takes. Those of the Go runtime and the
// process are left out: sums of them say nothing.
func EncodeFamilies(g prometheus.Gatherer) ([]byte, error) {
	families, err := g.Gather()
	var out bytes.Buffer
	encoder := expfmt.NewEncoder(&out, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), Prefix) && f.GetName() != BuildInfo {
			err = errors.Join(err, encoder.Encode(f))
		}
	}
	return out.Bytes(), err
}

// Aggregate sums the metrics of several processes of one kind. What a process
// has counted stays in the sums after its end, so that counters never fall. It
// is a prometheus.Gatherer and may be used from several goroutines.
type Aggregate struct {
	mu    sync.Mutex
	live  map[string][]*dto.MetricFamily // by process, the last ones it sent
	ended map[string]*dto.MetricFamily   // counters and histograms of ended processes
}

// NewAggregate returns an empty one.
func NewAggregate() *Aggregate {
	return &Aggregate{live: map[string][]*dto.MetricFamily{}, ended: map[string]*dto.MetricFamily{}}
}

// Update replaces what is known of a process by what EncodeFamilies wrote there.
func (a *Aggregate) Update(process string, encoded []byte) error {
	var families []*dto.MetricFamily
	decoder := expfmt.NewDecoder(bytes.NewReader(encoded), expfmt.NewFormat(expfmt.TypeProtoDelim))
	for {
		f := new(dto.MetricFamily)
		if err := decoder.Decode(f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		families = append(families, f)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live[process] = families
	return nil
}

// End keeps what the process has counted and forgets what it held.
func (a *Aggregate) End(process string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.live[process] {
		if f.GetType() != dto.MetricType_GAUGE {
			add(a.ended, f)
		}
	}
	delete(a.live, process)
}

// Gather returns the sums.
func (a *Aggregate) Gather() ([]*dto.MetricFamily, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	sums := map[string]*dto.MetricFamily{}
	for _, f := range a.ended {
		add(sums, f)
	}
	for _, families := range a.live {
		for _, f := range families {
			add(sums, f)
		}
	}
	list := make([]*dto.MetricFamily, 0, len(sums))
	for _, f := range sums {
		slices.SortFunc(f.Metric, func(a, b *dto.Metric) int { return cmp.Compare(labelKey(a), labelKey(b)) })
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return list, nil
}

// add adds a family to the sums, which share nothing with it afterwards. One
// that another version of the program sends as another type is left out.
func add(sums map[string]*dto.MetricFamily, f *dto.MetricFamily) {
	sum := sums[f.GetName()]
	if sum == nil {
		sums[f.GetName()] = proto.Clone(f).(*dto.MetricFamily) //nolint:forcetypeassert // a clone has the type of its original
		return
	}
	if sum.GetType() != f.GetType() {
		return
	}
	places := map[string]*dto.Metric{}
	for _, m := range sum.Metric {
		places[labelKey(m)] = m
	}
	for _, m := range f.Metric {
		if there := places[labelKey(m)]; there != nil {
			addMetric(there, m)
			continue
		}
		sum.Metric = append(sum.Metric, proto.Clone(m).(*dto.Metric)) //nolint:forcetypeassert // likewise
	}
}

func addMetric(to, m *dto.Metric) {
	switch {
	case to.Counter != nil && m.Counter != nil:
		to.Counter.Value = proto.Float64(to.Counter.GetValue() + m.Counter.GetValue())
	case to.Gauge != nil && m.Gauge != nil:
		to.Gauge.Value = proto.Float64(to.Gauge.GetValue() + m.Gauge.GetValue())
	case to.Histogram != nil && m.Histogram != nil && len(to.Histogram.Bucket) == len(m.Histogram.Bucket):
		to.Histogram.SampleCount = proto.Uint64(to.Histogram.GetSampleCount() + m.Histogram.GetSampleCount())
		to.Histogram.SampleSum = proto.Float64(to.Histogram.GetSampleSum() + m.Histogram.GetSampleSum())
		for i, b := range m.Histogram.Bucket {
			to.Histogram.Bucket[i].CumulativeCount = proto.Uint64(to.Histogram.Bucket[i].GetCumulativeCount() + b.GetCumulativeCount())
		}
	}
}

func labelKey(m *dto.Metric) string {
	var key strings.Builder
	for _, l := range m.Label {
		key.WriteString(l.GetName())
		key.WriteByte(0)
		key.WriteString(l.GetValue())
		key.WriteByte(0)
	}
	return key.String()
}
