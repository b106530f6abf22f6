package pkgstore

import (
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/catena-run/catena/task"
)

// cleanPath checks a path as it came from a folder or an archive and returns
// its canonical form: slashes, no ".", relative. The root itself is "".
func cleanPath(raw string) (string, error) {
	refuse := func(why string) (string, error) {
		return "", task.Errorf(task.CodeInvalid, "path %s", why).At(quotePath(raw)).Fix("rename the file")
	}
	switch {
	case raw == "":
		return refuse("is empty")
	case !utf8.ValidString(raw):
		return refuse("is not valid UTF-8")
	case strings.HasPrefix(raw, "/"):
		return refuse("is absolute")
	}
	for _, r := range raw {
		if unicode.IsControl(r) {
			return refuse("has a control character")
		}
		if strings.ContainsRune(`\:*?"<>|`, r) {
			return refuse("has the character " + string(r))
		}
	}
	for element := range strings.SplitSeq(raw, "/") {
		if element == ".." {
			return refuse(`has a ".."`)
		}
		if element != "." && element != strings.TrimRight(element, ". ") {
			return refuse("has a part that ends with a dot or a space")
		}
	}
	clean := path.Clean(raw)
	if len(clean) > maxPath {
		return "", task.Errorf(task.CodeInvalid, "path has %d bytes; %d are the most", len(clean), maxPath).At(quotePath(raw)).Fix("rename the file")
	}
	if clean == "." {
		return "", nil
	}
	return clean, nil
}

// quotePath shortens a path and shows what is not printable in it.
func quotePath(p string) string {
	const most = 300
	if len(p) > most {
		p = p[:most] + "..."
	}
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, p)
	if clean == "" {
		return `""`
	}
	return clean
}

// skipped reports whether a clean path is left out of packages.
func skipped(clean string) bool {
	for element := range strings.SplitSeq(clean, "/") {
		if strings.HasPrefix(element, ".") || element == "node_modules" {
			return true
		}
	}
	return false
}

// tree refuses files that could not live side by side in a folder on every
// system: the same path twice, paths that differ only in case, and a file
// where another path needs a folder.
type tree struct {
	nodes map[string]node // by folded path
}

type node struct {
	path string
	file bool
}

func newTree() *tree { return &tree{nodes: map[string]node{}} }

func (t *tree) add(clean string) error {
	for i, r := range clean {
		if r == '/' {
			if err := t.place(clean[:i], false); err != nil {
				return err
			}
		}
	}
	return t.place(clean, true)
}

func (t *tree) place(p string, file bool) error {
	folded := fold(p)
	other, there := t.nodes[folded]
	switch {
	case !there:
		t.nodes[folded] = node{p, file}
		return nil
	case other.path != p:
		return task.Errorf(task.CodeInvalid, "path differs from %s only in case", quotePath(other.path)).At(quotePath(p)).
			Fix("rename one of them: they would be one file on some systems")
	case file && other.file:
		return task.Errorf(task.CodeInvalid, "the file is there twice").At(quotePath(p)).Fix("pack it once")
	case file != other.file:
		return task.Errorf(task.CodeInvalid, "path is both a file and a folder").At(quotePath(p)).Fix("rename one of them")
	}
	return nil
}

// fold maps what a file system that ignores case, or composes accents, takes
// for the same name to the same text.
func fold(p string) string {
	return norm.NFC.String(strings.ToLower(strings.ToUpper(norm.NFC.String(p))))
}
