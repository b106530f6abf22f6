package pkgstore

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/catena-run/catena/task"
)

// ReadDir reads a package from a folder. It makes every check that the server
// makes, so that a bad package is refused before it is sent.
func ReadDir(dir string, limits Limits) (*Content, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, noFolder(dir, err)
	}
	defer root.Close()
	paths, err := listFiles(root)
	if err != nil {
		return nil, err
	}
	b := newBuilder(limits)
	if err := checkTotal(root, paths, b.limits.MaxSize); err != nil {
		return nil, err
	}
	for _, p := range paths {
		if err := b.readFile(root, p); err != nil {
			return nil, err
		}
	}
	content, err := b.finish()
	if err == nil {
		err = content.checkText()
	}
	if err != nil {
		return nil, err
	}
	return content, nil
}

func noFolder(dir string, err error) error {
	code := task.CodeInvalid
	if errors.Is(err, fs.ErrNotExist) {
		code = task.CodeNotFound
	}
	return task.Errorf(code, "cannot read the package folder: %w", err).At(dir).Fix("name a folder that has a %s", ManifestFile)
}

// listFiles returns the paths of the files that belong to the package. What is
// neither file nor folder is an error.
func listFiles(root *os.Root) ([]string, error) {
	var paths []string
	err := fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return task.Errorf(task.CodeInvalid, "cannot read: %w", err).At(quotePath(name)).Fix("check the permissions of the file")
		}
		clean, err := cleanPath(filepath.ToSlash(name))
		switch {
		case skipped(path.Base(name)) && name != ".":
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case err != nil:
			return err
		case entry.IsDir():
			return nil
		case entry.Type()&fs.ModeSymlink != 0:
			return refuseLink(clean)
		case !entry.Type().IsRegular():
			return refuseDevice(clean)
		}
		paths = append(paths, clean)
		return nil
	})
	return paths, err
}

// checkTotal refuses a folder that is too large and says how large it is.
func checkTotal(root *os.Root, paths []string, limit int64) error {
	var total, largest int64
	var where string
	for _, p := range paths {
		info, err := root.Lstat(filepath.FromSlash(p))
		if err != nil {
			return task.Errorf(task.CodeInvalid, "cannot read: %w", err).At(quotePath(p)).Fix("check the permissions of the file")
		}
		total += info.Size()
		if info.Size() > largest {
			largest, where = info.Size(), p
		}
	}
	if total > limit {
		return task.Errorf(task.CodeTooLarge, "the package has %d bytes; the limit is %d; this is its largest file, %d bytes", total, limit, largest).
			At(quotePath(where)).Fix("leave out what the code does not need")
	}
	return nil
}

func (b *builder) readFile(root *os.Root, p string) error {
	fail := func(err error) error {
		return task.Errorf(task.CodeInvalid, "cannot read: %w", err).At(quotePath(p)).Fix("check the permissions of the file")
	}
	file, err := root.Open(filepath.FromSlash(p))
	if err != nil {
		return fail(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fail(err)
	}
	if !info.Mode().IsRegular() {
		return refuseDevice(p)
	}
	// The file may have grown since the list was made: read up to the limit, then ask.
	data, err := io.ReadAll(io.LimitReader(file, b.limits.MaxSize+1))
	if err != nil {
		return fail(err)
	}
	if err := b.admit(p, int64(len(data))); err != nil {
		return err
	}
	b.add(p, data)
	return nil
}

// WriteDir writes the files below dir, which is made if need be. A file that
// is there already is never overwritten.
func (c *Content) WriteDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return task.Errorf(task.CodeInvalid, "cannot make the folder: %w", err).At(dir).Fix("name a folder that you may write to")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return task.Errorf(task.CodeInvalid, "cannot open the folder: %w", err).At(dir).Fix("name a folder that you may write to")
	}
	defer root.Close()
	for _, f := range c.files {
		if err := writeFile(root, filepath.FromSlash(f.path), f.data); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(root *os.Root, name string, data []byte) error {
	where := filepath.Join(root.Name(), name)
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return task.Errorf(task.CodeInvalid, "cannot make its folder: %w", err).At(where).Fix("name an empty folder")
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return task.Errorf(task.CodeConflict, "the file is there already").At(where).Fix("name an empty folder")
	}
	if err == nil {
		_, err = file.Write(data)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return task.Errorf(task.CodeInvalid, "cannot write the file: %w", err).At(where).Fix("check the space and the permissions of the folder")
	}
	return nil
}
