package dispatch_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/dispatch"
	"github.com/catena-run/catena/task"
)

func TestKeysAreComputedFromMergedParams(t *testing.T) {
	t.Parallel()
	k := dispatch.NewKeys()
	limits := task.Limits{
		Rate:        &task.Rate{Limit: 1},
		Concurrency: &task.Concurrency{Limit: 1, Key: "${params.customer}/${params.region}"},
		Dedupe:      &task.Dedupe{Key: "${params.order}"},
	}
	base := json.RawMessage(`{"customer":"acme","region":"eu"}`)
	got, err := k.Keys(7, limits, base, json.RawMessage(`{"region":"us","order":17}`))
	require.NoError(t, err)
	require.Equal(t, []string{"*", "acme/us", "17"}, []string{*got.Rate, *got.Concurrency, *got.Dedupe})

	_, err = k.Keys(7, limits, base, nil)
	require.ErrorContains(t, err, "dedupe.key: ${params.order} is null")
	require.Equal(t, task.CodeInvalid, task.CodeOf(err))

	_, err = k.Keys(8, task.Limits{Rate: &task.Rate{Key: "${nobody}"}}, base, nil)
	require.ErrorContains(t, err, "rate.key")
	_, err = k.Keys(9, task.Limits{Rate: &task.Rate{Key: "${params.a}"}}, json.RawMessage(`[]`), nil)
	require.ErrorContains(t, err, "params")

	none, err := k.Keys(10, task.Limits{Rate: &task.Rate{}}, base, nil)
	require.NoError(t, err)
	require.Nil(t, none.Concurrency)
}
