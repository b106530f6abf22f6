// Command catena is the one binary of Catena: the control plane, the workers,
// the developer's private cluster and the client of them all.
package main

import "github.com/catena-run/catena/cli"

// version is set by the linker: -X main.version=v1.2.3.
var version string

func main() { cli.Main(version) }
