package pkgstore

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"

	"github.com/catena-run/catena/task"
)

// Version is what a worker executes of a package. It is immutable and safe
// for concurrent use.
type Version struct {
	Name     string
	Digest   string
	Manifest *Manifest
	Modules  map[string]Module // by path without extension, such as "lib/money"
}

// Module is one module with all that it imports, except "catena", as one
// script: the body of a CommonJS module, which finds exports, require and
// module in its scope. Its source map (version 3) is kept apart and names the
// author's files; in those of other packages the name is pkg:NAME@VERSION/FILE.
type Module struct {
	Code      string `json:"code"`
	SourceMap string `json:"map"`
}

// size is what the version weighs in a cache.
func (v *Version) size() int64 {
	total := int64(1024)
	for name, m := range v.Modules {
		total += int64(len(name)+len(m.Code)+len(m.SourceMap)) + 128
	}
	return total
}

func encodeModules(modules map[string]Module) ([]byte, error) {
	return compress(func(w io.Writer) error { return json.NewEncoder(w).Encode(modules) })
}

func decodeModules(data []byte) (map[string]Module, error) {
	var modules map[string]Module
	zipped, err := gzip.NewReader(bytes.NewReader(data))
	if err == nil {
		err = json.NewDecoder(zipped).Decode(&modules)
	}
	if err != nil {
		return nil, task.Errorf(task.CodeInternal, "the stored modules are damaged: %w", err).Fix("restore package_versions from a backup")
	}
	return modules, nil
}
