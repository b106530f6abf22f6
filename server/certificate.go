package server

import (
	"crypto/tls"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/task"
)

const (
	certificateCheck = time.Second        // how often a handshake looks for newer files
	expirySoon       = 7 * 24 * time.Hour // from when on the log warns
)

// CheckCertificate reads a certificate and its key and refuses what no client
// would take: a missing file, a key of another certificate, one that has expired or is not valid yet.
func CheckCertificate(certificate, key string) error {
	c, err := readCertificate(certificate, key)
	if err != nil {
		return err
	}
	return expired(certificate, c)
}

func expired(path string, c *tls.Certificate) error {
	if time.Now().Before(c.Leaf.NotBefore) {
		return task.Errorf(task.CodeInvalid, "the certificate in %s is valid only from %s", path, c.Leaf.NotBefore.Format(time.DateTime)).
			At("server.certificate").Fix("check the clock of this machine, or wait")
	}
	if !time.Now().After(c.Leaf.NotAfter) {
		return nil
	}
	return task.Errorf(task.CodeInvalid, "the certificate in %s has expired on %s", path, c.Leaf.NotAfter.Format(time.DateTime)).
		At("server.certificate").Fix("renew it; a running server takes the new file by itself")
}

func readCertificate(certificate, key string) (*tls.Certificate, error) {
	if certificate == "" || key == "" {
		return nil, task.Errorf(task.CodeInvalid, "a listener with TLS has no certificate").At("server.certificate").
			Fix("set server.certificate and server.key to PEM files, or remove server.https")
	}
	c, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, task.Errorf(task.CodeInvalid, "the certificate cannot be used: %w", err).At("server.certificate").
			Fix("check %s and %s: PEM files, readable by this user, that belong together", certificate, key)
	}
	return &c, nil
}

// certificates serves the newest good certificate. Files that change into
// something unusable leave the one before in force and are logged once.
type certificates struct {
	certificate, key string
	log              logrus.FieldLogger

	mu      sync.Mutex
	current *tls.Certificate
	checked time.Time
	stamp   [2]time.Time // of the files when they were read last
}

// loadCertificates takes an expired one too, with a complaint: a worker that is
// replaced meanwhile must not be worse off than the one before it.
func loadCertificates(certificate, key string, log logrus.FieldLogger) (*certificates, error) {
	c := &certificates{certificate: certificate, key: key, log: log, checked: time.Now()}
	c.stamp = c.modified()
	var err error
	if c.current, err = readCertificate(certificate, key); err != nil {
		return nil, err
	}
	if err := expired(certificate, c.current); err != nil {
		log.WithError(err).Error("clients will refuse the certificate")
	} else if time.Until(c.current.Leaf.NotAfter) < expirySoon {
		log.WithField("expires", c.current.Leaf.NotAfter).Warn("the certificate expires soon")
	}
	return c, nil
}

func (c *certificates) modified() (stamp [2]time.Time) {
	for i, path := range []string{c.certificate, c.key} {
		if info, err := os.Stat(path); err == nil {
			stamp[i] = info.ModTime()
		}
	}
	return stamp
}

// get is called for every handshake.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < certificateCheck {
		return c.current, nil
	}
	c.checked = time.Now()
	stamp := c.modified()
	if stamp == c.stamp {
		return c.current, nil
	}
	c.stamp = stamp
	fresh, err := readCertificate(c.certificate, c.key)
	if err == nil {
		err = expired(c.certificate, fresh)
	}
	if err != nil {
		c.log.WithError(err).Error("the new certificate is not used; the one before stays in force")
		return c.current, nil
	}
	c.current = fresh
	c.log.WithField("expires", fresh.Leaf.NotAfter).Info("the certificate was renewed")
	return c.current, nil
}
