package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/e2e/history"
)

// visitors ask the shared server for its status page at a steady rate. They
// speak HTTP themselves: the client of net/http would hide what breaks by asking again.
type visitors struct {
	all   sync.WaitGroup
	stop  chan struct{}
	asked atomic.Int64
	opens atomic.Int64 // connections

	mu       sync.Mutex
	failures []history.Request
}

// door is where a visitor asks.
type door struct {
	address string
	tls     *tls.Config // nil: plain HTTP
}

// visit starts n visitors, each of which asks every so often. Half of them use a
// new connection each time, the others keep theirs until the server says Connection: close.
func visit(t *testing.T, n int, every time.Duration, where func(i int) door) *visitors {
	t.Helper()
	v := &visitors{stop: make(chan struct{})}
	t.Cleanup(v.leave)
	for i := range n {
		v.all.Go(func() { v.come(every, i%2 == 0, func() door { return where(i / 2) }) })
	}
	return v
}

// visitRate asks one address so many times a second.
func visitRate(t *testing.T, address string, rate int) *visitors {
	t.Helper()
	n := max(16, rate/50)
	return visit(t, n, time.Second*time.Duration(n)/time.Duration(rate), func(int) door { return door{address: address} })
}

// guest is one visitor with the connection that it holds.
type guest struct {
	v       *visitors
	fresh   bool // a new connection for each request
	at      string
	conn    net.Conn
	answers *bufio.Reader
}

func (v *visitors) come(every time.Duration, fresh bool, where func() door) {
	g := &guest{v: v, fresh: fresh}
	defer g.hangUp()
	for next := time.Now(); ; next = next.Add(every) {
		wait := time.Until(next)
		if wait < -time.Second {
			next = time.Now() // a long fault is not followed by a flood
		}
		select {
		case <-v.stop:
			return
		case <-time.After(wait):
		}
		d, began := where(), time.Now()
		refused, err := g.ask(d)
		if err == nil {
			v.asked.Add(1)
			continue
		}
		g.hangUp()
		v.mu.Lock()
		v.failures = append(v.failures, history.Request{Began: began, Ended: time.Now(), Server: d.address, Refused: refused, Error: err.Error()})
		v.mu.Unlock()
	}
}

const visitPatience = 20 * time.Second

// ask sends one request and reads its answer.
func (g *guest) ask(d door) (refused bool, err error) {
	if g.conn != nil && g.at != d.address {
		g.hangUp()
	}
	if g.conn == nil {
		conn, err := net.DialTimeout("tcp", d.address, visitPatience)
		if err != nil {
			return true, err
		}
		if d.tls != nil {
			conn = tls.Client(conn, d.tls)
		}
		g.v.opens.Add(1)
		g.at, g.conn, g.answers = d.address, conn, bufio.NewReader(conn)
	}
	_ = g.conn.SetDeadline(time.Now().Add(visitPatience))
	request := "GET /status HTTP/1.1\r\nHost: " + d.address + "\r\n"
	if g.fresh {
		request += "Connection: close\r\n"
	}
	if _, err := io.WriteString(g.conn, request+"\r\n"); err != nil {
		return false, err
	}
	res, err := http.ReadResponse(g.answers, nil)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return false, err
	}
	if res.StatusCode != http.StatusOK {
		return false, errors.New("the status page answers " + res.Status)
	}
	if g.fresh || res.Close {
		g.hangUp()
	}
	return false, nil
}

func (g *guest) hangUp() {
	if g.conn != nil {
		_ = g.conn.Close()
		g.conn = nil
	}
}

// leave ends the visits; leaving twice is fine.
func (v *visitors) leave() {
	v.mu.Lock()
	select {
	case <-v.stop:
	default:
		close(v.stop)
	}
	v.mu.Unlock()
	v.all.Wait()
}

func (v *visitors) failed() []history.Request {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]history.Request(nil), v.failures...)
}

// site is the certificate of the shared server and the authority that signs it.
type site struct {
	t                *testing.T
	certificate, key string // files
	roots            *x509.CertPool
	authority        *x509.Certificate
	secret           *ecdsa.PrivateKey // of the authority and of the site
	serial           int64
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, certificate: filepath.Join(dir, "certificate.pem"), key: filepath.Join(dir, "key.pem"), roots: x509.NewCertPool()}
	var err error
	s.secret, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(s.secret)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tests"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &s.secret.PublicKey, s.secret)
	require.NoError(t, err)
	s.authority, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	s.roots.AddCert(s.authority)
	s.issue(240 * time.Hour)
	return s
}

// issue puts a certificate in place that is valid for so long, or has expired so
// long ago. It returns its serial number.
func (s *site) issue(valid time.Duration) int64 {
	s.t.Helper()
	s.serial++
	serial := 100 + s.serial
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(valid)}
	der, err := x509.CreateCertificate(rand.Reader, template, s.authority, &s.secret.PublicKey, s.secret)
	require.NoError(s.t, err)
	fresh := s.certificate + ".new"
	require.NoError(s.t, os.WriteFile(fresh, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(s.t, os.Rename(fresh, s.certificate))
	return serial
}

func (s *site) client() *tls.Config { return &tls.Config{RootCAs: s.roots, ServerName: "127.0.0.1"} }

// served is the serial number of the certificate that a server shows, 0 when it shows none.
func (s *site) served(address string) int64 {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address, s.client())
	if err != nil {
		return 0
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// summary says what the visitors met.
func (v *visitors) summary() string {
	kinds := map[string]int{}
	for _, f := range v.failed() {
		kind := f.Error[strings.LastIndex(f.Error, ": ")+1:]
		kinds[strings.TrimSpace(kind)]++
	}
	return fmt.Sprintf("requests: %d answered over %d connections, %d failed %v", v.asked.Load(), v.opens.Load(), len(v.failed()), kinds)
}
