package client

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

// DefaultServer is where a master listens unless told otherwise.
const DefaultServer = "http://127.0.0.1:20081"

// Config configures a Client. Zero values mean the defaults of New.
type Config struct {
	Server          string        // "": DefaultServer
	Token           string        // "": no token is sent
	HTTPClient      *http.Client  // nil: one made for short and long requests alike
	UserAgent       string        // "": "catena-client"
	TraceParent     string        // W3C trace context that started runs go on with; "": none
	TraceState      string        // the rest of it
	Timeout         time.Duration // of one attempt, beyond what the server was asked to wait; 0: 30s
	GiveUp          time.Duration // of all attempts of a call together, unless it transfers or waits; 0: each may take Timeout
	TransferTimeout time.Duration // of Push and PackageArchive; 0: 10m
	Retries         int           // further attempts of calls that may be tried again; 0: 3, negative: none
	Patience        time.Duration // how long the blocking methods endure an absent server; 0: 30s
}

// Client calls the REST API of one server.
type Client struct {
	base   string // without a slash at its end
	config Config
	http   *http.Client
}

// New checks c and returns a Client. It does not contact the server.
func New(c Config) (*Client, error) {
	c = c.withDefaults()
	base, err := parseServer(c.Server)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(c.Token, " \t\r\n") {
		return nil, task.Errorf(task.CodeInvalid, "the token holds white space").At("token").
			Fix("pass the token exactly as catena token create printed it")
	}
	return &Client{base: base, config: c, http: c.HTTPClient}, nil
}

// Close gives back the idle connections. The client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Server returns the address that the client calls.
func (c *Client) Server() string { return c.base }

func (c Config) withDefaults() Config {
	if c.Server == "" {
		c.Server = DefaultServer
	}
	if c.UserAgent == "" {
		c.UserAgent = "catena-client"
	}
	if c.Timeout <= 0 {
		c.Timeout = 30 * time.Second
	}
	if c.TransferTimeout <= 0 {
		c.TransferTimeout = 10 * time.Minute
	}
	if c.Retries == 0 {
		c.Retries = 3
	}
	if c.Patience <= 0 {
		c.Patience = 30 * time.Second
	}
	if c.HTTPClient == nil {
		c.HTTPClient = newHTTPClient()
	}
	return c
}

// newHTTPClient keeps more idle connections to the one server than the
// standard transport does, for callers with many goroutines.
func newHTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}}
}

func parseServer(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", task.Errorf(task.CodeInvalid, "%q is not the address of a server", text).At("server").
			Fix("write it like %s", DefaultServer)
	}
	return strings.TrimRight(u.String(), "/"), nil
}
