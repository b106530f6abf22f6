// The wire types of the API, as far as the pages use them. They follow
// /api/openapi.json.

export type State =
  | 'queued' | 'dispatched' | 'running' | 'waiting'
  | 'succeeded' | 'failed' | 'cancelled' | 'timed_out' | 'quarantined'

export const states: readonly State[] = [
  'queued', 'dispatched', 'running', 'waiting',
  'succeeded', 'failed', 'cancelled', 'timed_out', 'quarantined',
]

const ended = new Set<State>(['succeeded', 'failed', 'cancelled', 'timed_out', 'quarantined'])

export const hasEnded = (state: State) => ended.has(state)

// Waiting and being cancelled by hand are no failure.
export const isFailure = (state: State) => hasEnded(state) && state !== 'succeeded' && state !== 'cancelled'

export interface Schedule {
  id?: number
  cron?: string
  at?: string
  timezone?: string
  paused?: boolean
  invalid?: string
  next_due?: string
}

export interface Task {
  name: string
  description?: string
  chain: unknown
  params?: Record<string, unknown>
  schedule?: Schedule[]
  timeout?: string
  queue?: string
  priority?: number
  durable?: boolean
  retry?: { attempts?: number; backoff?: string }
  revision: number
  paused: boolean
  note?: string
  invalid?: string
  updated_at: string
}

export interface Frame {
  module?: string
  item?: string
  index?: string
  source?: string
}

export interface Outcome {
  success: boolean
  reason?: string
  data?: unknown
  call_stack?: Frame[]
  [extra: string]: unknown
}

export interface Step {
  path: string
  name?: string
  iteration: number
  attempt: number
  outcome: Outcome | null
  started_at: string
  finished_at: string
}

export interface Run {
  id: string
  task: string
  revision: number
  state: State
  attempt: number
  losses: number
  reason?: string
  outcome: Outcome | null
  params?: Record<string, unknown>
  queue: string
  priority: number
  packages?: Record<string, string>
  worker?: string
  cancel_requested?: boolean
  created_at: string
  available_at?: string
  started_at: string | null
  finished_at: string | null
  due_at: string | null
  steps: Step[]
}

export interface LogLine {
  seq: number
  at: string
  level: string
  step?: string
  message: string
}

export interface Fire {
  schedule: number
  task: string
  due_at: string
  last_due_at: string
  count: number
  outcome: 'started' | 'skipped' | 'missed' | 'paused'
  reason?: string
  run: string | null
}

export interface Worker {
  id: string
  epoch: number
  host: string
  pid: number
  version: string
  state: 'active' | 'draining' | 'stopped' | 'lost'
  reason?: string
  queues: string[]
  slots: number
  running: number
  rss: number
  started_at: string
  beat_at: string
}

export interface PackageVersion {
  name: string
  digest: string
  description?: string
  size: number
  files: number
  channels?: string[]
  pushed_by?: string
  created_at: string
}

export interface PackageDetail extends PackageVersion {
  manifest: { exports?: string[] } | null
}

export interface Release {
  id: number
  package: string
  channel: string
  digest: string
  action: string
  by?: string
  at: string
}

export interface Check {
  name: string
  ok: boolean
  detail?: string
  remedy?: string
}
