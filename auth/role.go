package auth

import (
	"github.com/catena-run/catena/task"
)

// Role says what a token may do. Each role may do all that the next lower may.
type Role string

// The roles.
const (
	Admin    Role = "admin"    // everything
	Operator Role = "operator" // tasks, runs and packages; not tokens
	Viewer   Role = "viewer"   // read only
)

// ParseRole reads the name of a role.
func ParseRole(text string) (Role, error) {
	if role := Role(text); role.rank() > 0 {
		return role, nil
	}
	return "", task.Errorf(task.CodeInvalid, "%q is not a role", text).At("role").
		Fix("use %s, %s or %s", Admin, Operator, Viewer)
}

func (r Role) rank() int { return task.RoleRank(string(r)) }

// Action names an operation of the API.
type Action string

// The actions. They are the operation ids of the OpenAPI document too.
const (
	ListTasks   Action = "list-tasks"
	ListCosts   Action = "list-costs"
	ReadonlyRun Action = "readonly-run"
	GetTask     Action = "get-task"
	ApplyTasks  Action = "apply-tasks"
	PauseTask   Action = "pause-task"
	ResumeTask  Action = "resume-task"
	DeleteTask  Action = "delete-task"
	ListDue     Action = "list-due"
	StartRun    Action = "start-run"
	StartRuns   Action = "start-runs"
	ListRuns    Action = "list-runs"
	GetRun      Action = "get-run"
	WaitRuns    Action = "wait-runs"
	GetLogs     Action = "get-logs"
	WhyRun      Action = "why-run"
	CancelRun   Action = "cancel-run"
	RetryRun    Action = "retry-run"
	GetTree     Action = "get-tree"
	ApproveRun  Action = "approve-run"
	SendEvent   Action = "send-event"
	ListEvents  Action = "list-events"
	CancelRuns  Action = "cancel-runs"
	RetryRuns   Action = "retry-runs"
	ListFires   Action = "list-fires"

	PauseSchedule  Action = "pause-schedule"
	ResumeSchedule Action = "resume-schedule"
	CreateBackfill Action = "create-backfill"
	ListBackfills  Action = "list-backfills"
	GetBackfill    Action = "get-backfill"
	CancelBackfill Action = "cancel-backfill"

	ListWorkers    Action = "list-workers"
	GetWorker      Action = "get-worker"
	RestartWorker  Action = "restart-worker"
	RestartWorkers Action = "restart-workers"
	DrainWorker    Action = "drain-worker"
	ListMasters    Action = "list-masters"

	ApplyCalendars Action = "apply-calendars"
	ListCalendars  Action = "list-calendars"
	GetCalendar    Action = "get-calendar"
	PutCalendar    Action = "put-calendar"
	DeleteCalendar Action = "delete-calendar"

	ListSources     Action = "list-sources"
	GetSource       Action = "get-source"
	ListSourceItems Action = "list-source-items"
	PauseSource     Action = "pause-source"
	ResumeSource    Action = "resume-source"
	PollSource      Action = "poll-source"
	DeleteSource    Action = "delete-source"

	PushPackage     Action = "push-package"
	ListPackages    Action = "list-packages"
	GetPackage      Action = "get-package"
	ListVersions    Action = "list-versions"
	ListReleases    Action = "list-releases"
	ListFiles       Action = "list-files"
	GetArchive      Action = "get-archive"
	PromotePackage  Action = "promote-package"
	RollbackPackage Action = "rollback-package"
	DeletePackage   Action = "delete-package"

	CreateToken Action = "create-token"
	ListTokens  Action = "list-tokens"
	RevokeToken Action = "revoke-token"
	Doctor      Action = "doctor"
	GetStats    Action = "get-stats"
)

// Least returns the lowest role that may do action. An action that the table
// does not name is Admin's alone.
func Least(action Action) Role {
	switch action {
	case ListTasks, ListCosts, GetTask, ListDue, ListCalendars, GetCalendar, ListRuns, GetRun, GetTree, ListEvents, WaitRuns, GetLogs, WhyRun, ListFires, ListWorkers,
		GetWorker, ListMasters, ListSources, GetSource, ListSourceItems,
		ListBackfills, GetBackfill, ListPackages, GetPackage, ListVersions, ListReleases, ListFiles, GetArchive, Doctor, GetStats:
		return Viewer
	case ApplyTasks, ApplyCalendars, PutCalendar, DeleteCalendar, PauseTask, ResumeTask, DeleteTask, ReadonlyRun, StartRun, StartRuns, CancelRun, RetryRun, CancelRuns, RetryRuns,
		PauseSchedule, ResumeSchedule, CreateBackfill, CancelBackfill,
		RestartWorker, RestartWorkers, DrainWorker,
		PauseSource, ResumeSource, PollSource, DeleteSource,
		SendEvent, ApproveRun, // a run may ask for a higher role
		PushPackage, PromotePackage, RollbackPackage, DeletePackage:
		return Operator
	}
	return Admin
}

// Allow returns nil when role may do action, else task.CodeForbidden.
func Allow(role Role, action Action) error {
	least := Least(action)
	if role.rank() >= least.rank() {
		return nil
	}
	return task.Errorf(task.CodeForbidden, "%s needs the role %s; this token is %s", action.Doing(), least, role.article()).
		Fix("use a token with the role %s", least)
}
