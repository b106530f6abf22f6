package pkgstore

import (
	"regexp"
	"strings"

	"github.com/evanw/esbuild/pkg/api"

	"github.com/catena-run/catena/task"
)

// HostNames are what code can import from "catena".
func HostNames() []string { return []string{"http", "log", "now", "sleep"} }

// onLoadHost gives esbuild a module with the names of the host API, so that it
// finds the imports of others.
func onLoadHost(api.OnLoadArgs) (api.OnLoadResult, error) {
	text := "export default {}\n"
	for _, name := range HostNames() {
		text += "export const " + name + " = 0\n"
	}
	return api.OnLoadResult{Contents: &text, Loader: api.LoaderJS}, nil
}

var noHostName = regexp.MustCompile(`^No matching export in "` + hostSpace + `:catena" for import "(.*)"$`)

// hostErrors says in our words which names the host API does not have.
func hostErrors(messages []api.Message) []api.Message {
	for i, m := range messages {
		found := noHostName.FindStringSubmatch(m.Text)
		if found == nil {
			continue
		}
		messages[i].Text = `"catena" has no ` + found[1]
		messages[i].Detail = refusal{remedy: task.DidYouMean(found[1], HostNames(), "it has "+strings.Join(HostNames(), ", "))}
	}
	return messages
}
