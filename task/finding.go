package task

// Severity says how bad a Finding is.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"   // it cannot work
	SeverityWarning Severity = "warning" // it can be applied, but will hardly do what its author meant
)

// Finding is something that a check found in a task, a chain or a
// configuration without running it.
type Finding struct {
	Severity Severity `json:"severity"`
	Task     string   `json:"task,omitempty"`
	Where    string   `json:"where,omitempty"` // file:line:column, or the path of a setting
	Message  string   `json:"message"`
	Remedy   string   `json:"remedy,omitempty"`
}

// Warn makes a warning.
func Warn(where, message, remedy string) Finding {
	return Finding{Severity: SeverityWarning, Where: where, Message: message, Remedy: remedy}
}
