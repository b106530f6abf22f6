package healthcheck

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The codes of liveness.
const (
	Healthy   = http.StatusOK
	Unhealthy = http.StatusInternalServerError
)

// InstanceProvider tells the liveness code of an instance. An error, a panic and
// no answer in time count as Unhealthy. It should heed ctx.
type InstanceProvider func(ctx context.Context, instance string) (code int, err error)

// AggregateProvider makes one code of those of all instances, which come in the
// order of the instances' ids. Errors count as with an InstanceProvider.
type AggregateProvider func(ctx context.Context, codes []int) (code int, err error)

// InstanceFunc makes a provider of a function that answers at once.
func InstanceFunc(f func(instance string) int) InstanceProvider {
	return func(_ context.Context, instance string) (int, error) { return f(instance), nil }
}

// AggregateFunc makes a provider of a function that answers at once.
func AggregateFunc(f func(codes []int) int) AggregateProvider {
	return func(_ context.Context, codes []int) (int, error) { return f(codes), nil }
}

// AllHealthy is the AggregateProvider that is used when no other is set.
func AllHealthy(_ context.Context, codes []int) (int, error) {
	for _, code := range codes {
		if code != Healthy {
			return Unhealthy, nil
		}
	}
	return Healthy, nil
}

// Instance is something whose liveness is told: a process of the cluster.
type Instance struct {
	ID       string
	ClientID string // by which it signed in; "": N/A
	Liveness InstanceProvider
}

// Service is something that an instance offers.
type Service struct {
	Type    string
	Realm   string
	Version int
}

// LivenessServer tells of the liveness of instances. Whoever runs it calls Start
// first, registers what there is and what comes, and calls Stop last.
type LivenessServer interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	SetAggregate(provider AggregateProvider)
	RegisterInstance(instance Instance)
	UnregisterInstance(id string)
	RegisterService(instance, id string, service Service)
	UnregisterService(instance, id string)
}

// Liveness answers over HTTP, without a token:
//
//	GET /api/v1/liveness                  200 ok or 500 error, of all instances together
//	GET /api/v1/instances                 all instances, as JSON
//	GET /api/v1/instances/{id}/liveness   200 ok or 500 error, of one
//
// and 404 to everything else. It is a LivenessServer that another server serves.
type Liveness struct {
	timeout time.Duration
	whole   *namedProbe

	mu        sync.Mutex
	aggregate AggregateProvider
	instances map[string]*instance
}

type instance struct {
	Instance
	probe    *namedProbe
	services map[string]Service
}

var _ LivenessServer = (*Liveness)(nil)

// NewLiveness gives each provider so much time; 0: 2 s.
func NewLiveness(timeout time.Duration) *Liveness {
	if timeout <= 0 {
		timeout = 2 * time.Second
	}
	l := &Liveness{timeout: timeout, aggregate: AllHealthy, instances: map[string]*instance{}}
	l.whole = &namedProbe{name: "aggregate", probe: l.askAggregate}
	return l
}

// Start does nothing: the server that Liveness is mounted in is started by itself.
func (l *Liveness) Start(context.Context) error { return nil }

// Stop does nothing.
func (l *Liveness) Stop(context.Context) error { return nil }

