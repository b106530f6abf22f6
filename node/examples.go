package node

import (
	"bytes"
	"context"
	"os"
	"path/filepath"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

// loadExamples pushes every folder of packages/ and applies every file of tasks/.
func loadExamples(ctx context.Context, c *client.Client, dir string) error {
	packages, err := os.ReadDir(filepath.Join(dir, "packages"))
	if err != nil {
		return task.Errorf(task.CodeInvalid, "no examples there: %w", err).At("--examples")
	}
	for _, p := range packages {
		if !p.IsDir() {
			continue
		}
		content, err := pkgstore.ReadDir(filepath.Join(dir, "packages", p.Name()), pkgstore.Limits{})
		if err != nil {
			return err
		}
		var archive bytes.Buffer
		if err := content.WriteArchive(&archive); err != nil {
			return err
		}
		if _, err := c.Push(ctx, &archive, task.DefaultChannel); err != nil {
			return err
		}
	}
	tasks, err := filepath.Glob(filepath.Join(dir, "tasks", "*.yaml"))
	if err != nil {
		return err
	}
	var files []client.File
	for _, name := range tasks {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files = append(files, client.File{Name: name, Content: string(text)})
	}
	_, err = c.ApplyTasks(ctx, client.ApplyRequest{Files: files})
	return err
}
