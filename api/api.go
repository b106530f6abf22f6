package api

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"time"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/sirupsen/logrus"
)

// service is the API at work.
type service struct {
	deps   Deps
	config Config
	log    logrus.FieldLogger
	api    huma.API
}

const (
	base         = "/api/v1"
	openAPIPath  = "/api/openapi.json"
	auditTimeout = 5 * time.Second
)

// New returns the handler of the API, of /livez, /readyz and /metrics. It
// starts no goroutine.
func New(deps Deps, c Config) (http.Handler, error) {
	if err := deps.validate(); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	if deps.Variable == nil {
		deps.Variable = func(string) (string, bool) { return "", true }
	}
	s := &service{deps: deps, config: c.withDefaults(), log: deps.Log}
	s.api = humago.New(mux, s.framework())
	s.api.UseMiddleware(s.guard)
	s.taskRoutes()
	s.calendarRoutes()
	s.sourceRoutes()
	s.scheduleRoutes()
	s.runRoutes()
	s.waitRoutes()
	s.bulkRoutes()
	s.readonlyRoutes()
	s.packageRoutes()
	s.adminRoutes()
	s.fleetRoutes()
	allowNull(s.api.OpenAPI().Components.Schemas.Map())
	document, err := json.Marshal(s.api.OpenAPI())
	if err != nil {
		return nil, task.Errorf(task.CodeInternal, "the OpenAPI document cannot be written: %w", err)
	}
	s.plainRoutes(mux, document)
	return mux, nil
}

// framework configures huma: JSON only, no links to schemas, no pages of docs.
func (s *service) framework() huma.Config {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	registry.RegisterTypeAlias(reflect.TypeFor[task.Outcome](), reflect.TypeFor[outcome]())
	registry.RegisterTypeAlias(reflect.TypeFor[huma.ErrorModel](), reflect.TypeFor[client.ErrorBody]())
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Catena", Version: s.config.Version,
				Description: "Tasks, schedules, runs and packages. Every error answer has the shape of ErrorBody.",
			},
			Components: &huma.Components{
				Schemas:         registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer"}},
			},
		},
		Formats:                      map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{reshape},
	}
}

// outcome is the schema of task.Outcome, which writes itself.
type outcome struct {
	Success   bool         `json:"success"`
	Reason    string       `json:"reason,omitempty"`
	Data      any          `json:"data,omitempty"`
	CallStack []task.Frame `json:"call_stack,omitempty"`
	_         struct{}     `additionalProperties:"true"`
}

// allowNull corrects the fields that the framework takes for always present:
// pointers without omitempty, which are null until there is a value.
func allowNull(schemas map[string]*huma.Schema) {
	for _, name := range []string{"Fire", "SourceItem"} {
		schemas[name].Properties["run"].Nullable = true
	}
	for _, name := range []string{"Run", "Step"} {
		reference := *schemas[name].Properties["outcome"]
		schemas[name].Properties["outcome"] = &huma.Schema{AnyOf: []*huma.Schema{&reference, {Type: "null"}}}
	}
}

// plainRoutes adds what needs no token, and the answer to unknown paths.
func (s *service) plainRoutes(mux *http.ServeMux, document []byte) {
	mux.HandleFunc("GET "+openAPIPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document)
	})
	for path, handler := range map[string]http.Handler{
		"/livez": s.deps.Live, "/readyz": s.deps.Ready, "/metrics": s.deps.Metrics,
	} {
		if handler != nil {
			mux.Handle(path, handler)
		}
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		err := task.Errorf(task.CodeNotFound, "there is no call %s %s", r.Method, r.URL.Path).Fix("the calls are listed in %s", openAPIPath)
		writeRefusal(w, s.refuse(r.Context(), err))
	})
}

func writeRefusal(w http.ResponseWriter, r *refusal) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.GetStatus())
	_ = json.NewEncoder(w).Encode(r)
}

