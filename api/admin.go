package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
)

type firesInput struct {
	Task    string `query:"task" doc:"Only fires of this task"`
	Outcome string `query:"outcome" doc:"Only due times of which this became" enum:"started,caught_up,buffered,skipped,missed,paused"`
	Since   string `query:"since" doc:"Only due times since: an RFC 3339 time, or a span before now such as 2h or 7d"`
	Limit   int    `query:"limit" doc:"At most so many; absent: 100" minimum:"1" maximum:"10000"`
	// A due time alone may be shared by many schedules.
	Before string `query:"before" doc:"Only fires that follow this one in the list: its due_at, a comma and its schedule"`
}

type workersInput struct {
	All bool `query:"all" doc:"Also those that have ended"`
}

type tokenInput struct{ Body client.TokenRequest }

type tokenIDInput struct {
	ID string `path:"id" doc:"Id of the token"`
}

func (s *service) adminRoutes() {
	const tag = "operation"
	handle(s, operation{action: auth.ListFires, method: http.MethodGet, path: "/fires", summary: "List what became of due times", tag: tag}, s.listFires)
	handle(s, operation{action: auth.ListWorkers, method: http.MethodGet, path: "/workers", summary: "List the workers", tag: tag}, s.listWorkers)
	handle(s, operation{action: auth.Doctor, method: http.MethodGet, path: "/doctor", summary: "Check the server and its services", tag: tag}, s.doctor)
	handle(s, operation{action: auth.GetStats, method: http.MethodGet, path: "/admin/stats", summary: "Show sizes and ages of tables, and what waits", tag: tag}, s.stats)
	handle(s, operation{action: auth.CreateToken, method: http.MethodPost, path: "/tokens", summary: "Make a token",
		tag: tag, limit: s.config.MaxBody, changes: true, status: http.StatusCreated}, s.createToken)
	handle(s, operation{action: auth.ListTokens, method: http.MethodGet, path: "/tokens", summary: "List the tokens", tag: tag}, s.listTokens)
	handle(s, operation{action: auth.RevokeToken, method: http.MethodDelete, path: "/tokens/{id}", summary: "Revoke a token",
		tag: tag, changes: true}, s.revokeToken)
}

func (s *service) listFires(ctx context.Context, in *firesInput) (*body[[]task.Fire], error) {
	from, err := since(in.Since, time.Now())
	if err != nil {
		return nil, err
	}
	filter := store.FireFilter{Task: in.Task, Outcome: task.FireOutcome(in.Outcome), Since: from, Limit: in.Limit}
	if in.Limit == 0 {
		filter.Limit = 100
	}
	if in.Before != "" {
		if filter.Before, filter.BeforeSchedule, err = fireCursor(in.Before); err != nil {
			return nil, err
		}
	}
	return list(s.deps.Records.Fires(ctx, filter))
}

// fireCursor reads where a list of fires goes on: a due time, or one and a schedule.
func fireCursor(text string) (due time.Time, schedule int64, err error) {
	at, id, several := strings.Cut(text, ",")
	due, err = time.Parse(time.RFC3339Nano, at)
	if err == nil && several {
		schedule, err = strconv.ParseInt(id, 10, 64)
	}
	if err != nil {
		return due, 0, task.Errorf(task.CodeInvalid, "%q is no place in a list of fires", text).At("before").
			Fix("give the due_at of the last fire that was listed, a comma and its schedule: 2026-11-05T10:00:00Z,17")
	}
	return due, schedule, nil
}

func (s *service) listWorkers(ctx context.Context, in *workersInput) (*body[[]task.Worker], error) {
	return list(s.deps.Records.Workers(ctx, in.All))
}

func (s *service) doctor(ctx context.Context, _ *nothing) (*body[client.DoctorResult], error) {
	checks := s.deps.Doctor(ctx)
	if checks == nil {
		checks = []Check{}
	}
	return answer(client.DoctorResult{Checks: checks}, nil)
}

func (s *service) stats(ctx context.Context, _ *nothing) (*body[task.Stats], error) {
	return answer(s.deps.Records.Stats(ctx))
}

func (s *service) createToken(ctx context.Context, in *tokenInput) (*body[client.NewToken], error) {
	role, err := auth.ParseRole(in.Body.Role)
	if err != nil {
		return nil, err
	}
	id, secret, hash := auth.NewToken()
	token := store.Token{ID: id, Hash: hash, Name: in.Body.Name, Role: string(role)}
	if in.Body.TTL > 0 {
		ends := time.Now().Add(time.Duration(in.Body.TTL))
		token.ExpiresAt = &ends
	}
	note(ctx, id, map[string]any{"name": token.Name, "role": role, "expires_at": token.ExpiresAt})
	if err := s.deps.Tokens.CreateToken(ctx, token); err != nil {
		return nil, err
	}
	return answer(client.NewToken{ID: id, Token: secret}, nil)
}

func (s *service) listTokens(ctx context.Context, _ *nothing) (*body[[]client.Token], error) {
	tokens, err := s.deps.Tokens.Tokens(ctx)
	shown := make([]client.Token, len(tokens))
	for i, t := range tokens {
		shown[i] = client.Token{
			ID: t.ID, Name: t.Name, Role: t.Role, CreatedAt: &tokens[i].CreatedAt, ExpiresAt: t.ExpiresAt, RevokedAt: t.RevokedAt,
		}
	}
	return answer(shown, err)
}

func (s *service) revokeToken(ctx context.Context, in *tokenIDInput) (*nothing, error) {
	note(ctx, in.ID, nil)
	return nil, s.deps.Tokens.RevokeToken(ctx, in.ID)
}
