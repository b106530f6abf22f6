package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

func (s *session) tokenCommand() *cobra.Command {
	return group("token", "Make and revoke the tokens of the API", s.tokenCreate(), s.tokenList(), s.tokenRevoke())
}

func roles() []string { return []string{"admin", "operator", "viewer"} }

func (s *session) tokenCreate() *cobra.Command {
	var f configFlags
	var role, name, ttl string
	cmd := command("create --role ROLE", "Make a token and print it, this once", nothing, func(cmd *cobra.Command, _ []string) error {
		request, err := tokenRequest(cmd, s.Now(), role, name, ttl)
		if err != nil {
			return err
		}
		if s.tokenFromDatabase(f) {
			return s.createInDatabase(cmd, f, request)
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		token, err := c.CreateToken(cmd.Context(), request)
		return s.changed(token, err, token.Token)
	})
	cmd.Long = `Make a token and print it. It is shown this once.

With a token for a server, the server makes it. The first token of a cluster is written
straight into the database that --config, --set or CATENA_POSTGRES_URL names.

Roles: admin may do everything; operator everything but tokens; viewer may only read.`
	cmd.Flags().StringVar(&role, "role", "", "what the token may do: "+strings.Join(roles(), ", "))
	cmd.Flags().StringVar(&name, "name", "", "who or what will use it (default: its role and the time)")
	cmd.Flags().StringVar(&ttl, "ttl", "", "how long it is valid, such as 12h or 90d (default: until revoked)")
	completeWords(cmd, "role", roles())
	return f.add(cmd)
}

func tokenRequest(cmd *cobra.Command, now time.Time, role, name, ttl string) (client.TokenRequest, error) {
	request := client.TokenRequest{Name: name, Role: role}
	if !slices.Contains(roles(), role) {
		return request, usageOf(cmd, "--role %q is no role; use %s", role, strings.Join(roles(), ", "))
	}
	if request.Name == "" {
		request.Name = role + "-" + now.UTC().Format("20060102-150405")
	}
	if ttl != "" {
		d, ok := parseSpan(ttl)
		if !ok || d == 0 {
			return request, usageOf(cmd, "--ttl %q is no duration; write a number and a unit, such as 12h or 90d", ttl)
		}
		request.TTL = task.Duration(d)
	}
	return request, nil
}

// tokenFromDatabase says whether the database is asked: when a flag names it,
// or when the environment does and there is no token for a server.
func (s *session) tokenFromDatabase(f configFlags) bool {
	if f.file != "" || len(f.set) > 0 {
		return true
	}
	return s.endpoint().token == "" && (s.env("CATENA_POSTGRES_URL") != "" || s.env(envConfig) != "")
}

func (s *session) createInDatabase(cmd *cobra.Command, f configFlags, request client.TokenRequest) error {
	c, err := s.databaseConfig(f)
	if err != nil {
		return err
	}
	if s.Processes.CreateToken == nil {
		return absent("make a token in the database")
	}
	token, err := s.Processes.CreateToken(cmd.Context(), c, request.Role, request.Name, time.Duration(request.TTL))
	return s.changed(map[string]string{"token": token}, err, token)
}

func (s *session) tokenList() *cobra.Command {
	return command("list", "List the tokens, without their secrets", nothing, func(cmd *cobra.Command, _ []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		tokens, err := c.Tokens(cmd.Context())
		if err != nil {
			return err
		}
		if s.json {
			return s.writeJSON(list(tokens))
		}
		rows := make([][]string, 0, len(tokens))
		for _, t := range tokens {
			rows = append(rows, []string{t.ID, t.Name, t.Role, s.tokenState(t), s.ageOf(t.CreatedAt)})
		}
		return s.table("no tokens", []string{"ID", "NAME", "ROLE", "STATE", "AGE"}, rows)
	})
}

func (s *session) tokenState(t client.Token) string {
	switch {
	case t.RevokedAt != nil:
		return "revoked"
	case t.ExpiresAt == nil:
		return "valid"
	case t.ExpiresAt.Before(s.Now()):
		return "expired"
	}
	return "expires " + s.ageOf(t.ExpiresAt)
}

func (s *session) tokenRevoke() *cobra.Command {
	cmd := command("revoke ID|NAME", "End the validity of a token", named("ID|NAME"), func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		err = c.RevokeToken(cmd.Context(), args[0])
		return s.changed(map[string]any{"id": args[0], "revoked": true}, err, "token "+args[0]+" is revoked")
	})
	cmd.ValidArgsFunction = s.complete(0, tokenIDs)
	return cmd
}
