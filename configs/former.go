package configs

import (
	"strconv"
	"strings"
)

// former is a name that operators know from other clustered servers, for a
// setting that has another one here.
type former struct {
	old, path string
	kind      Kind
	doc       string
	convert   func(raw any) (any, error)
}

// formerVerbose is a section of former names only.
const formerVerbose = "cluster.verbose"

// formers are accepted wherever keys are.
var formers = []former{
	{"cluster.healthCheckIntervalSeconds", "master.healthCheckInterval", KindNumber, "seconds", seconds},
	{"cluster.slaveMaxAllowedMemoryMB", "worker.maxMemory", KindNumber, "MiB", megabytes},
	{"cluster.slaveTTLSeconds", "worker.ttl", KindNumber, "seconds", seconds},
	{"cluster.verbose.healthCheck", "log.healthChecks", KindBool, "", same},
	{"cluster.verbose.masterSlaveMessages", "log.workerMessages", KindBool, "", same},
	{"cluster.verbose.restartSlave", "log.workerRestarts", KindBool, "", same},
}

func seconds(raw any) (any, error) {
	number, err := positive(raw, "a number of seconds")
	return strconv.FormatFloat(number, 'f', -1, 64) + "s", err
}

func megabytes(raw any) (any, error) {
	number, err := positive(raw, "a number of megabytes")
	return strconv.FormatFloat(number, 'f', -1, 64) + "MiB", err
}

func same(raw any) (any, error) { return raw, nil }

func positive(raw any, want string) (float64, error) {
	number, err := 0.0, error(nil)
	switch v := raw.(type) {
	case int:
		number = float64(v)
	case float64:
		number = v
	case string:
		number, err = strconv.ParseFloat(strings.TrimSpace(v), 64)
	default:
		err = strconv.ErrSyntax
	}
	if err != nil || number < 0 || number > 1e9 || number != number {
		return 0, mismatch(raw, want, "write digits, such as 400")
	}
	return number, nil
}

func formerOf(path string) (former, bool) {
	for _, f := range formers {
		if f.old == path {
			return f, true
		}
	}
	return former{}, false
}

// formerSection reports whether path holds former names and is no section of
// today's schema.
func formerSection(path string) bool {
	for _, f := range formers {
		if strings.HasPrefix(f.old, path+".") {
			return true
		}
	}
	return false
}

// formerIn shows the former names of a section as a mapping, "" for any other section.
func formerIn(path string) string {
	var names []string
	for _, f := range formers {
		if parent(f.old) == path && f.kind == KindBool {
			names = append(names, lastPart(f.old)+": true")
		}
	}
	if len(names) == 0 {
		return ""
	}
	return lastPart(path) + ": {" + strings.Join(names, ", ") + "}"
}

func firstFormerIn(path string) string {
	for _, f := range formers {
		if parent(f.old) == path {
			return f.old
		}
	}
	return path
}

// formerPaths lists the former names and the sections that hold nothing else.
func formerPaths() []string {
	var paths []string
	for _, f := range formers {
		paths = append(paths, f.old)
	}
	return append(paths, formerVerbose)
}

// translate gives the keys of today the values that were given under former
// names, and lists these in one notice. A setting under both names is refused.
func (l *loader) translate() (values map[string]any, notice string) {
	values = map[string]any{}
	var names []string
	for _, f := range formers {
		raw := l.k.Get(f.old)
		if raw == nil {
			continue
		}
		origin := l.origins[f.old]
		if today := l.origins[f.path]; today != "" {
			l.problem(origin, "keep "+f.path, "%s and %s (%s) are two names of one setting", f.old, f.path, today)
			continue
		}
		value, err := f.convert(raw)
		if err != nil {
			key := Key{Path: f.old}
			l.problems = append(l.problems, l.place(key, err))
			continue
		}
		values[f.path] = value
		l.origins[f.path], l.former[f.path] = origin, f.old
		names = append(names, f.old+" is "+f.path)
	}
	if len(names) == 0 {
		return values, ""
	}
	return values, "these settings have other names here, and both are accepted: " + strings.Join(names, ", ")
}

// LoadNoting is Load that also tells, in one notice, of settings under former
// names; "" when there are none.
func LoadNoting(src Source) (c Config, notice string, err error) { return load(src) }

// schema describes a former name for editors.
func (f former) schema() map[string]any {
	s := map[string]any{"description": "A former name of " + f.path + ".", "deprecated": true, "type": "boolean"}
	if f.kind == KindNumber {
		s["type"] = "number"
		s["description"] = "A former name of " + f.path + ", in " + f.doc + "."
	}
	return s
}
