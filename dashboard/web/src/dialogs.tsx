import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useState, type ReactNode } from 'react'
import { post, taskPath } from './api'
import { navigate } from './router'
import type { Run, Task } from './types'
import { ErrorBox, Modal } from './ui'

interface ActionProps {
  title: string
  action: string
  danger?: boolean
  disabled?: boolean
  close: () => void
  perform: () => Promise<unknown>
  children?: ReactNode
}

// Action asks, acts, and stays open with the error when that failed.
export function Action({ title, action, danger, disabled, close, perform, children }: ActionProps) {
  const client = useQueryClient()
  const acting = useMutation({
    mutationFn: perform,
    onSuccess: () => {
      void client.invalidateQueries()
      close()
    },
  })
  return (
    <Modal title={title} close={close}>
      <form onSubmit={(event) => { event.preventDefault(); acting.mutate() }}>
        {children}
        <ErrorBox error={acting.error} />
        <div className="actions end">
          <button type="button" onClick={close}>Close</button>
          <button className={danger ? 'danger' : 'primary'} disabled={disabled || acting.isPending}>{action}</button>
        </div>
      </form>
    </Modal>
  )
}

// object reads text as a JSON object or says why it is none.
function object(text: string): { value?: Record<string, unknown>; problem?: string } {
  try {
    const value: unknown = JSON.parse(text.trim() || '{}')
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return { problem: 'The parameters must be a JSON object: {"name": value}' }
    return { value: value as Record<string, unknown> }
  } catch (cause) {
    return { problem: cause instanceof Error ? cause.message : String(cause) }
  }
}

function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('')
}

// RunDialog starts a run. Its key makes sure that one dialog never makes two.
export function RunDialog({ task, params, paused, close }: { task: string; params?: Record<string, unknown>; paused?: boolean; close: () => void }) {
  const [text, setText] = useState(() => JSON.stringify(params ?? {}, null, 2))
  const [key] = useState(randomKey)
  const { value, problem } = object(text)
  return (
    <Action title={`Run ${task}`} action="Run now" close={close} disabled={!value}
      perform={async () => {
        const run = await post<Run>(taskPath(task) + '/runs', { params: value, key })
        navigate('/runs/' + run.id)
      }}>
      <label>
        Parameters
        <textarea className="code" rows={10} spellCheck={false} value={text} onChange={(event) => setText(event.target.value)}
          aria-invalid={!!problem} aria-describedby="params-problem" />
      </label>
      <p id="params-problem" className={problem ? 'problem' : 'muted'} aria-live="polite">{problem ?? 'A JSON object. Its keys override those of the task.'}</p>
      {paused && <p className="problem">The task is paused: the run will wait until it is resumed.</p>}
    </Action>
  )
}

export function PauseDialog({ task, close }: { task: string; close: () => void }) {
  const [note, setNote] = useState('')
  return (
    <Action title={`Pause ${task}`} action="Pause" close={close} perform={() => post(taskPath(task) + '/pause', { note })}>
      <p className="muted">Until it is resumed no run of it starts: due times are recorded as paused, runs that were asked for wait.</p>
      <label>Why<input name="note" maxLength={1000} value={note} onChange={(event) => setNote(event.target.value)} placeholder="shown to everybody who looks at the task" /></label>
    </Action>
  )
}

// TaskButtons are what can be done with a task, in lists and on its page.
export function TaskButtons({ task }: { task: Task }) {
  const client = useQueryClient()
  const [open, setOpen] = useState<'run' | 'pause' | 'problem' | null>(null)
  const resume = useMutation({
    mutationFn: () => post(taskPath(task.name) + '/resume'),
    onSuccess: () => client.invalidateQueries(),
    onError: () => setOpen('problem'),
  })
  const close = () => setOpen(null)
  return (
    <span className="buttons">
      <button onClick={() => setOpen('run')} aria-label={`Run ${task.name}`}>Run</button>
      {task.paused
        ? <button onClick={() => resume.mutate()} disabled={resume.isPending} aria-label={`Resume ${task.name}`}>Resume</button>
        : <button onClick={() => setOpen('pause')} aria-label={`Pause ${task.name}`}>Pause</button>}
      {open === 'run' && <RunDialog task={task.name} params={task.params} paused={task.paused} close={close} />}
      {open === 'pause' && <PauseDialog task={task.name} close={close} />}
      {open === 'problem' && (
        <Modal title={`${task.name} is still paused`} close={close}>
          <ErrorBox error={resume.error} />
          <div className="actions end"><button onClick={close}>Close</button></div>
        </Modal>
      )}
    </span>
  )
}
