// Package configs holds the one configuration schema of every Catena process:
// its sections, defaults and rules, and how a file, CATENA_* variables and
// flags are laid over each other. The JSON Schema and docs/configuration.md are
// made from the same struct.
//
// It refuses what it does not understand: an unknown key is an error that names
// the nearest known one, so that a typing mistake never means a silent default.
// It opens no connection and knows no component; package node hands the values
// to the components.
package configs
