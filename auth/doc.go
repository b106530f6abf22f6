// Package auth makes and checks the bearer tokens of the API and says which
// role may do what.
//
// A token is 256 random bits, so that only its SHA-256 hash is kept and found
// again by: nothing is ever compared with a secret, and a stolen database opens
// no door. The package keeps no tokens itself, knows no HTTP and grants nothing
// that the table of Allow does not name.
package auth
