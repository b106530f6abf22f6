package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func (s *session) runsTree() *cobra.Command {
	var all bool
	cmd := s.runCommand("tree ID", "Show a run with the runs that it started", func(ctx context.Context, c *client.Client, id uuid.UUID) error {
		root, err := c.RunTree(ctx, id)
		if err != nil {
			return err
		}
		if all {
			if err := completeTree(ctx, c, &root); err != nil {
				return err
			}
		}
		if s.json {
			return s.writeJSON(root)
		}
		var lines []string
		drawTree(&lines, root, "", "")
		return s.println(strings.Join(lines, "\n"))
	})
	cmd.Flags().BoolVar(&all, "all", false, "show every run, however many there are")
	return cmd
}

// parentsAtOnce is for how many runs one request asks for the children.
const parentsAtOnce = 100

// completeTree reads every run below the root, level by level.
func completeTree(ctx context.Context, c *client.Client, root *task.RunNode) error {
	root.Children, root.Counts = nil, nil
	for level := []*task.RunNode{root}; len(level) > 0; {
		for some := range slices.Chunk(level, parentsAtOnce) {
			if err := fetchChildren(ctx, c, some); err != nil {
				return err
			}
		}
		var below []*task.RunNode
		for _, n := range level {
			n.More = 0
			slices.Reverse(n.Children) // they came newest first
			for i := range n.Children {
				below = append(below, &n.Children[i])
			}
		}
		level = below
	}
	return nil
}

func fetchChildren(ctx context.Context, c *client.Client, parents []*task.RunNode) error {
	filter := client.RunFilter{Limit: pageSize}
	byID := make(map[uuid.UUID]*task.RunNode, len(parents))
	for _, n := range parents {
		filter.Parents = append(filter.Parents, n.ID)
		byID[n.ID] = n
	}
	for {
		page, err := c.Runs(ctx, filter)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, r := range page {
			n := byID[*r.Parent]
			n.Children = append(n.Children, task.RunNode{ID: r.ID, Task: r.Task, State: r.State, Path: r.ParentPath, Reason: r.Reason,
				CreatedAt: r.CreatedAt, FinishedAt: r.FinishedAt})
			if n.Counts == nil {
				n.Counts = map[task.State]int{}
			}
			n.Counts[r.State]++
		}
		filter.Before = page[len(page)-1].ID
	}
}

// drawTree writes a line for a run and those below it. It is as deep as runs
// may start runs, which the server bounds.
func drawTree(lines *[]string, n task.RunNode, first, rest string) {
	text := n.ID.String() + "  " + n.Task
	if n.Path != "" {
		text += "  item " + n.Path
	}
	if n.Index != nil {
		text += "[" + strconv.Itoa(*n.Index) + "]"
	}
	text += "  " + string(n.State)
	if n.Reason != "" {
		text += ": " + short(n.Reason, 80)
	}
	*lines = append(*lines, plain(first+text))
	if counts := countsText(n.Counts); counts != "" {
		*lines = append(*lines, rest+counts)
	}
	for i, child := range n.Children {
		if i == len(n.Children)-1 && n.More == 0 {
			drawTree(lines, child, rest+"└─ ", rest+"   ")
		} else {
			drawTree(lines, child, rest+"├─ ", rest+"│  ")
		}
	}
	if n.More > 0 {
		*lines = append(*lines, rest+"└─ and "+strconv.Itoa(n.More)+" more; see them with --all")
	}
}

func countsText(counts map[task.State]int) string {
	var texts []string
	for _, state := range task.States {
		if counts[state] > 0 {
			texts = append(texts, strconv.Itoa(counts[state])+" "+string(state))
		}
	}
	if len(texts) == 0 {
		return ""
	}
	return "children: " + strings.Join(texts, ", ")
}
