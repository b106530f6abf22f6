// Package pkgstore keeps packages: folders of code that the workers run.
//
// A package is a folder with a manifest (catena.yaml), modules (.ts, .js, .mjs)
// and any other text files. Its canonical form is the list of its files sorted
// by path; the SHA-256 of that list, the digest, names an immutable version.
// Modes, times and the order of the files do not count, so the same content
// pushed from anywhere is the same version. Files and folders whose name begins
// with a dot, and node_modules, are not part of a package and are left out.
//
// A push bundles every module to one self-contained script, stores the version
// and points a channel at it, in one transaction. Every change of a channel is
// a row of releases. The ids of these rows rise in the order of their commits,
// so one number pins all packages of a run: the version of a package at
// release N is that of the last row of its channel live with an id of at most N.
//
// What is imported from other packages (pkg:name/module) is bundled in at the
// push and recorded with its digest; pushing the same content again does not
// build it anew.
//
// The package does not run code, and it refuses to read outside a package:
// symbolic links, devices, absolute paths and ".." are errors, never followed.
package pkgstore
