package node

import (
	"net"
	"os"
	"time"

	"github.com/catena-run/catena/configs"
	"github.com/catena-run/catena/server"
	"github.com/catena-run/catena/task"
)

// listeners are the addresses of a master, bound before anything else happens.
type listeners struct {
	admin  net.Listener
	health net.Listener  // of the liveness endpoints; nil: they have none for themselves
	shared *server.Bound // the workers accept from them, the master does not
}

// The names of the listeners of the master itself among those that are handed
// over; the others go by their kinds.
const (
	adminListener  = "admin"
	healthListener = "health"
)

// listen binds what the configuration names and what was not given to this
// process. The caller closes it, unless a masterNode has taken it over.
func listen(cfg configs.Config, given map[string]*os.File) (*listeners, error) {
	addresses := sharedAddresses(cfg.Server)
	for _, a := range addresses {
		if a.Kind != server.KindHTTPS {
			continue
		}
		if err := server.CheckCertificate(cfg.Server.Certificate, cfg.Server.Key); err != nil {
			return nil, err
		}
	}
	admin, err := server.Listen(server.Address{Kind: server.KindHTTP, Text: cfg.Master.Admin, Key: "master.admin"}, given[adminListener])
	if err != nil {
		return nil, err
	}
	shared, err := server.Bind(addresses, given)
	if err != nil {
		_ = admin.Close()
		return nil, err
	}
	health, err := listenForLiveness(cfg, given[healthListener])
	if err != nil {
		_ = admin.Close()
		shared.Close()
		return nil, err
	}
	for _, left := range given {
		_ = left.Close() // taken, or not wanted: connections to it would wait for ever
	}
	return &listeners{admin: admin, health: health, shared: shared}, nil
}

func sharedAddresses(cfg configs.Server) (list []server.Address) {
	for _, a := range []server.Address{
		{Kind: server.KindHTTP, Text: cfg.HTTP, Key: "server.http"},
		{Kind: server.KindHTTPS, Text: cfg.HTTPS, Key: "server.https"},
		{Kind: server.KindUnix, Text: cfg.Unix, Key: "server.unix"},
	} {
		if a.Text != "" {
			list = append(list, a)
		}
	}
	return list
}

// close tolerates being called twice.
func (l *listeners) close() {
	_ = l.admin.Close()
	if l.health != nil {
		_ = l.health.Close()
	}
	l.shared.Close()
}

// sharedConfig says how a worker serves the shared listeners.
func sharedConfig(cfg configs.Server, drain task.Duration, version string) server.Config {
	duration := func(d task.Duration) time.Duration { return time.Duration(d) }
	return server.Config{
		Version: version, Certificate: cfg.Certificate, Key: cfg.Key,
		HeaderTimeout: duration(cfg.HeaderTimeout), ReadTimeout: duration(cfg.ReadTimeout), WriteTimeout: duration(cfg.WriteTimeout),
		IdleTimeout: duration(cfg.IdleTimeout), DrainGrace: duration(cfg.DrainGrace), DrainTimeout: duration(drain),
		MaxHeader: int(cfg.MaxHeader), MaxBody: int64(cfg.MaxBody), MaxConns: cfg.MaxConns,
	}
}
