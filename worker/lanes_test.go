package worker

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAWorkerServesTheLanesWhoseTagsItHas(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		queues, tags []string
		lane         string
		serves       bool
	}{
		{[]string{AllQueues}, nil, "default", true},
		{[]string{AllQueues}, nil, "default+gpu", false},
		{[]string{AllQueues}, []string{"gpu"}, "default+gpu", true},
		{[]string{AllQueues}, []string{"gpu"}, "default", true},
		{[]string{AllQueues}, []string{"gpu"}, "default+eu+gpu", false},
		{[]string{"gold"}, []string{"eu", "fast", "gpu"}, "gold+eu+gpu", true},
		{[]string{"gold"}, []string{"gpu"}, "default+gpu", false},
	} {
		require.Equal(t, c.serves, Config{Queues: c.queues, Tags: c.tags}.serves(c.lane), "%v", c)
	}
	bad := Config{Tags: []string{"a+b"}}.Normalize()
	require.ErrorContains(t, bad.Validate(), "worker.tags")
}