// SetAggregate replaces AllHealthy; nil restores it.
func (l *Liveness) SetAggregate(provider AggregateProvider) {
	if provider == nil {
		provider = AllHealthy
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.aggregate = provider
}

// RegisterInstance adds an instance, or replaces the one with its id.
func (l *Liveness) RegisterInstance(i Instance) {
	added := &instance{Instance: i, services: map[string]Service{}}
	added.probe = &namedProbe{name: i.ID, probe: func(ctx context.Context) error {
		code, err := i.Liveness(ctx, i.ID)
		return asError(code, err)
	}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.instances[i.ID] = added
}

// UnregisterInstance removes an instance with its services.
func (l *Liveness) UnregisterInstance(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.instances, id)
}

// RegisterService adds a service to an instance that is registered.
func (l *Liveness) RegisterService(instance, id string, service Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.instances[instance]; i != nil {
		i.services[id] = service
	}
}

// UnregisterService removes a service of an instance.
func (l *Liveness) UnregisterService(instance, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.instances[instance]; i != nil {
		delete(i.services, id)
	}
}

// codeError is a code other than Healthy.
type codeError int

func (c codeError) Error() string { return fmt.Sprintf("liveness code %d", int(c)) }

func asError(code int, err error) error {
	if err != nil || code == Healthy {
		return err
	}
	return codeError(code)
}

func codeOf(err error) int {
	var code codeError
	switch {
	case err == nil:
		return Healthy
	case errors.As(err, &code) && code >= 100 && code <= 599:
		return int(code)
	}
	return Unhealthy
}

// codes asks all instances at once.
func (l *Liveness) codes(ctx context.Context) ([]*instance, []int) {
	l.mu.Lock()
	list := slices.SortedFunc(maps.Values(l.instances), func(a, b *instance) int { return cmp.Compare(a.ID, b.ID) })
	l.mu.Unlock()
	probes := make([]*namedProbe, len(list))
	for i, one := range list {
		probes[i] = one.probe
	}
	codes := make([]int, len(list))
	for i, r := range runAll(ctx, l.timeout, probes) {
		codes[i] = codeOf(r.err)
	}
	return list, codes
}

func (l *Liveness) askAggregate(ctx context.Context) error {
	_, codes := l.codes(ctx)
	l.mu.Lock()
	provider := l.aggregate
	l.mu.Unlock()
	return asError(provider(ctx, codes))
}

// ServeHTTP answers.
func (l *Liveness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	id, isInstance := strings.CutPrefix(r.URL.Path, livenessBase+"instances/")
	id, isInstance = cutSuffix(id, "/liveness", isInstance)
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		plain(w, http.StatusNotFound, notFound)
	case r.URL.Path == livenessBase+"liveness":
		// Twice: for the instances, then for the provider.
		okOrError(w, l.whole.ask(r.Context(), 2*l.timeout))
	case r.URL.Path == livenessBase+"instances":
		l.writeInstances(w, r)
	case isInstance:
		l.mu.Lock()
		one := l.instances[id]
		l.mu.Unlock()
		if one == nil {
			plain(w, http.StatusNotFound, notFound)
			return
		}
		okOrError(w, one.probe.ask(r.Context(), l.timeout))
	default:
		plain(w, http.StatusNotFound, notFound)
	}
}

const (
	livenessBase = "/api/v1/"
	notFound     = "404 Not Found"
)

// LivenessPaths are the patterns that Liveness answers, for a server that it
// shares with others.
func LivenessPaths() []string {
	return []string{livenessBase + "liveness", livenessBase + "instances", livenessBase + "instances/{id}/liveness"}
}

func cutSuffix(text, suffix string, before bool) (string, bool) {
	text, found := strings.CutSuffix(text, suffix)
	return text, before && found && text != "" && !strings.Contains(text, "/")
}

func okOrError(w http.ResponseWriter, err error) {
	if err != nil {
		plain(w, Unhealthy, "error")
		return
	}
	plain(w, Healthy, "ok")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}

// instanceInfo is one instance in the list.
type instanceInfo struct {
	ClientID     string `json:"clientId"`
	LivenessCode int    `json:"livenessCode"`
	serviceInfo
	// Services is there when the instance has more than the one that stands above.
	Services map[string]serviceInfo `json:"services,omitempty"`
}

type serviceInfo struct {
	Type    string `json:"serviceType"`
	Realm   string `json:"serviceRealm"`
	Version int    `json:"serviceVersion"`
}

func (l *Liveness) writeInstances(w http.ResponseWriter, r *http.Request) {
	list, codes := l.codes(r.Context())
	infos := make(map[string]instanceInfo, len(list))
	l.mu.Lock()
	for i, one := range list {
		infos[one.ID] = one.info(codes[i])
	}
	l.mu.Unlock()
	text, err := json.MarshalIndent(infos, "", "  ")
	if err != nil {
		plain(w, Unhealthy, "error")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(text, '\n'))
}

func (i *instance) info(code int) instanceInfo {
	info := instanceInfo{ClientID: cmp.Or(i.ClientID, "N/A"), LivenessCode: code}
	for n, id := range slices.Sorted(maps.Keys(i.services)) {
		service := serviceInfo(i.services[id])
		if n == 0 {
			info.serviceInfo = service
		}
		if len(i.services) > 1 {
			if info.Services == nil {
				info.Services = map[string]serviceInfo{}
			}
			info.Services[id] = service
		}
	}
	return info
}
