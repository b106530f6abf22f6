// Package api serves the REST API of a master: it checks who asks, what they
// ask and how much of it, calls the parts that do the work through small
// interfaces, and writes every error in one shape. The OpenAPI 3.1 document of
// the API is served at /api/openapi.json.
//
// It keeps no state but the one poller that all waiting requests share, opens
// no listener, decides nothing about runs and shows no details of an internal
// error to a caller: those go to the log, with the id of the request.
package api
