package pkgstore

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"

	"github.com/catena-run/catena/task"
)

// ReadArchive reads a package from a tar, plain or compressed with gzip. It
// trusts nothing: every check of ReadDir is made again, and it stops reading
// where a limit is passed.
func ReadArchive(r io.Reader, limits Limits) (*Content, error) {
	limits = limits.WithDefaults()
	plain, err := decompress(r)
	if err != nil {
		return nil, err
	}
	bounded := &boundedReader{r: plain, left: limits.MaxArchive(), limit: limits.MaxArchive()}
	archive, b := tar.NewReader(bounded), newBuilder(limits)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return b.finish()
		}
		if err != nil {
			return nil, notArchive(err)
		}
		if err := b.readEntry(archive, header); err != nil {
			return nil, err
		}
	}
}

func (b *builder) readEntry(archive *tar.Reader, header *tar.Header) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	path, err := cleanPath(header.Name)
	if err != nil {
		return err
	}
	if path == "" || skipped(path) {
		return nil
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return nil
	case tar.TypeReg:
	case tar.TypeSymlink, tar.TypeLink:
		return refuseLink(path)
	default:
		return refuseDevice(path)
	}
	if err := b.admit(path, header.Size); err != nil {
		return err
	}
	// The buffer grows with what is really there: a header may lie about the size.
	var data bytes.Buffer
	if _, err := io.Copy(&data, io.LimitReader(archive, header.Size)); err != nil {
		return notArchive(err)
	}
	if int64(data.Len()) != header.Size {
		return task.Errorf(task.CodeInvalid, "the file is cut off at %d of %d bytes", data.Len(), header.Size).At(quotePath(path)).Fix("push again")
	}
	b.add(path, data.Bytes())
	return nil
}

func refuseLink(path string) error {
	return task.Errorf(task.CodeInvalid, "the file is a link").At(quotePath(path)).Fix("put the file itself into the package")
}

func refuseDevice(path string) error {
	return task.Errorf(task.CodeInvalid, "not a regular file").At(quotePath(path)).Fix("leave it out of the package")
}

// notArchive explains an error of the tar reader; one that already has a code stays.
func notArchive(err error) error {
	var coded *task.Error
	if errors.As(err, &coded) {
		return coded
	}
	return task.Errorf(task.CodeInvalid, "the package is not a readable tar archive: %w", err).Fix("push with `catena pkg push DIR`")
}

func decompress(r io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(r)
	magic, err := buffered.Peek(2)
	if err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return buffered, nil // too short or no gzip: the tar reader says what is wrong
	}
	zipped, err := gzip.NewReader(buffered)
	if err != nil {
		return nil, notArchive(err)
	}
	return zipped, nil
}

// boundedReader ends a stream that is longer than any allowed package with an error.
type boundedReader struct {
	r           io.Reader
	left, limit int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, task.Errorf(task.CodeTooLarge, "the archive has more than %d bytes, the most that a package can need", b.limit).
			Fix("leave out what the code does not need")
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// WriteArchive writes the content as a tar. The same content gives the same bytes.
func (c *Content) WriteArchive(w io.Writer) error {
	archive := tar.NewWriter(w)
	for _, f := range c.files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Size: int64(len(f.data)), Mode: 0o644, Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return task.Errorf(task.CodeInternal, "cannot write the archive: %w", err).At(quotePath(f.path))
		}
		if _, err := archive.Write(f.data); err != nil {
			return task.Errorf(task.CodeInternal, "cannot write the archive: %w", err).At(quotePath(f.path))
		}
	}
	return archive.Close()
}

// compress returns what write writes, compressed.
func compress(write func(io.Writer) error) ([]byte, error) {
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	if err := write(zipped); err != nil {
		return nil, err
	}
	if err := zipped.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
