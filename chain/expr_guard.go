package chain

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/vm/runtime"
)

// An expression must not be able to use up the worker. The language has no
// unbounded loop, but nested predicates, growing texts and shared lists reach
// any cost; the virtual machine counts only some of that. So the compiled tree
// is patched: whatever can grow or repeat is charged to a budget that the
// environment carries under a name that no expression can spell.

const budgetName = "\x00budget"

type budget struct{ left int }

var errCost = errors.New("the expression does too much work")

func (b *budget) charge(n int) error {
	if b.left -= n; b.left < 0 {
		return errCost
	}
	return nil
}

// guard collects what an expression reads and patches what can be costly.
type guard struct {
	program *program
	err     error
}

// Visit is called for every node, children first.
func (g *guard) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		g.identifier(n)
		return
	case *ast.MemberNode:
		g.member(n)
		return
	case *ast.StringNode, *ast.IntegerNode, *ast.ChainNode, *ast.NilNode, *ast.BoolNode:
		return
	case *ast.BinaryNode:
		g.binary(node, n)
	case *ast.PredicateNode:
		n.Node = guarded("tick", n.Node)
	case *ast.ArrayNode, *ast.MapNode:
		ast.Patch(node, guarded("size", *node))
	case *ast.BuiltinNode:
		g.builtin(node, n)
	}
	g.program.plain = false
}

func (g *guard) identifier(n *ast.IdentifierNode) {
	if n.Value == "$env" {
		g.err = errors.New("$env is not available")
	}
	g.program.uses |= roots[n.Value]
}

func (g *guard) member(n *ast.MemberNode) {
	if n.Method {
		g.program.plain = false
	}
	from, ok := n.Node.(*ast.IdentifierNode)
	name, text := n.Property.(*ast.StringNode)
	if !ok || !text || n.Optional {
		return
	}
	if from.Value == "steps" {
		g.program.steps = append(g.program.steps, name.Value)
	}
	if _, root := roots[from.Value]; root {
		g.program.reads = append(g.program.reads, read{root: from.Value, name: name.Value, node: n})
	}
}

func (g *guard) binary(node *ast.Node, n *ast.BinaryNode) {
	switch n.Operator {
	case "??":
		g.program.forget(n.Left)
	case "+":
		ast.Patch(node, guarded("add", n.Left, n.Right))
	case "==", "!=":
		if !scalar(n.Left) && !scalar(n.Right) {
			n.Left = guarded("size", n.Left)
		}
	case "in":
		if _, constant := n.Right.(*ast.ConstantNode); !constant {
			n.Right = guarded("length", n.Right)
		}
	case "matches", "contains", "startsWith", "endsWith":
		n.Left = guarded("length", n.Left)
	}
}

func scalar(node ast.Node) bool {
	switch node.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NilNode:
		return true
	}
	return false
}

// cheap functions cost the same whatever they are given.
var cheap = map[string]bool{
	"len": true, "type": true, "abs": true, "ceil": true, "floor": true, "round": true, "int": true, "float": true,
	"now": true, "duration": true, "date": true, "timezone": true, "get": true, "first": true, "last": true,
	"bitand": true, "bitor": true, "bitxor": true, "bitnand": true, "bitnot": true, "bitshl": true, "bitshr": true, "bitushr": true,
}

func (g *guard) builtin(node *ast.Node, n *ast.BuiltinNode) {
	if cheap[n.Name] {
		return
	}
	if _, own := growing[n.Name]; own {
		ast.Patch(node, guarded(n.Name, n.Arguments...))
		return
	}
	for i, arg := range n.Arguments {
		if _, predicate := arg.(*ast.PredicateNode); !predicate {
			n.Arguments[i] = guarded("size", arg)
		}
	}
}

// guarded makes a call of one of guards, with the budget as first argument.
func guarded(name string, args ...ast.Node) ast.Node {
	all := append([]ast.Node{&ast.IdentifierNode{Value: budgetName}}, args...)
	call := &ast.CallNode{Callee: &ast.IdentifierNode{Value: "\x00" + name}, Arguments: all}
	if len(args) > 0 {
		call.SetLocation(args[0].Location())
	}
	return call
}

