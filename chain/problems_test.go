package chain_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
)

// A field that cannot be read hides no other's problem.
func TestEveryProblemOfATaskIsNamed(t *testing.T) {
	t.Parallel()
	_, problems := chain.CheckFile("c.yaml", []byte(`name: c1
chain: [{log: x}]
concurrency: {limit: 2, strategy: nope}
rate: {limit: 0, per: 25h}
timeout: -1s
`))
	err := errors.Join(problems...)
	for _, part := range []string{
		`c.yaml:3:35: concurrency.strategy: unknown strategy "nope"`,
		"c.yaml:4:15: rate.limit: a limit of 0 would never start a run",
		"c.yaml:4:23: rate.per: a window of 25h0m0s is out of range",
		"c.yaml:5:10: timeout",
	} {
		require.ErrorContains(t, err, part)
	}
}

func TestAKeyThatIsAlwaysAListIsRefusedAtItsPlace(t *testing.T) {
	t.Parallel()
	_, err := chain.ParseTasks("c.yaml", []byte("name: c1\nchain: [{log: x}]\nconcurrency: {limit: 2, key: \"${[1,2]}\"}\n"))
	require.ErrorContains(t, err, "c.yaml:3:30: concurrency.key: ${[1,2]} is a list")
	require.ErrorContains(t, err, "write an expression over params")
}
