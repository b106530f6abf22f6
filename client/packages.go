package client

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/catena-run/catena/task"
)

// Push stores the package in the tar that archive yields and points channel
// ("": live) at it, in one step. It is tried once.
func (c *Client) Push(ctx context.Context, archive io.Reader, channel string) (PushResult, error) {
	query := url.Values{}
	setString(query, "channel", channel)
	var result PushResult
	err := c.do(ctx, call{
		method: http.MethodPost, path: "/packages", query: query, raw: archive, into: &result,
		timeout: c.config.TransferTimeout,
	})
	return result, err
}

// Packages returns the live version of every package, by name.
func (c *Client) Packages(ctx context.Context) ([]task.PackageVersion, error) {
	return get[[]task.PackageVersion](ctx, c, "/packages", nil)
}

// Package returns one version of a package and its manifest.
func (c *Client) Package(ctx context.Context, name string, which PackageSelector) (Package, error) {
	return get[Package](ctx, c, packagePath(name), which.query())
}

// PackageVersions returns every version of a package, newest first.
func (c *Client) PackageVersions(ctx context.Context, name string) ([]task.PackageVersion, error) {
	return get[[]task.PackageVersion](ctx, c, packagePath(name)+"/versions", nil)
}

// PackageReleases returns every change of a package's channels, newest first.
func (c *Client) PackageReleases(ctx context.Context, name string) ([]task.Release, error) {
	return get[[]task.Release](ctx, c, packagePath(name)+"/releases", nil)
}

// PackageFiles returns the files of one version, by path.
func (c *Client) PackageFiles(ctx context.Context, name string, which PackageSelector) ([]PackageFile, error) {
	return get[[]PackageFile](ctx, c, packagePath(name)+"/files", which.query())
}

// PackageArchive writes the tar of one version to w. When it fails, w may hold
// a part of the archive.
func (c *Client) PackageArchive(ctx context.Context, name string, which PackageSelector, w io.Writer) error {
	return c.do(ctx, call{
		method: http.MethodGet, path: packagePath(name) + "/archive", query: which.query(), copyTo: w,
		timeout: c.config.TransferTimeout,
	})
}

// Promote points a channel ("": live) at a version, named by its digest, by
// the first digits of it, or by a channel that points at it.
func (c *Client) Promote(ctx context.Context, name, digest, channel string) (task.Release, error) {
	return post[task.Release](ctx, c, packagePath(name)+"/promote", PromoteRequest{Digest: digest, Channel: channel})
}

// Rollback points a channel ("": live) at the version it had before.
func (c *Client) Rollback(ctx context.Context, name, channel string) (task.Release, error) {
	return post[task.Release](ctx, c, packagePath(name)+"/rollback", RollbackRequest{Channel: channel})
}

// DeletePackage removes one version, or, with an empty digest, the package.
func (c *Client) DeletePackage(ctx context.Context, name, digest string) error {
	query := url.Values{}
	setString(query, "digest", digest)
	return c.do(ctx, call{method: http.MethodDelete, path: packagePath(name), query: query})
}

func packagePath(name string) string { return "/packages/" + escape(name) }

func (s PackageSelector) query() url.Values {
	query := url.Values{}
	setString(query, "channel", s.Channel)
	setString(query, "digest", s.Digest)
	return query
}
