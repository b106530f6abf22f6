package script

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/pkgstore"
)

// A worker that may be cut off lets no call out: the request waits, or fails
// when the run is no longer the worker's.
func TestEachRequestIsAdmitted(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	defer server.Close()
	source := `import { http } from "catena"
		export async function main() { await http.get("` + server.URL + `"); await http.get("` + server.URL + `") }`
	manifest := pkgstore.Manifest{}
	manifest.Permissions.HTTP = []string{"127.0.0.1"}
	asked, open := make(chan struct{}), make(chan struct{})
	calls := 0
	admit := func(ctx context.Context) error {
		if calls++; calls > 1 {
			return errors.New("the run was taken back")
		}
		close(asked)
		<-open
		return nil
	}
	ended := make(chan string, 1)
	e, v := engine(t, Config{}), version(t, map[string]string{"m.ts": source}, manifest)
	go func() {
		ended <- e.Call(t.Context(), Call{Version: v, Module: "m", Log: func(string, string) {}, Admit: admit}).Reason
	}()
	<-asked
	require.Zero(t, served.Load())
	close(open)
	require.Contains(t, <-ended, "the run was taken back")
	require.Equal(t, int64(1), served.Load())
}
