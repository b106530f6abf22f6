package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dop251/goja"

	"github.com/catena-run/catena/telemetry"
)

const maxRedirects = 10

// newTransport returns the connections that all calls of an engine share.
// Proxies of the environment are ignored: they are the operator's, not the
// package's.
func newTransport(proxy string) *http.Transport {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		MaxIdleConns:        100,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     30 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
	}
	if address, err := url.Parse(proxy); err == nil && proxy != "" {
		transport.Proxy = http.ProxyURL(address)
	}
	return transport
}

// httpRequest is a request of package code, as plain Go values.
type httpRequest struct {
	method  string
	url     *url.URL
	header  http.Header
	body    string
	timeout time.Duration
	signal  *signal // ends it early; may be nil
}

// httpResponse is what came back, as plain Go values.
type httpResponse struct {
	status int
	url    string
	header http.Header
	text   string
}

// httpModule is the http of the host API.
func (inv *invocation) httpModule() *goja.Object {
	module := inv.vm.NewObject()
	inv.fix(module, "request", inv.requester(""))
	for _, method := range []string{"get", "head", "post", "put", "patch", "delete"} {
		inv.fix(module, method, inv.requester(strings.ToUpper(method)))
	}
	return inv.freeze(module)
}

// requester returns a function (url, options) that gives a promise of the
// response. Whatever is wrong with the request rejects the promise.
func (inv *invocation) requester(method string) func(goja.FunctionCall) goja.Value {
	return func(call goja.FunctionCall) goja.Value {
		promise, resolve, reject := inv.vm.NewPromise()
		settle := func(err error) {
			if err != nil {
				panic(err)
			}
		}
		request, err := inv.readRequest(method, call.Argument(0), call.Argument(1))
		switch {
		case err != nil:
			settle(reject(inv.newError(err.Error())))
		case request.signal != nil && request.signal.aborted():
			settle(reject(request.signal.why()))
		case inv.call.Context.Readonly && !inv.mayRead(request):
			what := request.method + " " + request.url.Redacted()
			inv.print("info", "would do: "+what)
			if inv.call.WouldDo != nil {
				inv.call.WouldDo("http", what)
			}
			settle(resolve(inv.wouldDo()))
		default:
			inv.send(request, resolve, reject)
		}
		return inv.vm.ToValue(promise)
	}
}

// mayRead reports whether a dry run may send a request: nothing leaves the
// process but reading from hosts that the author of the package declared to be
// harmless to read from.
func (inv *invocation) mayRead(request *httpRequest) bool {
	manifest := inv.call.Version.Manifest
	return (request.method == http.MethodGet || request.method == http.MethodHead) && request.body == "" &&
		manifest != nil && manifest.Permissions.AllowsReadonlyHost(request.url.Hostname(), portOf(request.url))
}

// wouldDo is the response to a request that a dry run does not send.
func (inv *invocation) wouldDo() *goja.Object {
	object := inv.vm.NewObject()
	inv.set(object, "json", func(goja.FunctionCall) goja.Value { return goja.Null() })
	for name, value := range map[string]any{"status": 0, "ok": false, "text": "", "headers": inv.vm.NewObject(), "wouldDo": true} {
		inv.put(object, name, value)
	}
	return object
}

func (inv *invocation) put(object *goja.Object, name string, value any) {
	if err := object.Set(name, value); err != nil {
		panic(err)
	}
}

// readRequest reads (url, {method, headers, body, json, timeout, signal}).
func (inv *invocation) readRequest(method string, address, options goja.Value) (*httpRequest, error) {
	target, err := url.Parse(textOf(address))
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return nil, fmt.Errorf("%q is not the URL of a web page; write it with http:// or https://", shorten(textOf(address), 200))
	}
	request := &httpRequest{method: method, url: target, header: http.Header{}, timeout: inv.engine.config.HTTPTimeout}
	if object, ok := options.(*goja.Object); ok {
		if err := inv.readOptions(request, object); err != nil {
			return nil, err
		}
	}
	if request.method == "" {
		request.method = http.MethodGet
	}
	return request, inv.permitted(target)
}

func (inv *invocation) readOptions(request *httpRequest, options *goja.Object) error {
	if given := textOf(options.Get("method")); given != "" {
		request.method = strings.ToUpper(given)
	}
	if headers, ok := options.Get("headers").(*goja.Object); ok {
		for _, name := range headers.Keys() {
			request.header.Set(name, textOf(headers.Get(name)))
		}
	}
	var err error
	if request.signal, err = inv.readSignal(options); err != nil {
		return err
	}
	if ms := options.Get("timeout"); ms != nil && goja.IsNumber(ms) && ms.ToFloat() > 0 {
		request.timeout = min(delay(ms), request.timeout)
	}
	if body := options.Get("body"); body != nil && !goja.IsUndefined(body) && !goja.IsNull(body) {
		if !goja.IsString(body) {
			return errors.New("the body of a request must be a string; give an object as json instead")
		}
		request.body = body.String()
	}
	if value := options.Get("json"); value != nil && !goja.IsUndefined(value) {
		encoded, failed := inv.encode(value)
		if failed != nil {
			return errors.New("the json of the request: " + failed.text)
		}
		request.body = string(encoded)
		if request.header.Get("Content-Type") == "" {
			request.header.Set("Content-Type", "application/json")
		}
	}
	return nil
}

// permitted checks a URL against the hosts of the package's manifest.
func (inv *invocation) permitted(target *url.URL) error {
	if manifest := inv.call.Version.Manifest; manifest != nil && manifest.Permissions.AllowsHost(target.Hostname(), portOf(target)) {
		return nil
	}
	return fmt.Errorf("package %s may not connect to %s; add this to catena.yaml to permit it: permissions: {http: [%q]}",
		inv.call.Version.Name, target.Host, target.Host)
}

