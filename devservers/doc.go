// Package devservers runs private PostgreSQL and Redis servers as children of
// this process, for `catena dev` and for tests.
//
// A child listens only for this machine, keeps fsync on, and dies with its
// parent, even when the parent is killed with SIGKILL. The package refuses to
// touch data that another process uses, and it is not meant for production:
// nothing here makes backups, replicates or listens on a network.
package devservers