// operation describes one call of the API.
type operation struct {
	action  auth.Action
	method  string
	path    string // below base
	summary string
	tag     string
	limit   int64         // bytes of the body; 0: none is taken
	timeout time.Duration // of the handler; 0: Config.Timeout
	body    time.Duration // for reading the body; 0: bodyTimeout
	changes bool          // so it is audited
	status  int           // of success; 0: 200, or 204 without a body
	repeat  reflect.Type  // what a 200 holds beside another status; nil: there is none
	takes   string        // media type of a body that the handler reads itself; "": none
	gives   string        // media type of an answer that is not JSON; "": none
	partly  auth.Role     // may do a part of it, which the handler tells from the rest; "": only the role of the action
}

func (o operation) needs() string {
	text := "Needs the role " + string(auth.Least(o.action))
	if o.partly != "" {
		text += "; the role " + string(o.partly) + " to try it without a change"
	}
	return text + "."
}

func (s *service) describe(o operation) huma.Operation {
	if o.timeout == 0 {
		o.timeout = s.config.Timeout
	}
	failure := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[client.ErrorBody](), true, "")
	described := huma.Operation{
		OperationID: string(o.action), Method: o.method, Path: base + o.path, Summary: o.summary, Tags: []string{o.tag},
		Description:     o.needs(),
		DefaultStatus:   o.status,
		MaxBodyBytes:    o.limit + 1, // the framework refuses a body of this size, not one beyond it
		BodyReadTimeout: max(o.body, bodyTimeout),
		Security:        []map[string][]string{{"bearer": {}}},
		Responses: map[string]*huma.Response{"default": {
			Description: "Error", Content: map[string]*huma.MediaType{"application/json": {Schema: failure}},
		}},
		Metadata: map[string]any{rulesKey: rules{
			action: o.action, partly: o.partly, limit: o.limit, timeout: o.timeout, bodyTimeout: o.body,
		}},
	}
	if o.takes != "" {
		described.RequestBody = &huma.RequestBody{Required: true, Content: binary(o.takes)}
	}
	if o.repeat != nil {
		there := &huma.MediaType{Schema: s.api.OpenAPI().Components.Schemas.Schema(o.repeat, true, "")}
		described.Responses["200"] = &huma.Response{
			Description: "It was there before", Content: map[string]*huma.MediaType{"application/json": there},
		}
	}
	if o.gives != "" {
		described.Responses["200"] = &huma.Response{Description: http.StatusText(http.StatusOK), Content: binary(o.gives)}
	}
	return described
}

// handle adds an operation. Errors of handler are written here alone, and what
// changes something is audited here alone.
func handle[I, O any](s *service, o operation, handler func(context.Context, *I) (*O, error)) {
	huma.Register(s.api, s.describe(o), func(ctx context.Context, in *I) (*O, error) {
		if o.body == 0 {
			scopeOf(ctx).bodyRead()
		}
		out, err := handler(ctx, in)
		if err != nil {
			return nil, s.refuse(ctx, err)
		}
		if o.changes && !scopeOf(ctx).tried {
			s.audit(ctx, o.action)
		}
		return out, nil
	})
}

// audit records a change that has happened, even if the caller is gone. That
// it cannot be recorded does not undo the change, so it is only logged.
func (s *service) audit(ctx context.Context, action auth.Action) {
	sc := scopeOf(ctx)
	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	if err := s.deps.Audit.Audit(lasting, sc.token.Name, string(action), sc.target, sc.detail); err != nil {
		s.log.WithFields(logrus.Fields{"request": sc.id, "action": action, "target": sc.target, "token": sc.token.Name}).
			WithError(err).Error("A change could not be written to the audit table")
	}
}

// body is an answer that holds a T.
type body[T any] struct{ Body T }

func answer[T any](value T, err error) (*body[T], error) {
	if err != nil {
		return nil, err
	}
	return &body[T]{Body: value}, nil
}

// list is answer for lists, in which none is [] and not null.
func list[T any](values []T, err error) (*body[[]T], error) {
	if values == nil {
		values = []T{}
	}
	return answer(values, err)
}

type nothing struct{}
