package task

import (
	"strings"
	"time"
)

// DefaultChannel is the channel that runs follow unless told otherwise.
const DefaultChannel = "live"

// PackageRef names a function of a package: pkg:module?function. An empty
// Function means "main".
type PackageRef struct {
	Package  string
	Module   string
	Function string
}

// ParsePackageRef reads "pkg:module?function", where "?function" may be absent.
func ParsePackageRef(text string) (PackageRef, error) {
	pkg, rest, ok := strings.Cut(text, ":")
	module, function, named := strings.Cut(rest, "?")
	if !ok || !ValidName(pkg) || module == "" || named && function == "" || strings.ContainsAny(module, ": \t\n") {
		return PackageRef{}, Errorf(CodeInvalid, "%q does not name a function of a package", text).
			Fix("write package:module?function, such as billing:invoice?close")
	}
	if function == "" {
		function = "main"
	}
	return PackageRef{Package: pkg, Module: module, Function: function}, nil
}

// Export returns the form that a manifest's exports list uses: module?function.
func (r PackageRef) Export() string { return r.Module + "?" + r.Function }

// String returns pkg:module?function.
func (r PackageRef) String() string { return r.Package + ":" + r.Export() }

// PackageVersion is one immutable version of a package.
type PackageVersion struct {
	Name        string    `json:"name"`
	Digest      string    `json:"digest"` // sha256:<64 hex digits> of the canonical content
	Description string    `json:"description,omitempty"`
	Size        int64     `json:"size"` // bytes of all files
	Files       int       `json:"files"`
	Channels    []string  `json:"channels,omitempty"` // that point at it now
	PushedBy    string    `json:"pushed_by,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
}

// Release is one change of a channel. Release ids rise in the order of their
// commits, so that one number pins every package of a run.
type Release struct {
	ID      int64     `json:"id"`
	Package string    `json:"package"`
	Channel string    `json:"channel"`
	Digest  string    `json:"digest"` // "" when the channel was removed
	Action  string    `json:"action"` // push promote rollback delete
	By      string    `json:"by,omitempty"`
	At      time.Time `json:"at"`
}
