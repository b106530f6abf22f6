package chain

import (
	"errors"
	"fmt"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/conf"
	exprfile "github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"
)

// Bounds of one expression.
const (
	maxExprBytes = 16 << 10  // its text: also bounds the depth of its parser
	maxExprNodes = 2_000     // of its syntax tree
	maxExprCost  = 4_000_000 // elements, bytes and rounds of one evaluation
)

// uses says which of the names an expression reads, so that only those are
// decoded for it.
type uses uint8

const (
	useParams uses = 1 << iota
	useVars
	useOutcome
	useSteps
	useRun
)

var roots = map[string]uses{"params": useParams, "vars": useVars, "outcome": useOutcome, "steps": useSteps, "run": useRun}

// program is a compiled expression; it is immutable.
type program struct {
	text  string
	code  *vm.Program
	uses  uses
	steps []string // names that it reads as steps.<name>
	reads []read   // members of the roots
	plain bool     // only follows members, so that its result is already a JSON value
}

// compile compiles text; names are the identifiers that exist beside the roots
// (an each's variables, error). The returned error is an *exprfile.Error with
// the position in text where that is known.
func compile(text string, names []string) (_ *program, err error) {
	defer func() { // the compiler panics on what it did not foresee
		if r := recover(); r != nil {
			err = fmt.Errorf("the expression cannot be compiled: %v", r)
		}
	}()
	if len(text) > maxExprBytes {
		return nil, fmt.Errorf("the expression is longer than %d KiB", maxExprBytes>>10)
	}
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("the expression is empty")
	}
	guard := &guard{program: &program{text: text, plain: true}}
	options := append([]expr.Option{
		environment(names), expr.MaxNodes(maxExprNodes), expr.Patch(guard),
	}, guards()...)
	code, err := expr.Compile(text, options...)
	if err != nil {
		return nil, err
	}
	if guard.err != nil {
		return nil, guard.err
	}
	guard.program.code = code
	return guard.program, nil
}

// environment declares the names: any other is an error when compiling.
func environment(names []string) expr.Option {
	declared := make(map[string]any, len(roots)+len(names)+1)
	for name := range roots {
		declared[name] = 0
	}
	for _, name := range names {
		declared[name] = 0
	}
	declared[budgetName] = 0
	return func(c *conf.Config) {
		c.WithEnv(declared)
		for name := range declared {
			c.Env.Fields[name] = types.Any.Nature()
		}
	}
}

// run evaluates p for a thread.
func (p *program) run(th *thread) (any, error) {
	env, err := th.scope.environment(th.run, p.uses)
	if err != nil {
		return nil, err
	}
	th.budget.left = maxExprCost
	env[budgetName] = &th.budget
	th.vm.MemoryBudget = maxExprCost
	value, err := th.vm.Run(p.code, env)
	if err != nil {
		return nil, p.explain(th.scope, err)
	}
	if p.plain {
		return value, nil
	}
	left := maxNodes
	if value, err = normalize(value, &left); err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	return value, nil
}

// explain names the missing step when there is one, since "cannot fetch data
// from <nil>" helps nobody.
func (p *program) explain(s *scope, err error) error {
	for _, name := range p.steps {
		if _, there := s.steps[name]; !there {
			return fmt.Errorf("%s: no step named %q has run before this item", p, name)
		}
	}
	message := err.Error()
	var at *exprfile.Error
	if errors.As(err, &at) {
		message = at.Message
	}
	message = strings.ReplaceAll(message, "<nil>", "null")
	return fmt.Errorf("%s: %s", p, message)
}

func (p *program) String() string {
	return "${" + shorten(strings.TrimSpace(p.text), maxItemText) + "}"
}
