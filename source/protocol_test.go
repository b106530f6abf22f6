package source

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

func work(defaultTask string) task.Source {
	return task.Source{SourceDefinition: task.SourceDefinition{Name: "work", Task: defaultTask, Limit: 3}}
}

func TestAnswersThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:                                   "is not JSON",
		`<html>no</html>`:                    "is not JSON: <html>no</html>",
		`[]`:                                 "is no object",
		`{"items": []} x`:                    "something follows",
		`{}`:                                 "has no items",
		`{"items": null}`:                    "has no items",
		`{"items": {}}`:                      "items is no list: {}",
		`{"items": [1]}`:                     "items[0] is no object: 1",
		`{"items": [null]}`:                  "items[0] is no object",
		`{"items": [{"key":"a"}, {}]}`:       "items[1] has no key",
		`{"items": [{"key": 7}]}`:            "items[0].key is no text: 7",
		`{"items": [{"key": ""}]}`:           "is empty",
		`{"items": [{"key": "a\u0000"}]}`:    "control characters",
		"{\"items\": [{\"key\": \"\xff\"}]}": "not valid UTF-8",
		`{"items": [{"key":"a"},{"key":"b"},{"key":"c"},{"key":"d"}]}`: "4 items, the limit is 3",
		`{"items": [{"key": "` + strings.Repeat("x", 201) + `"}]}`:     "201 characters, 200 are the most",
	} {
		_, err := readIterate(work("t"), []byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

func TestItemsThatAreRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"key":"a"}`:                              "names no task and brings no chain",
		`{"key":"a","task":7}`:                     "task is no text: 7",
		`{"key":"a","task":"A B"}`:                 `"A B" cannot name a task`,
		`{"key":"a","task":"t","chain":["nop"]}`:   "names a task and brings a chain",
		`{"key":"a","chain":["nonsense"]}`:         "nonsense",
		`{"key":"a","chain":7}`:                    "chain",
		`{"key":"a","task":"t","params":[1]}`:      "params is no object: [1]",
		`{"key":"a","task":"t","priority":10}`:     "priority 10 is no number from 0",
		`{"key":"a","task":"t","priority":"high"}`: `priority "high"`,
	} {
		got, err := readIterate(work(""), []byte(`{"items":[`+text+`,{"key":"good","task":"t"}]}`))
		require.NoError(t, err, text)
		require.Len(t, got.Items, 2)
		require.Contains(t, got.Items[0].Refused, want, text)
		require.Empty(t, got.Items[1].Refused, "an item beside it is taken")
		got, err = readIterate(work("own"), []byte(`{"items":[`+text+`]}`))
		require.NoError(t, err, text)
		if reason := got.Items[0].Refused; reason != "" {
			require.Equal(t, store.NewItem{Key: "a", Refused: reason}, got.Items[0], "nothing is kept that could be run instead")
		}
	}
}

func TestAnswersThatCanBeUsed(t *testing.T) {
	t.Parallel()
	got, err := readIterate(work("t"), []byte(`{"items":[
		{"key":"a"}, {"key":"b","task":"u","params":{"n":1},"priority":9,"more":true}, {"key":"a","task":"x"}], "more": 1}`))
	require.NoError(t, err)
	require.Len(t, got.Items, 2)
	require.Equal(t, "t", got.Items[0].Task)
	require.Equal(t, "u", got.Items[1].Task)
	require.Equal(t, 9, *got.Items[1].Priority)
	require.Contains(t, got.Remark, `items[2] has the key of items[0], "a"`)

	got, err = readIterate(work("t"), []byte(`{"items":[{"key":"a","chain":[["//inline/p:m?f", {"n": 1}]]}]}`))
	require.NoError(t, err)
	require.Empty(t, got.Items[0].Task)
	require.JSONEq(t, `[["//inline/p:m?f",{"n":1}]]`, string(got.Items[0].Chain))
	got, err = readIterate(work(""), []byte(`{"items":[]}`))
	require.NoError(t, err)
	require.Empty(t, got.Items)
}

func TestAnswersToARecord(t *testing.T) {
	t.Parallel()
	items := []store.ItemOutcome{{Key: "a"}, {Key: "b"}}
	for _, text := range []string{"", " \n", "null", "{}", `{"items":[]}`, `{"items":[{"key":"a"}]}`, `{"ok":true}`} {
		again, err := readRecord(items, []byte(text))
		require.NoError(t, err, text)
		require.Empty(t, again)
	}
	again, err := readRecord(items, []byte(`{"items":[{"key":"a","requeue":true,"after":"5m"},{"key":"b","requeue":true}]}`))
	require.NoError(t, err)
	require.Equal(t, map[string]time.Duration{"a": 5 * time.Minute, "b": 0}, again)
	for text, want := range map[string]string{
		`ok`:                                     "is not JSON",
		`{"items":{}}`:                           "wrong type",
		`{"items":[{"key":"c","requeue":true}]}`: `"c" is none of those`,
		`{"items":[{"key":"a","requeue":true,"after":"500d"}]}`: "more than 365d",
		`{"items":[{"key":"a","requeue":true,"after":"soon"}]}`: "not a duration",
		`{"items":[{"key":"a","requeue":true,"after":5}]}`:      "not a duration",
		`{"items":[{"key":"a","after":"5m"}]}`:                  "after without requeue",
		`{"items":[{"key":"a","requeue":"yes"}]}`:               "wrong type",
	} {
		_, err := readRecord(items, []byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

// FuzzAnswers: never panics; what is taken is within its bounds.
func FuzzAnswers(f *testing.F) {
	for _, text := range []string{`{"items":[{"key":"a","chain":[["nop"]]}]}`, `{"items":[{"key":"a","task":"t","params":{},"priority":1}]}`, `{"items":[{"key":"a","requeue":true,"after":"1d"}]}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, err := readIterate(work("t"), text); err == nil {
			require.LessOrEqual(t, len(got.Items), 3)
			for _, item := range got.Items {
				require.Empty(t, keyProblem(item.Key))
				require.True(t, item.Refused != "" || item.Task != "" || item.Chain != nil)
			}
		}
		if again, err := readRecord([]store.ItemOutcome{{Key: "a"}}, text); err == nil {
			require.LessOrEqual(t, len(again), 1)
		}
	})
}
