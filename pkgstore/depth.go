package pkgstore

import "strings"

// Parsers recurse, so code that is nested without end would exhaust the stack
// of the master that bundles it and of the workers that run it.
const (
	maxNesting = 1000   // brackets within brackets
	maxChained = 10_000 // operators in one expression, over all brackets around it
	arrowCost  = 20     // of an arrow function: arrows are tried twice, so they cost most
)

// tooDeep returns the line in which source passes a limit of nesting, or 0. It
// reads tokens only roughly: it is a guard against generated code and
// mistakes, not a proof.
func tooDeep(source string) int {
	s := depthScanner{source: source, line: 1}
	for s.at < len(source) {
		if s.step(); len(s.levels) > maxNesting || s.sum > maxChained {
			return s.line
		}
	}
	return 0
}

type depthScanner struct {
	source   string
	at, line int
	levels   []level
	chain    int  // operators so far in the innermost level
	sum      int  // the same over all levels
	last     byte // last byte that was neither space nor comment
	newline  bool // since last
}

type level struct {
	chain    int
	template bool // opened by ${
}

func (s *depthScanner) step() {
	c := s.source[s.at]
	rest := s.source[s.at:]
	switch {
	case c == '\n':
		s.line++
		s.newline = true
		s.at++
		return
	case c == ' ' || c == '\t' || c == '\r':
		s.at++
		return
	case strings.HasPrefix(rest, "//"):
		s.skip(indexOr(rest, "\n", 0))
		return
	case strings.HasPrefix(rest, "/*"):
		s.skip(indexOr(rest, "*/", 2))
		return
	case c == '"' || c == '\'':
		s.skip(quoted(rest, c))
	case c == '`':
		s.template(1)
	case c == '/' && s.beforeOperand():
		s.skip(quoted(rest, '/'))
	case isWord(c):
		s.word(rest)
	default:
		s.punctuation(rest)
	}
	s.last, s.newline = s.source[s.at-1], false
}

func (s *depthScanner) skip(n int) {
	s.line += strings.Count(s.source[s.at:s.at+n], "\n")
	s.at += n
}

func (s *depthScanner) word(rest string) {
	n := 1
	for n < len(rest) && isWord(rest[n]) {
		n++
	}
	switch {
	case s.newline && !s.beforeOperand():
		s.reset() // a new statement where the semicolon was left out
	case isWord(s.last):
		s.count(1) // typeof x, new X, await x
	}
	s.at += n
}

func (s *depthScanner) punctuation(rest string) {
	s.at++
	switch c := rest[0]; c {
	case '(', '[', '{':
		s.open(false)
	case ')', ']', '}':
		s.close(c)
	case ',', ';':
		s.reset()
	case '=':
		if strings.HasPrefix(rest, "=>") {
			s.at++
			s.count(arrowCost)
			return
		}
		s.count(1)
	default:
		s.count(1)
	}
}

func (s *depthScanner) open(template bool) {
	s.levels = append(s.levels, level{s.chain, template})
	s.chain = 0
}

func (s *depthScanner) close(c byte) {
	if len(s.levels) == 0 {
		return
	}
	s.reset()
	outer := s.levels[len(s.levels)-1]
	s.levels = s.levels[:len(s.levels)-1]
	s.chain = outer.chain
	if outer.template && c == '}' {
		s.template(0)
	}
}

// template skips the text of a template up to its end or to the next ${.
func (s *depthScanner) template(head int) {
	rest := s.source[s.at:]
	for i := head; i < len(rest); i++ {
		switch {
		case rest[i] == '\\':
			i++
		case rest[i] == '`':
			s.skip(i + 1)
			return
		case strings.HasPrefix(rest[i:], "${"):
			s.skip(i + 2)
			s.open(true)
			return
		}
	}
	s.skip(len(rest))
}

func (s *depthScanner) count(n int) { s.chain, s.sum = s.chain+n, s.sum+n }

func (s *depthScanner) reset() { s.chain, s.sum = 0, s.sum-s.chain }

// beforeOperand reports whether an operand comes next, so that a slash begins
// a regular expression.
func (s *depthScanner) beforeOperand() bool {
	return s.last == 0 || strings.IndexByte("([{,;=:!&|?+-*%~^<>", s.last) >= 0
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c == '#' || c >= 0x80
}

// quoted is the length of a literal that ends with its first byte or its line.
func quoted(text string, end byte) int {
	class := false
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '\\':
			i++
		case text[i] == '\n':
			return i
		case end == '/' && text[i] == '[':
			class = true
		case end == '/' && text[i] == ']':
			class = false
		case text[i] == end && !class:
			return i + 1
		}
	}
	return len(text)
}

func indexOr(text, end string, plus int) int {
	if i := strings.Index(text, end); i >= 0 {
		return i + plus
	}
	return len(text)
}
