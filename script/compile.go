package script

import (
	"encoding/json"
	"path"
	"strings"

	"github.com/dop251/goja"
	"github.com/dop251/goja/parser"
)

// The code of a module becomes the body of a function, so that its top-level
// names stay its own.
const (
	wrapperHead = "(function (exports, require, module) {"
	wrapperTail = "\n})"
	mapComment  = "\n//# sourceMappingURL=module.map"
)

// program is the compiled form of one module, shared by all its calls.
type program struct {
	code *goja.Program
	uses names // which globals the source mentions
}

// compile turns a module into a program whose positions are those of the
// author's files.
func compile(module, code, sourceMap string) (*program, error) {
	source, option := wrapperHead+code+wrapperTail, parser.WithDisableSourceMaps
	if aligned, ok := alignMap(sourceMap); ok {
		source = wrapperHead + "\n" + code + wrapperTail + mapComment
		option = parser.WithSourceMapLoader(func(string) ([]byte, error) { return aligned, nil })
	}
	tree, err := goja.Parse(fileName(module), source, option)
	if err != nil {
		return nil, err
	}
	compiled, err := goja.CompileAST(tree, false)
	if err != nil {
		return nil, err
	}
	return &program{code: compiled, uses: mentioned(code)}, nil
}

// fileName names the bundled code of a module. It has no folder, since goja
// takes the sources of a map as relative to the folder of the file.
func fileName(module string) string { return path.Base(module) + ".js" }

// alignMap rewrites a source map for the wrapped module, whose first line is
// the wrapper's. goja looks positions
// up with columns that count from 1 where source maps count from 0, and reports
// the source column as it stands in the map; the rewritten map makes both right.
func alignMap(sourceMap string) ([]byte, bool) {
	if sourceMap == "" {
		return nil, false
	}
	var fields map[string]any
	if json.Unmarshal([]byte(sourceMap), &fields) != nil {
		return nil, false
	}
	mappings, ok := fields["mappings"].(string)
	if !ok {
		return nil, false
	}
	delete(fields, "sourcesContent")
	fields["mappings"] = ";" + alignMappings(mappings)
	aligned, err := json.Marshal(fields)
	return aligned, err == nil
}

// alignMappings adds 1 to every generated and source column. Generated columns
// are deltas within a line, source columns deltas within the whole map, so the
// first segment of each line and the first with a source are all that change.
func alignMappings(mappings string) string {
	lines := strings.Split(mappings, ";")
	sourced := false
	for i, line := range lines {
		segments := strings.Split(line, ",")
		for j, segment := range segments {
			fields, ok := decodeVLQ(segment)
			if !ok || len(fields) == 0 {
				continue
			}
			if j == 0 {
				fields[0]++
			}
			if !sourced && len(fields) >= 4 {
				fields[3]++
				sourced = true
			}
			segments[j] = encodeVLQ(fields)
			if sourced {
				break
			}
		}
		lines[i] = strings.Join(segments, ",")
	}
	return strings.Join(lines, ";")
}

const base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// decodeVLQ reads the numbers of one segment of a source map: base 64 digits
// of five bits, low ones first, with a continuation bit and a trailing sign.
func decodeVLQ(segment string) ([]int, bool) {
	var fields []int
	value, shift := 0, 0
	for i := range len(segment) {
		digit := strings.IndexByte(base64Digits, segment[i])
		if digit < 0 || shift > 30 {
			return nil, false
		}
		value |= (digit & 31) << shift
		shift += 5
		if digit&32 != 0 {
			continue
		}
		if value&1 != 0 {
			value = -value
		}
		fields = append(fields, value/2)
		value, shift = 0, 0
	}
	return fields, shift == 0
}

func encodeVLQ(fields []int) string {
	var b strings.Builder
	for _, field := range fields {
		value := field << 1
		if field < 0 {
			value = -field<<1 | 1
		}
		for {
			digit := value & 31
			value >>= 5
			if value == 0 {
				b.WriteByte(base64Digits[digit])
				break
			}
			b.WriteByte(base64Digits[digit|32])
		}
	}
	return b.String()
}
