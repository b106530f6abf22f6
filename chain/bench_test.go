package chain_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
)

// BenchmarkItems runs long chains; ns/item is the figure to look at.
func BenchmarkItems(b *testing.B) {
	const n = 10_000
	for _, item := range []struct{ name, text string }{
		{"nop", `["nop"]`},
		{"set", `{"set": {"a": 1}}`},
		{"call", `{"call": "p:m?f", "with": {"a": 1}}`},
		{"expression", `{"set": {"a": "${run.attempt * 2}"}}`},
		{"when", `{"when": "${params.n > 1}", "log": "x"}`},
	} {
		b.Run(item.name, func(b *testing.B) {
			doc, err := chain.Parse("bench", []byte("["+strings.TrimSuffix(strings.Repeat(item.text+",", n), ",")+"]"))
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				runBench(b, doc)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/item")
		})
	}
}

// BenchmarkShortChain runs a chain of three items, as most tasks are.
func BenchmarkShortChain(b *testing.B) {
	doc, err := chain.Parse("bench", []byte(`[
		{"call": "p:m?f", "with": {"name": "${params.name}"}, "as": "greeting"},
		{"when": "${steps.greeting.data.text == 'hello'}", "call": "p:m?g"},
		["delay", 0]
	]`))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		runBench(b, doc)
	}
}

// BenchmarkEach runs a loop over 10,000 elements.
func BenchmarkEach(b *testing.B) {
	for _, limit := range []int{1, 8} {
		b.Run(fmt.Sprintf("limit=%d", limit), func(b *testing.B) {
			doc, err := chain.Parse("bench", []byte(fmt.Sprintf(
				`[{"each": "${1..10000}", "limit": %d, "do": [{"call": "p:m?f", "with": {"i": "${item}"}}]}]`, limit)))
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				runBench(b, doc)
			}
		})
	}
}

// BenchmarkParse parses a document of 1,000 items.
func BenchmarkParse(b *testing.B) {
	text := []byte("[" + strings.TrimSuffix(strings.Repeat(`{"call": "p:m?f", "with": {"a": "${params.a}"}, "as": "x"},`, 1000), ",") + "]")
	b.ReportAllocs()
	for b.Loop() {
		_, err := chain.Parse("bench", text)
		require.NoError(b, err)
	}
}

func runBench(b *testing.B, doc *chain.Document) {
	res, err := doc.Run(b.Context(), chain.Options{Invoker: constant(`{"text":"hello"}`), Params: []byte(`{"name":"world","n":2}`)})
	if err != nil || !res.Outcome.Success {
		b.Fatal(err, res.Outcome)
	}
}
