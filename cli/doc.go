// Package cli is the command line of Catena: commands, flags, output and exit
// codes. It is the only package that touches os.Args and os.Exit.
//
// A command is either a call of the REST API, by package client, or the start
// of a process, which is done by the functions of Processes. The package holds
// no logic of the product itself and no state between two commands.
//
// Exit codes: 0 ok, 1 failure of the work, 2 wrong usage, 3 the server cannot
// be reached, 4 unauthorized or forbidden.
package cli
