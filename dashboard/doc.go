// Package dashboard serves the web UI that is part of the binary.
//
// The UI is a client of the REST API like any other: this package holds no data,
// knows no token and has no privilege. It only serves files, the same to
// everybody, with headers that keep the browser from loading anything from
// elsewhere and from showing the UI inside another page.
//
// The sources are in web, the built files in dist. Both are committed, so that
// building Catena needs no Node; `make dashboard` builds dist again after a
// change of web. `npm run dev` in web serves the sources as they are edited,
// with the API of a running `catena dev`.
package dashboard
