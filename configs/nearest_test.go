package configs

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNamesOfOthersLeadToKeys(t *testing.T) {
	t.Parallel()
	l := &loader{}
	l.keys, l.sections = describe()
	known := l.known()
	for name, path := range meant {
		require.Contains(t, known, path)
		require.False(t, slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) }), "%s is a name of ours", name)
		require.Equal(t, path, nearestKey(name, known))
	}
}
