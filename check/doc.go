// Package check is the dry run: it says what is wrong with a configuration,
// with task files and with what they name, and what the schedules of tasks
// would do, without doing any of it.
//
// What it looks at is given to it: files as text, a cluster through the
// interface Cluster, of which it has one over the REST API and one over a
// database that is opened for reading only. It writes nothing, anywhere, and
// refuses to guess: what only a run can show (a package named by an
// expression, the hosts that code connects to) is left out and said so.
package check
