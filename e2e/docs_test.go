package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/catena-run/catena/chain"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/scheduler"
	"github.com/catena-run/catena/task"
)

// TestDocsChains parses every YAML block of the page on chains.
func TestDocsChains(t *testing.T) {
	t.Parallel()
	blocks := yamlBlocks(t, "../docs/chains.md")
	require.Greater(t, len(blocks), 10)
	for i, block := range blocks {
		_, err := chain.Parse(fmt.Sprintf("docs/chains.md, block %d", i+1), []byte(strings.TrimPrefix(block, "chain:\n")))
		require.NoError(t, err, block)
	}
}

func yamlBlocks(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	var blocks []string
	for _, rest := range strings.Split(string(text), "```yaml\n")[1:] {
		block, _, closed := strings.Cut(rest, "```")
		require.True(t, closed, "a block of %s is not closed", page)
		blocks = append(blocks, block)
	}
	return blocks
}

// TestDocsLinks follows every relative link of the pages.
func TestDocsLinks(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../*.md")
	require.NoError(t, err)
	for _, folder := range []string{"../docs", "../examples", "../deploy"} {
		require.NoError(t, filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if strings.HasSuffix(path, ".md") {
				pages = append(pages, path)
			}
			return err
		}))
	}
	require.Greater(t, len(pages), 15)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, rest := range strings.Split(string(text), "](")[1:] {
			target, _, _ := strings.Cut(rest, ")")
			target, _, _ = strings.Cut(target, "#")
			if target == "" || strings.Contains(target, "://") {
				continue
			}
			require.FileExists(t, existing(filepath.Join(filepath.Dir(page), target)), "%s links to %s", page, target)
		}
	}
}

// existing lets a link name a folder.
func existing(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return "docs_test.go"
	}
	return path
}

// TestDocsSources parses the sources of their page, and reads its requests and answers as JSON.
func TestDocsSources(t *testing.T) {
	t.Parallel()
	for i, block := range yamlBlocks(t, "../docs/sources.md") {
		read, err := chain.ParseFile(fmt.Sprintf("docs/sources.md, block %d", i+1), []byte(block))
		require.NoError(t, err)
		require.Len(t, read.Sources, 1)
	}
	page, err := os.ReadFile("../docs/sources.md")
	require.NoError(t, err)
	blocks := strings.Split(string(page), "```json\n")[1:]
	require.Len(t, blocks, 4)
	for _, rest := range blocks {
		block, _, _ := strings.Cut(rest, "```")
		require.True(t, json.Valid([]byte(block)), block)
	}
	text, err := os.ReadFile("../examples/sources/orders.yaml")
	require.NoError(t, err)
	read, err := chain.ParseFile("orders.yaml", text)
	require.NoError(t, err)
	require.Len(t, read.Sources, 1)
}

// TestExamples checks the example tasks against the example packages: each
// call must name an export, each schedule must fire.
func TestExamples(t *testing.T) {
	t.Parallel()
	exports := exampleExports(t)
	files, err := filepath.Glob("../examples/tasks/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	scheduled := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		read, err := chain.ParseFile(file, text)
		require.NoError(t, err)
		for _, one := range read.Sources {
			ref, err := task.ParsePackageRef(one.Definition.Call)
			require.NoError(t, err)
			require.True(t, exports[ref.String()], "%s calls %s, which no example exports", one.Definition.Name, ref)
		}
		for _, one := range read.Tasks {
			document, err := chain.Parse(file, one.Definition.Chain)
			require.NoError(t, err)
			require.NotEmpty(t, document.Calls())
			for _, call := range document.Calls() {
				require.True(t, exports[call.String()], "%s calls %s, which no example exports", one.Definition.Name, call)
			}
			for _, schedule := range one.Definition.Schedule {
				_, err := scheduler.Parse(schedule)
				require.NoError(t, err)
				scheduled++
			}
		}
	}
	require.Equal(t, 6, scheduled)
}

func exampleExports(t *testing.T) map[string]bool {
	t.Helper()
	folders, err := filepath.Glob("../examples/packages/*")
	require.NoError(t, err)
	exports := map[string]bool{}
	for _, folder := range folders {
		content, err := pkgstore.ReadDir(folder, pkgstore.Limits{})
		require.NoError(t, err)
		manifest, err := content.Manifest()
		require.NoError(t, err)
		for _, export := range manifest.Exports {
			exports[manifest.Name+":"+export] = true
		}
	}
	return exports
}

// The samples of deployments are YAML, and what they tell a process are settings that it has.
func TestDeploymentsNameRealSettings(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"compose.yaml", "kubernetes.yaml"} {
		file, err := os.Open(filepath.Join("../deploy", name))
		require.NoError(t, err)
		defer file.Close()
		documents := 0
		for decoder := yaml.NewDecoder(file); ; documents++ {
			var content map[string]any
			err := decoder.Decode(&content)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, name)
		}
		require.Positive(t, documents, name)
	}
	reference, err := os.ReadFile("../docs/configuration.md")
	require.NoError(t, err)
	for _, name := range []string{"compose.yaml", "kubernetes.yaml", "catena.env", "catena-master.service", "catena-worker.service"} {
		text, err := os.ReadFile(filepath.Join("../deploy", name))
		require.NoError(t, err)
		for _, variable := range regexp.MustCompile(`CATENA_[A-Z_]+`).FindAllString(string(text), -1) {
			require.Contains(t, string(reference), variable, name)
		}
		for _, setting := range regexp.MustCompile(`--set,? ([a-zA-Z.]+)=`).FindAllStringSubmatch(string(text), -1) {
			require.Contains(t, string(reference), setting[1], name)
		}
	}
}
