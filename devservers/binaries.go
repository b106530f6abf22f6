package devservers

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/catena-run/catena/task"
)

const minPostgres = 14

// installation is one PostgreSQL on this machine.
type installation struct {
	bin   string // the folder of its programs
	major int
}

func (i installation) program(name string) string { return filepath.Join(i.bin, name) }

// findPostgres returns the installation to use for dataDir.
func findPostgres(dataDir string) (installation, error) {
	return choose(installations(programFolders()), dataDir)
}

// choose takes the first, the one in PATH or else the newest; when dataDir
// already has data, the one of the same major version.
func choose(found []installation, dataDir string) (installation, error) {
	if len(found) == 0 {
		return installation{}, task.Errorf(task.CodeUnavailable, "PostgreSQL %d or newer is not installed (looked for postgres and initdb in PATH and /usr/lib/postgresql)", minPostgres).
			Fix("install it with `apt-get install -y postgresql`, or set CATENA_POSTGRES_URL to use a running server")
	}
	raw, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if err != nil {
		return found[0], nil
	}
	made := strings.TrimSpace(string(raw))
	for _, inst := range found {
		if strconv.Itoa(inst.major) == made {
			return inst, nil
		}
	}
	return installation{}, task.Errorf(task.CodeUnavailable, "the data was made by PostgreSQL %s; this machine has %d", made, found[0].major).
		At(dataDir).Fix("install it with `apt-get install -y postgresql-%s`, or choose another data folder", made)
}

// programFolders lists the folders that may hold PostgreSQL's programs, the
// preferred first.
func programFolders() []string {
	var dirs []string
	for _, name := range []string{"postgres", "initdb"} {
		if path, err := exec.LookPath(name); err == nil {
			// A link in PATH: initdb stands beside its target.
			if real, err := filepath.EvalSymlinks(path); err == nil {
				path = real
			}
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	var rest []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin"} {
		matches, _ := filepath.Glob(pattern)
		rest = append(rest, matches...)
	}
	slices.SortStableFunc(rest, func(a, b string) int { return numberIn(b) - numberIn(a) })
	return append(dirs, rest...)
}

var digits = regexp.MustCompile(`\d+`)

func numberIn(path string) int {
	n, _ := strconv.Atoi(digits.FindString(path))
	return n
}

// installations keeps the folders that hold a complete, supported server.
func installations(dirs []string) []installation {
	var found []installation
	for _, dir := range dirs {
		inst := installation{bin: dir}
		if slices.ContainsFunc(found, func(o installation) bool { return o.bin == dir }) {
			continue
		}
		if _, err := os.Stat(inst.program("initdb")); err != nil {
			continue
		}
		out, err := exec.Command(inst.program("postgres"), "--version").Output()
		if err != nil {
			continue
		}
		if inst.major = numberIn(string(out)); inst.major >= minPostgres {
			found = append(found, inst)
		}
	}
	return found
}
