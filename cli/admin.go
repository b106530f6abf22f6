package cli

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/task"
)

func (s *session) adminCommand() *cobra.Command {
	stats := command("stats", "Show sizes and ages of the tables, and what waits", nothing, func(cmd *cobra.Command, _ []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		stats, err := c.Stats(cmd.Context())
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(stats)
		}
		return s.showStats(stats)
	})
	return group("admin", "Look at what the cluster keeps", stats)
}

func (s *session) showStats(stats task.Stats) error {
	rows := make([][]string, 0, len(stats.Tables))
	for _, t := range stats.Tables {
		parts := ""
		if t.Partitions > 0 {
			parts = strconv.Itoa(t.Partitions)
		}
		rows = append(rows, []string{
			t.Table, parts, strconv.FormatInt(t.Rows, 10), bytesText(t.Size), bytesText(t.Indexes),
			s.date(t.Oldest), s.date(t.Newest), strconv.FormatInt(t.DeadRows, 10), s.ageOf(t.VacuumedAt),
		})
	}
	headers := []string{"TABLE", "PARTS", "ROWS (ABOUT)", "SIZE", "INDEXES", "OLDEST", "NEWEST", "DEAD", "VACUUMED"}
	if err := s.table("no tables", headers, rows); err != nil {
		return err
	}
	if err := s.showDepths("waiting runs", "HOLD", "room", stats.Ready); err != nil {
		return err
	}
	return s.showDepths("parcels", "STATE", "", stats.Parcels)
}

// showDepths writes what stands in the lanes; free is the word for "".
func (s *session) showDepths(title, header, free string, depths []task.LaneDepth) error {
	if len(depths) == 0 {
		return nil
	}
	rows := make([][]string, 0, len(depths))
	for _, d := range depths {
		state := d.State
		if state == "" {
			state = free
		}
		rows = append(rows, []string{d.Lane, state, strconv.FormatInt(d.Count, 10)})
	}
	if err := s.println("\n" + title); err != nil {
		return err
	}
	return writeTable(s.out, []string{"LANE", header, "COUNT"}, rows)
}

func (s *session) date(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04")
}