func portOf(target *url.URL) int {
	if port, err := strconv.Atoi(target.Port()); err == nil {
		return port
	}
	if target.Scheme == "https" {
		return 443
	}
	return 80
}

// send does a request outside of the loop and settles the promise in it. The
// error is made now, so that its stack names the author's line.
func (inv *invocation) send(request *httpRequest, resolve, reject func(any) error) {
	failed := inv.newError("")
	hand := inv.loop.register()
	ctx, cancel := context.WithCancel(inv.ctx)
	unhook := func() bool { return true }
	if request.signal != nil && inv.call.Stop != nil {
		unhook = context.AfterFunc(inv.call.Stop, cancel)
	}
	inv.outside.Go(func() {
		defer cancel()
		response, err := inv.fetchAdmitted(ctx, request)
		aborted := !unhook()
		if aborted && err != nil {
			hand(func() { inv.settle(reject, func() any { return request.signal.why() }) })
			return
		}
		hand(func() { inv.settleResponse(response, err, failed, resolve, reject) })
	})
}

// fetchAdmitted does the request when the caller of the code lets it.
func (inv *invocation) fetchAdmitted(ctx context.Context, request *httpRequest) (*httpResponse, error) {
	if admit := inv.call.Admit; admit != nil {
		if err := admit(ctx); err != nil {
			return nil, fmt.Errorf("http %s %s: %w", request.method, request.url.Redacted(), err)
		}
	}
	return inv.fetch(ctx, request)
}

// settleResponse runs in the loop.
func (inv *invocation) settleResponse(response *httpResponse, err error, failed *goja.Object, resolve, reject func(any) error) {
	if err != nil {
		inv.settle(reject, func() any {
			inv.put(failed, "message", err.Error())
			return failed
		})
		return
	}
	inv.settle(resolve, func() any { return inv.responseObject(response) })
}

func (inv *invocation) responseObject(response *httpResponse) *goja.Object {
	object, headers := inv.vm.NewObject(), inv.vm.NewObject()
	for name, values := range response.header {
		inv.put(headers, strings.ToLower(name), strings.Join(values, ", "))
	}
	inv.put(object, "status", response.status)
	inv.put(object, "ok", response.status >= 200 && response.status < 300)
	inv.put(object, "url", response.url)
	inv.put(object, "headers", headers)
	inv.put(object, "text", response.text)
	inv.set(object, "json", func(goja.FunctionCall) goja.Value { return inv.parseBody(response) })
	return object
}

func (inv *invocation) parseBody(response *httpResponse) goja.Value {
	if nesting(response.text) > maxJSONDepth {
		panic(inv.newError("the response of " + response.url + " nests too deep"))
	}
	parse, ok := goja.AssertFunction(inv.vm.Get("JSON").(*goja.Object).Get("parse"))
	if !ok {
		panic(inv.vm.NewTypeError("JSON.parse is not a function"))
	}
	value, err := parse(goja.Undefined(), inv.vm.ToValue(response.text))
	if err != nil {
		panic(inv.newError("the response of " + response.url + " is not JSON"))
	}
	return value
}

// fetch does one request with its redirects. It blocks until the body is read,
// its timeout or ctx ends, and never retries.
func (inv *invocation) fetch(ctx context.Context, request *httpRequest) (*httpResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, request.timeout)
	defer cancel()
	outgoing, err := http.NewRequestWithContext(ctx, request.method, request.url.String(), strings.NewReader(request.body))
	if err != nil {
		return nil, fmt.Errorf("http %s %s: %w", request.method, request.url.Redacted(), err)
	}
	outgoing.Header = request.header
	ctx, span := traceRequest(ctx, request)
	defer span.End()
	telemetry.InjectHeader(ctx, outgoing.Header)
	if host := request.header.Get("Host"); host != "" {
		outgoing.Host = host
	}
	client := http.Client{Transport: inv.engine.client, CheckRedirect: inv.checkRedirect}
	incoming, err := client.Do(outgoing)
	inv.engine.counts.answered(incoming)
	traceResponse(span, incoming, err)
	if err != nil {
		return nil, inv.fetchError(request, err)
	}
	defer incoming.Body.Close()
	limit := inv.engine.config.HTTPMaxBody
	body, err := io.ReadAll(io.LimitReader(incoming.Body, limit+1))
	if err != nil {
		return nil, inv.fetchError(request, err)
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("http %s %s: the response is larger than %s", request.method, request.url.Redacted(), formatSize(limit))
	}
	return &httpResponse{
		status: incoming.StatusCode, url: incoming.Request.URL.Redacted(),
		header: incoming.Header, text: strings.ToValidUTF8(string(body), "\uFFFD"),
	}, nil
}

// checkRedirect holds a redirect to the same permission as the request.
func (inv *invocation) checkRedirect(next *http.Request, before []*http.Request) error {
	if len(before) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	if inv.call.Context.Readonly && !inv.mayRead(&httpRequest{method: next.Method, url: next.URL}) {
		return fmt.Errorf("it leads to %s, which a dry run may not read from; readonly_http in catena.yaml permits it", next.URL.Host)
	}
	return inv.permitted(next.URL)
}

// fetchError says in one line what went wrong with which request.
func (inv *invocation) fetchError(request *httpRequest, err error) error {
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s", request.timeout)
	}
	return fmt.Errorf("http %s %s: %w", request.method, address(request.url), err)
}

// address is what errors and traces tell of a URL: its query and its user may be secrets.
func address(u *url.URL) string {
	told := *u
	told.User, told.RawQuery, told.Fragment = nil, "", ""
	return told.String()
}
