package configs

import (
	"net"
	"strings"
)

// The variables by which services on an Avid connector turn their liveness
// server on, and what that takes when they do not say more. It would bind all
// addresses; here that must be said.
const (
	aliasLiveness = "ACS_HTTP_SERVER_ENABLED"
	aliasHost     = "ACS_HTTP_SERVER_LISTEN_HOST"
	aliasPort     = "ACS_HTTP_SERVER_LISTEN_PORT"

	livenessHost = "127.0.0.1"
	livenessPort = "9991"
)

// aliases translates variables of others to those of the schema, which win
// over them. A host or port alone turns nothing on.
func aliases(environ []string) []string {
	given := map[string]string{}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		given[name] = value
	}
	if !strings.EqualFold(given[aliasLiveness], "true") && given[aliasLiveness] != "1" {
		return nil
	}
	host, port := given[aliasHost], given[aliasPort]
	if host == "" {
		host = livenessHost
	}
	if port == "" {
		port = livenessPort
	}
	return []string{envName("health.liveness") + "=true", envName("health.address") + "=" + net.JoinHostPort(host, port)}
}
