package pkgstore

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/catena-run/catena/task"
)

// digestVersion begins what a digest is computed over.
const digestVersion = "catena-package-v1\n"

const digestPrefix = "sha256:"

// Content is the canonical content of a package: its files by path. It is
// immutable.
type Content struct {
	files  []contentFile // sorted by path
	size   int64
	digest string
}

type contentFile struct {
	path string
	data []byte
}

// FileInfo describes one file of a version.
type FileInfo struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Digest string `json:"digest"` // of its bytes
}

// Digest names the content: "sha256:" and 64 hex digits.
func (c *Content) Digest() string { return c.digest }

// Size is the number of bytes of all files.
func (c *Content) Size() int64 { return c.size }

// Files describes the files, sorted by path.
func (c *Content) Files() []FileInfo {
	infos := make([]FileInfo, len(c.files))
	for i, f := range c.files {
		sum := sha256.Sum256(f.data)
		infos[i] = FileInfo{Path: f.path, Size: int64(len(f.data)), Digest: digestPrefix + hex.EncodeToString(sum[:])}
	}
	return infos
}

// File returns the bytes of one file, which the caller must not change.
func (c *Content) File(path string) ([]byte, bool) {
	i, ok := slices.BinarySearchFunc(c.files, path, func(f contentFile, p string) int { return cmp.Compare(f.path, p) })
	if !ok {
		return nil, false
	}
	return c.files[i].data, true
}

// builder collects the files of a Content within limits. It sees a file's
// path and size before its bytes are read.
type builder struct {
	limits  Limits
	tree    *tree
	content Content
}

func newBuilder(limits Limits) *builder {
	return &builder{limits: limits.WithDefaults(), tree: newTree()}
}

// admit checks whether a file may still be added.
func (b *builder) admit(path string, size int64) error {
	if err := b.tree.add(path); err != nil {
		return err
	}
	if len(b.content.files) >= b.limits.MaxFiles {
		return task.Errorf(task.CodeTooLarge, "the package has more than %d files", b.limits.MaxFiles).At(quotePath(path)).
			Fix("leave out what the code does not need")
	}
	if total := b.content.size + size; size < 0 || total > b.limits.MaxSize {
		return tooLarge(path, total, b.limits.MaxSize)
	}
	return nil
}

func tooLarge(path string, total, limit int64) error {
	return task.Errorf(task.CodeTooLarge, "the package has at least %d bytes with this file; the limit is %d", total, limit).
		At(quotePath(path)).Fix("leave out what the code does not need")
}

func (b *builder) add(path string, data []byte) {
	b.content.files = append(b.content.files, contentFile{path, data})
	b.content.size += int64(len(data))
}

func (b *builder) finish() (*Content, error) {
	c := b.content
	slices.SortFunc(c.files, func(a, b contentFile) int { return strings.Compare(a.path, b.path) })
	if _, ok := c.File(ManifestFile); !ok {
		return nil, task.Errorf(task.CodeInvalid, "the package has no %s", ManifestFile).At(ManifestFile).
			Fix("push the folder that has %s at its top, or write one with at least a name", ManifestFile)
	}
	c.digest = c.sum()
	return &c, nil
}

// checkText refuses files that are not text, which code could not read anyway.
func (c *Content) checkText() error {
	for _, f := range c.files {
		if !utf8.Valid(f.data) || bytes.IndexByte(f.data, 0) >= 0 {
			return task.Errorf(task.CodeInvalid, "the file is not text").At(quotePath(f.path)).
				Fix("a package holds text only: leave the file out, or write it as text, such as base64 in a .json file")
		}
	}
	return nil
}

// sum hashes the format's version and, for each file, the length of its path,
// the path, its size and its bytes. Lengths are 8 bytes, big-endian.
func (c *Content) sum() string {
	h := sha256.New()
	_, _ = io.WriteString(h, digestVersion) // a hash never fails
	var length [8]byte
	for _, f := range c.files {
		for _, part := range [2][]byte{[]byte(f.path), f.data} {
			binary.BigEndian.PutUint64(length[:], uint64(len(part)))
			_, _ = h.Write(length[:])
			_, _ = h.Write(part)
		}
	}
	return digestPrefix + hex.EncodeToString(h.Sum(nil))
}

// Short returns the first twelve digits of a digest, which people call the version.
func Short(digest string) string {
	hexed := strings.TrimPrefix(digest, digestPrefix)
	return hexed[:min(12, len(hexed))]
}
