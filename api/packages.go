package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"github.com/catena-run/catena/auth"
	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
	"github.com/danielgtaylor/huma/v2"
)

// Packages is the package store.
type Packages interface {
	PackageReader
	Push(ctx context.Context, content *pkgstore.Content, channel, by string) (pkgstore.PushResult, error)
	Promote(ctx context.Context, name, version, channel, by string) (task.Release, error)
	Rollback(ctx context.Context, name, channel, by string) (task.Release, error)
	Delete(ctx context.Context, name, version, by string) error
}

// PackageReader is the reading part of Packages.
type PackageReader interface {
	List(ctx context.Context) ([]task.PackageVersion, error)
	Versions(ctx context.Context, name string) ([]task.PackageVersion, error)
	Releases(ctx context.Context, name string) ([]task.Release, error)
	Show(ctx context.Context, name string, which pkgstore.Selector) (task.PackageVersion, *pkgstore.Manifest, error)
	Archive(ctx context.Context, name string, which pkgstore.Selector) (*pkgstore.Content, error)
}

var _ Packages = (*pkgstore.Store)(nil)

type packageInput struct {
	Name string `path:"name" doc:"Name of the package, escaped: / is %2F" maxLength:"600"`
}

type versionInput struct {
	Name    string `path:"name" doc:"Name of the package, escaped: / is %2F" maxLength:"600"`
	Channel string `query:"channel" doc:"The version that this channel points at; absent: live"`
	Digest  string `query:"digest" doc:"The version with this digest, or the first digits of it; it goes before channel"`
}

func (in versionInput) selector() pkgstore.Selector {
	return pkgstore.Selector{Channel: in.Channel, Digest: in.Digest}
}

type promoteInput struct {
	Name string `path:"name" doc:"Name of the package, escaped: / is %2F" maxLength:"600"`
	Body client.PromoteRequest
}

type rollbackInput struct {
	Name string `path:"name" doc:"Name of the package, escaped: / is %2F" maxLength:"600"`
	Body *client.RollbackRequest
}

type deletePackageInput struct {
	Name   string `path:"name" doc:"Name of the package, escaped: / is %2F" maxLength:"600"`
	Digest string `query:"digest" doc:"Only the version with this digest; absent: the package"`
}

// pushInput takes the body as a stream: the framework would hold all of it.
type pushInput struct {
	Channel string `query:"channel" doc:"Channel to point at the version; absent: live"`
	archive io.Reader
}

// Resolve is called by the framework with the request.
func (in *pushInput) Resolve(ctx huma.Context) []error {
	in.archive = ctx.BodyReader()
	return nil
}

