import { query, slow, useApi, usual } from '../api'
import { navigate } from '../router'
import { RunTable } from '../runtable'
import { states, type Run, type Task } from '../types'
import { Empty, Heading, Loaded } from '../ui'

const page = 50

export function RunsPage({ search }: { search: URLSearchParams }) {
  const task = search.get('task') ?? ''
  const state = search.get('state') ?? ''
  const before = search.get('before') ?? ''
  const runs = useApi<Run[]>('/runs' + query({ task, state, before, limit: page }), usual)
  const show = (fields: Record<string, string>) => navigate('/runs' + query(fields))
  const last = runs.data?.at(-1)
  return (
    <>
      <Heading title="Runs">
        <TaskFilter task={task} choose={(chosen) => show({ task: chosen, state })} />
        <select aria-label="State" value={state} onChange={(event) => show({ task, state: event.target.value })}>
          <option value="">Every state</option>
          {states.map((one) => <option key={one} value={one}>{one.replace('_', ' ')}</option>)}
        </select>
      </Heading>
      <Loaded query={runs}>
        {(list) => (
          <>
            {list.length > 0 ? <RunTable runs={list} label="Runs" /> : <NoRuns filtered={!!(task || state)} older={!!before} />}
            {(before || list.length === page) && (
              <div className="actions pager">
                <button disabled={!before} onClick={() => show({ task, state })}>Newest</button>
                <button disabled={list.length < page || !last} onClick={() => last && show({ task, state, before: last.id })}>Older</button>
              </div>
            )}
          </>
        )}
      </Loaded>
    </>
  )
}

function NoRuns({ filtered, older }: { filtered: boolean; older: boolean }) {
  if (older) return <Empty title="No older runs" />
  if (filtered) return <Empty title="No run matches">Choose another task or state.</Empty>
  return <Empty title="No run yet">Start one with <code>catena task run NAME</code>.</Empty>
}

function TaskFilter({ task, choose }: { task: string; choose: (task: string) => void }) {
  const tasks = useApi<Task[]>('/tasks', slow)
  const names = (tasks.data ?? []).map((one) => one.name)
  if (task && !names.includes(task)) names.unshift(task) // its runs may have outlived it
  return (
    <select aria-label="Task" value={task} onChange={(event) => choose(event.target.value)}>
      <option value="">Every task</option>
      {names.map((name) => <option key={name} value={name}>{name}</option>)}
    </select>
  )
}
