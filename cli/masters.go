package cli

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/task"
)

func (s *session) mastersCommand() *cobra.Command {
	var all bool
	listing := command("list", "List the masters of the cluster, which of them leads, and their slots for workers", nothing, func(cmd *cobra.Command, _ []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		masters, err := c.Masters(cmd.Context(), all)
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(masters))
		}
		return s.showMasters(masters)
	})
	listing.Flags().BoolVar(&all, "all", false, "also those that have ended")
	return group("masters", "Look at the masters", listing)
}

func (s *session) showMasters(masters []task.Master) error {
	rows := make([][]string, 0, len(masters))
	for _, m := range masters {
		state := string(m.State)
		if m.Leads {
			state += ", leads"
		}
		rows = append(rows, []string{m.Name, m.Host, strconv.Itoa(m.PID), state, strconv.Itoa(m.Workers), span(time.Duration(m.Age)), clockText(m.ClockOffset), m.Admin, m.Version})
	}
	if err := s.table("no master is alive; start one with catena master", []string{"NAME", "HOST", "PID", "STATE", "WORKERS", "AGE", "CLOCK", "ADMIN", "VERSION"}, rows); err != nil {
		return err
	}
	rows = rows[:0]
	for _, m := range masters {
		for _, slot := range m.Slots {
			pid := ""
			if slot.PID != 0 {
				pid = strconv.Itoa(slot.PID)
			}
			rows = append(rows, []string{m.Name, strconv.Itoa(slot.Slot), pid, slotText(slot), strconv.Itoa(slot.Starts), short(slot.Last, 100)})
		}
	}
	if len(rows) > 0 {
		if err := s.println(); err != nil {
			return err
		}
		if err := writeTable(s.out, []string{"MASTER", "SLOT", "PID", "STATE", "STARTS", "LAST DEATH"}, rows); err != nil {
			return err
		}
	}
	for _, m := range masters {
		for _, warning := range m.Warnings {
			if err := s.println(fmt.Sprintf("warning: %s: %s", m.Name, plainDurations(warning))); err != nil {
				return err
			}
		}
	}
	return nil
}
