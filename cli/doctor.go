package cli

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

// liveTime bounds how long doctor --live waits for an answer.
const liveTime = 2 * time.Second

func (s *session) doctorCommand() *cobra.Command {
	var live bool
	cmd := command("doctor", "Check the server, its database, its Redis and its clocks", nothing, func(cmd *cobra.Command, _ []string) error {
		if live {
			return s.checkLive(cmd.Context())
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		result, err := c.Doctor(cmd.Context())
		if err != nil {
			return err
		}
		if err := s.reportDoctor(result); err != nil {
			return err
		}
		for _, check := range result.Checks {
			if !check.OK {
				return errQuiet
			}
		}
		return nil
	})
	cmd.Long = "Check what the server can reach, and with what: versions, the policy of Redis for full memory,\nclock differences. Exit 1 when something is wrong."
	cmd.Flags().BoolVar(&live, "live", false, "only ask whether the server lives; needs no token")
	return cmd
}

// checkLive asks /livez once; for the health checks of containers.
func (s *session) checkLive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, liveTime)
	defer cancel()
	address := strings.TrimRight(s.endpoint().server, "/") + "/livez"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return task.Errorf(task.CodeInvalid, "%w", err).At(address).Fix("name the server with --server")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return task.Errorf(task.CodeUnavailable, "the server does not answer: %w", err).At(address).Fix("name the server with --server")
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return task.Errorf(task.CodeInternal, "the server says %s", response.Status).At(address).Fix("see the log of the server")
	}
	return s.changed(map[string]any{"live": true}, nil, "live")
}

func (s *session) reportDoctor(result client.DoctorResult) error {
	if s.json {
		result.Checks = list(result.Checks)
		return s.writeJSON(result)
	}
	e := s.endpoint()
	if err := s.printf("server %s (from %s)\n", e.server, e.origin); err != nil {
		return err
	}
	rows := make([][]string, 0, len(result.Checks))
	for _, check := range result.Checks {
		mark, detail := "ok", check.Detail
		if !check.OK {
			mark = "FAIL"
			if check.Remedy != "" {
				detail += "; fix: " + check.Remedy
			}
		}
		rows = append(rows, []string{mark, check.Name, detail})
	}
	return writeTable(s.out, nil, rows)
}
