package chain_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/chain"
)

func TestCycles(t *testing.T) {
	t.Parallel()
	starts := func(names ...string) *chain.Document {
		text := "- log: x\n"
		for _, name := range names {
			text += "- do: [{task: " + name + "}]\n"
		}
		return parse(t, text)
	}
	require.Empty(t, chain.Cycles(nil))
	require.Empty(t, chain.Cycles(map[string]*chain.Document{"a": starts("b", "c"), "b": starts("c", "gone"), "c": starts()}))
	require.Equal(t, [][]string{{"a"}}, chain.Cycles(map[string]*chain.Document{"a": starts("a")}))
	require.Equal(t, [][]string{{"a", "c", "b"}, {"x", "y"}}, chain.Cycles(map[string]*chain.Document{
		"a": starts("c"), "b": starts("a"), "c": starts("b", "x"), "x": starts("y"), "y": starts("x", "z"), "z": starts(),
	}))
	long := map[string]*chain.Document{}
	for i := range 20_000 {
		long[fmt.Sprintf("t%05d", i)] = starts(fmt.Sprintf("t%05d", (i+1)%20_000))
	}
	cycles := chain.Cycles(long)
	require.Len(t, cycles, 1)
	require.Len(t, cycles[0], 20_000)
}
