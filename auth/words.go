package auth

// doing says what an action does, for the refusal that a user reads.
var doing = map[Action]string{
	ListTasks: "listing the tasks", ListCosts: "listing what runs take", GetTask: "looking at a task", ApplyTasks: "applying tasks", PauseTask: "pausing a task",
	ResumeTask: "resuming a task", DeleteTask: "deleting a task", ListDue: "looking at a task's due times",
	ApplyCalendars: "applying calendars", ListCalendars: "listing the calendars", GetCalendar: "looking at a calendar",
	PutCalendar: "changing a calendar", DeleteCalendar: "deleting a calendar",
	ListSources: "listing the sources", GetSource: "looking at a source", ListSourceItems: "listing the items of a source",
	PauseSource: "pausing a source", ResumeSource: "resuming a source", PollSource: "polling a source", DeleteSource: "deleting a source",
	PauseSchedule: "pausing a schedule", ResumeSchedule: "resuming a schedule",
	CreateBackfill: "backfilling a task", ListBackfills: "listing backfills", GetBackfill: "looking at a backfill", CancelBackfill: "cancelling a backfill",
	StartRun: "starting a run", ReadonlyRun: "executing a readonly run", StartRuns: "starting runs", ListRuns: "listing runs", GetRun: "looking at a run", WaitRuns: "waiting for runs",
	GetLogs: "reading a run's log", CancelRun: "cancelling a run", RetryRun: "retrying a run", WhyRun: "asking why a run waits", GetTree: "reading the tree of a run",
	ApproveRun: "approving a run", SendEvent: "sending an event", ListEvents: "listing events",
	CancelRuns: "cancelling runs by filter", RetryRuns: "retrying runs by filter",
	ListFires: "listing due times", ListWorkers: "listing the workers",
	GetWorker: "looking at a worker", RestartWorker: "restarting a worker", RestartWorkers: "restarting workers", DrainWorker: "draining a worker",
	ListMasters: "listing the masters",
	PushPackage: "pushing a package", ListPackages: "listing the packages", GetPackage: "looking at a package",
	ListVersions: "listing a package's versions", ListReleases: "listing a package's releases", ListFiles: "listing a package's files",
	GetArchive: "pulling a package", PromotePackage: "promoting a package", RollbackPackage: "rolling a package back", DeletePackage: "deleting a package",
	CreateToken: "making a token", ListTokens: "listing the tokens", RevokeToken: "revoking a token", Doctor: "checking the server", GetStats: "reading the figures of the database",
}

// Doing says what the action does: "pausing a task".
func (a Action) Doing() string {
	if words, known := doing[a]; known {
		return words
	}
	return "the operation " + string(a)
}

// article puts a or an before a role.
func (r Role) article() string {
	switch {
	case r.rank() == 0:
		return "without a known role"
	case r == Viewer:
		return "a " + string(r)
	}
	return "an " + string(r)
}