func (s *service) packageRoutes() {
	const tag = "packages"
	push := operation{action: auth.PushPackage, method: http.MethodPost, path: "/packages", summary: "Store a package and point a channel at it",
		tag: tag, limit: s.config.Package.MaxArchive(), timeout: s.config.PushTimeout, body: s.config.PushTimeout, changes: true, takes: "application/x-tar"}
	handle(s, push, s.pushPackage)
	handle(s, operation{action: auth.ListPackages, method: http.MethodGet, path: "/packages", summary: "List the live version of every package", tag: tag}, s.listPackages)
	handle(s, operation{action: auth.GetPackage, method: http.MethodGet, path: "/packages/{name}", summary: "Show a version and its manifest", tag: tag}, s.getPackage)
	handle(s, operation{action: auth.ListVersions, method: http.MethodGet, path: "/packages/{name}/versions", summary: "List the versions of a package", tag: tag}, s.listVersions)
	handle(s, operation{action: auth.ListReleases, method: http.MethodGet, path: "/packages/{name}/releases", summary: "List the changes of a package's channels", tag: tag}, s.listReleases)
	handle(s, operation{action: auth.ListFiles, method: http.MethodGet, path: "/packages/{name}/files", summary: "List the files of a version", tag: tag}, s.listFiles)
	handle(s, operation{action: auth.GetArchive, method: http.MethodGet, path: "/packages/{name}/archive", summary: "Fetch a version as a tar",
		tag: tag, timeout: s.config.PushTimeout, gives: "application/x-tar"}, s.getArchive)
	handle(s, operation{action: auth.PromotePackage, method: http.MethodPost, path: "/packages/{name}/promote", summary: "Point a channel at a version",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.promotePackage)
	handle(s, operation{action: auth.RollbackPackage, method: http.MethodPost, path: "/packages/{name}/rollback", summary: "Point a channel at the version it had before",
		tag: tag, limit: s.config.MaxBody, changes: true}, s.rollbackPackage)
	handle(s, operation{action: auth.DeletePackage, method: http.MethodDelete, path: "/packages/{name}", summary: "Delete a version, or a package",
		tag: tag, changes: true}, s.deletePackage)
}

func (s *service) pushPackage(ctx context.Context, in *pushInput) (*body[client.PushResult], error) {
	scope := scopeOf(ctx)
	limited := http.MaxBytesReader(scope.writer, io.NopCloser(in.archive), s.config.Package.MaxArchive())
	content, err := pkgstore.ReadArchive(limited, s.config.Package)
	if err != nil {
		// A sender that is cut off while it writes sees a broken connection instead of the answer.
		_, _ = io.Copy(io.Discard, limited)
		return nil, err
	}
	scope.bodyRead()
	pushed, err := s.deps.Packages.Push(ctx, content, in.Channel, scope.token.Name)
	if err != nil {
		return nil, err
	}
	note(ctx, pushed.Name, pushed)
	return answer(client.PushResult{
		Name: pushed.Name, Digest: pushed.Digest, Version: pkgstore.Short(pushed.Digest), Created: pushed.Created,
		Channel: pushed.Channel, Release: pushed.Release,
	}, nil)
}

func (s *service) listPackages(ctx context.Context, _ *nothing) (*body[[]task.PackageVersion], error) {
	return list(s.deps.Packages.List(ctx))
}

func (s *service) getPackage(ctx context.Context, in *versionInput) (*body[client.Package], error) {
	version, manifest, err := s.deps.Packages.Show(ctx, in.Name, in.selector())
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(manifest)
	return answer(client.Package{PackageVersion: version, Manifest: text}, err)
}

func (s *service) listVersions(ctx context.Context, in *packageInput) (*body[[]task.PackageVersion], error) {
	return list(s.deps.Packages.Versions(ctx, in.Name))
}

func (s *service) listReleases(ctx context.Context, in *packageInput) (*body[[]task.Release], error) {
	return list(s.deps.Packages.Releases(ctx, in.Name))
}

func (s *service) listFiles(ctx context.Context, in *versionInput) (*body[[]client.PackageFile], error) {
	content, err := s.deps.Packages.Archive(ctx, in.Name, in.selector())
	if err != nil {
		return nil, err
	}
	var files []client.PackageFile
	for _, f := range content.Files() {
		files = append(files, client.PackageFile{Path: f.Path, Size: f.Size, Digest: f.Digest})
	}
	return list(files, nil)
}

type archiveOutput struct {
	Body func(huma.Context)
}

func (s *service) getArchive(ctx context.Context, in *versionInput) (*archiveOutput, error) {
	content, err := s.deps.Packages.Archive(ctx, in.Name, in.selector())
	if err != nil {
		return nil, err
	}
	return &archiveOutput{Body: func(out huma.Context) {
		out.SetHeader("Content-Type", "application/x-tar")
		out.SetStatus(http.StatusOK)
		if err := content.WriteArchive(out.BodyWriter()); err != nil {
			s.log.WithError(err).WithField("request", scopeOf(ctx).id).Debug("An archive was not sent to its end")
			panic(http.ErrAbortHandler) // so that the caller does not take a part for the whole
		}
	}}, nil
}

func (s *service) promotePackage(ctx context.Context, in *promoteInput) (*body[task.Release], error) {
	note(ctx, in.Name, in.Body)
	return answer(s.deps.Packages.Promote(ctx, in.Name, in.Body.Digest, in.Body.Channel, scopeOf(ctx).token.Name))
}

func (s *service) rollbackPackage(ctx context.Context, in *rollbackInput) (*body[task.Release], error) {
	var request client.RollbackRequest
	if in.Body != nil {
		request = *in.Body
	}
	note(ctx, in.Name, request)
	return answer(s.deps.Packages.Rollback(ctx, in.Name, request.Channel, scopeOf(ctx).token.Name))
}

func (s *service) deletePackage(ctx context.Context, in *deletePackageInput) (*nothing, error) {
	note(ctx, in.Name, map[string]any{"digest": in.Digest})
	return nil, s.deps.Packages.Delete(ctx, in.Name, in.Digest, scopeOf(ctx).token.Name)
}

// binary is the schema of a body that is not JSON.
func binary(kind string) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{kind: {Schema: &huma.Schema{Type: "string", Format: "binary"}}}
}
