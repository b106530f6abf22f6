package telemetry

import (
	"regexp"
	"strings"
)

// Mask stands where a secret was.
const Mask = "***"

// The parts of a text that Redact masks. urlPassword is greedy up to the last
// "@" before a space, so that a password holding "/" or "@" is masked whole.
var (
	urlPassword  = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^\s:/?#@"']*):[^\s"']*@`)
	namedSecret  = regexp.MustCompile(`(?i)\b((?:[a-z]*password|passwd|secret|[a-z_]*token|api_?key)\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&;,"']+)`)
	bearerSecret = regexp.MustCompile(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]+`)
)

// Redact masks the passwords of URLs and connection strings and bearer tokens
// wherever they stand in text.
func Redact(text string) string {
	if strings.Contains(text, "://") {
		text = urlPassword.ReplaceAllString(text, "${1}:"+Mask+"@")
	}
	if strings.Contains(text, "=") {
		text = namedSecret.ReplaceAllString(text, "${1}"+Mask)
	}
	return bearerSecret.ReplaceAllString(text, "${1}"+Mask)
}

// RedactSecret masks a text that is a secret as a whole; "" stays "".
func RedactSecret(text string) string {
	if text == "" {
		return ""
	}
	return Mask
}