// guards are the functions that guarded calls.
func guards() []expr.Option {
	options := []expr.Option{
		guardOption("tick", func(b *budget, args []any) (any, error) { return args[0], b.charge(1 + measure(args[0], b.left)) }),
		guardOption("size", func(b *budget, args []any) (any, error) { return args[0], b.charge(measure(args[0], b.left)) }),
		guardOption("length", func(b *budget, args []any) (any, error) { return args[0], b.charge(length(args[0])) }),
		guardOption("add", add),
	}
	for name, grow := range growing {
		original := builtin.Builtins[builtin.Index[name]]
		options = append(options, guardOption(name, func(b *budget, args []any) (any, error) {
			cost, err := grow(b, args)
			if err == nil {
				err = b.charge(cost)
			}
			if err != nil {
				return nil, err
			}
			return call(original, args)
		}))
	}
	return options
}

func guardOption(name string, run func(b *budget, args []any) (any, error)) expr.Option {
	return expr.Function("\x00"+name, func(args ...any) (any, error) {
		return run(args[0].(*budget), args[1:])
	})
}

func call(f *builtin.Function, args []any) (any, error) {
	switch {
	case f.Safe != nil:
		value, _, err := f.Safe(args...)
		return value, err
	case f.Fast != nil:
		return f.Fast(args[0]), nil
	}
	return f.Func(args...)
}

func add(b *budget, args []any) (any, error) {
	left, text := args[0].(string)
	if right, ok := args[1].(string); text && ok {
		if err := b.charge(len(left) + len(right)); err != nil {
			return nil, err
		}
		return left + right, nil
	}
	return runtime.Add(args[0], args[1]), nil
}

// growing functions return more than they are given; each says how much.
var growing = map[string]func(b *budget, args []any) (int, error){
	"repeat": func(b *budget, args []any) (int, error) {
		if len(args) != 2 {
			return 0, errors.New("repeat takes a text and a number")
		}
		text, ok := args[0].(string)
		if !ok {
			return 0, fmt.Errorf("repeat takes a text, not %T", args[0])
		}
		n := runtime.ToInt(args[1])
		if len(text) > 0 && n > b.left/len(text) {
			return 0, errCost
		}
		return len(text) * max(n, 0), nil
	},
	"replace": func(b *budget, args []any) (int, error) {
		if len(args) != 3 && len(args) != 4 {
			return 0, errors.New("replace takes a text, what to replace and by what")
		}
		var texts [3]string
		for i := range texts {
			text, ok := args[i].(string)
			if !ok {
				return 0, fmt.Errorf("replace takes texts, not %T", args[i])
			}
			texts[i] = text
		}
		return len(texts[0]) + strings.Count(texts[0], texts[1])*len(texts[2]), nil
	},
	"join": func(b *budget, args []any) (int, error) {
		if len(args) != 1 && len(args) != 2 {
			return 0, errors.New("join takes a list and a text")
		}
		cost := measure(args[0], b.left)
		if len(args) == 2 {
			cost += length(args[0]) * length(args[1])
		}
		return cost, nil
	},
	"uniq": func(b *budget, args []any) (int, error) {
		if len(args) != 1 {
			return 0, errors.New("uniq takes a list")
		}
		n := length(args[0]) // it compares every pair
		return measure(args[0], b.left) + n*n/16, nil
	},
}

func length(value any) int {
	switch v := value.(type) {
	case string:
		return len(v)
	case []any:
		return len(v)
	case nil, bool, int, float64, map[string]any:
		return 0
	}
	if v := reflect.ValueOf(value); v.Kind() == reflect.Slice || v.Kind() == reflect.Array {
		return v.Len()
	}
	return 0
}

// measure counts elements and bytes of text in value, and gives up soon after
// limit, since shared parts are counted as often as they occur.
func measure(value any, limit int) int {
	switch v := value.(type) {
	case nil, bool, int, float64:
		return 1
	case string:
		return 1 + len(v)
	case []any:
		n := 1
		for i := 0; i < len(v) && n <= limit; i++ {
			n += measure(v[i], limit-n)
		}
		return n
	case map[string]any:
		n := 1
		for k, e := range v {
			if n += len(k) + measure(e, limit-n); n > limit {
				break
			}
		}
		return n
	}
	return 1 + measureKind(reflect.ValueOf(value), limit)
}

func measureKind(v reflect.Value, limit int) (n int) {
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		if k := v.Type().Elem().Kind(); k != reflect.Interface && k != reflect.Slice && k != reflect.Map && k != reflect.String {
			return v.Len()
		}
		for i := 0; i < v.Len() && n <= limit; i++ {
			n += measure(v.Index(i).Interface(), limit-n)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next() && n <= limit; {
			n += 1 + measure(it.Value().Interface(), limit-n)
		}
	}
	return n
}
