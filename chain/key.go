package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/vm"

	"github.com/catena-run/catena/task"
)

// Key is the compiled expression of a limit's or a dedupe's key: text with
// ${...} over params. It is immutable and safe for concurrent use.
type Key struct {
	field string // such as concurrency.key, for errors
	parts []part
}

// ParseKey compiles text; field says where it stands. An expression that
// reads no params is evaluated at once, so that it fails here and not with each run.
func ParseKey(field, text string) (*Key, error) {
	p := &parser{file: file(field), programs: map[string]*program{}}
	t, err := p.textTemplate(&source{kind: kindText, text: text, line: 1, col: 1, inset: -1})
	if err != nil {
		return nil, atField(field, err)
	}
	if other := p.uses &^ useParams; other != 0 {
		return nil, task.Errorf(task.CodeInvalid, "a key can read only params").At(field).Fix(`write an expression such as "${params.customer}"`)
	}
	k := &Key{field: field, parts: t.parts}
	switch {
	case t.program != nil:
		k.parts = []part{{program: t.program}}
	case t.raw != nil:
		k.parts = []part{{text: t.value.(string)}}
	}
	if p.uses == 0 {
		if _, err := k.Eval(nil); err != nil {
			message, _ := strings.CutPrefix(err.(*task.Error).Message, field+": ") //nolint:errorlint,forcetypeassert // Eval makes it
			return nil, task.Errorf(task.CodeInvalid, "%s", message).At(field).Fix(`write an expression over params such as "${params.customer}"`)
		}
	}
	return k, nil
}

// atField keeps of an error its sentence and what to do.
func atField(field string, err error) error {
	var e *task.Error
	if !errors.As(err, &e) {
		return task.Errorf(task.CodeInvalid, "%w", err).At(field)
	}
	return e.At(field)
}

// Params are a task's params, decoded, below those of a run.
func Params(base map[string]any, own json.RawMessage) (map[string]any, error) {
	value, err := decode(own)
	if err != nil {
		return nil, err
	}
	object, ok := value.(map[string]any)
	switch {
	case value == nil:
		return base, nil
	case !ok:
		return nil, errors.New("params are not an object")
	case len(base) == 0:
		return object, nil
	}
	merged := make(map[string]any, len(base)+len(object))
	maps.Copy(merged, base)
	maps.Copy(merged, object)
	return merged, nil
}

// Eval returns the key for the given params, which it does not change.
func (k *Key) Eval(params map[string]any) (string, error) {
	var b strings.Builder
	for _, p := range k.parts {
		b.WriteString(p.text)
		if p.program == nil {
			continue
		}
		text, err := p.program.key(params)
		if err != nil {
			return "", task.Errorf(task.CodeInvalid, "%s: %s", k.field, err).At("params").
				Fix("give the params that the key of the task reads, or correct %s", k.field)
		}
		b.WriteString(text)
	}
	key := b.String()
	if err := checkKey(key); err != nil {
		return "", task.Errorf(task.CodeInvalid, "%s gives %q: %s", k.field, shorten(key, maxItemText), err).At("params").
			Fix("a key is a text of 1 to %d characters", task.MaxLimitKey)
	}
	return key, nil
}

func checkKey(key string) error {
	switch n := utf8.RuneCountInString(key); {
	case n == 0:
		return errors.New("it is empty")
	case n > task.MaxLimitKey:
		return fmt.Errorf("it has %d characters", n)
	case !utf8.ValidString(key):
		return errors.New("it is not valid UTF-8")
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("it has control characters")
	}
	return nil
}

// key evaluates one ${...} of a key.
func (p *program) key(params map[string]any) (string, error) {
	machine := vm.VM{MemoryBudget: maxExprCost}
	if params == nil {
		params = map[string]any{}
	}
	value, err := machine.Run(p.code, map[string]any{"params": params, budgetName: &budget{left: maxExprCost}})
	if err != nil {
		return "", p.explain(newScope(), err)
	}
	if !p.plain {
		left := maxNodes
		if value, err = normalize(value, &left); err != nil {
			return "", fmt.Errorf("%s: %w", p, err)
		}
	}
	switch v := value.(type) {
	case string:
		return v, nil
	case bool, int, float64, json.Number:
		return textOf(v)
	case nil:
		return "", fmt.Errorf("%s is null", p)
	case []any:
		return "", fmt.Errorf("%s is a list, not a text or a number", p)
	}
	return "", fmt.Errorf("%s is an object, not a text or a number", p)
}

// CheckKeys compiles the keys of a definition's limits.
func CheckKeys(d task.Definition) error {
	for _, one := range d.Limits().Keys() {
		if _, err := ParseKey(one.Field, one.Text); err != nil {
			return err
		}
	}
	return nil
}
