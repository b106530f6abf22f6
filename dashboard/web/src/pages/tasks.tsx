import { useState } from 'react'
import { useApi, usual } from '../api'
import { TaskButtons } from '../dialogs'
import { absolute } from '../format'
import type { Schedule, Task } from '../types'
import { Badge, Empty, Heading, Loaded, Table, TaskLink, Time } from '../ui'

export function TasksPage() {
  const tasks = useApi<Task[]>('/tasks', usual)
  const [filter, setFilter] = useState('')
  const wanted = (task: Task) => (task.name + ' ' + (task.description ?? '')).toLowerCase().includes(filter.toLowerCase())
  return (
    <>
      <Heading title="Tasks">
        <input type="search" aria-label="Filter tasks" placeholder="Filter" value={filter} onChange={(event) => setFilter(event.target.value)} />
      </Heading>
      <Loaded query={tasks}>
        {(list) => list.length === 0
          ? <Empty title="No task yet">Write a task file and apply it with <code>catena task apply -f FILE</code>, or start with <code>catena dev --examples examples</code>.</Empty>
          : list.some(wanted)
            ? (
              <Table label="Tasks" head={['Task', 'Schedule', 'Next due', 'Status', '']}>
                {list.filter(wanted).map((task) => (
                  <tr key={task.name} data-task={task.name}>
                    <td className="grow"><TaskLink name={task.name} /><div className="muted">{task.description}</div></td>
                    <td><Schedules schedules={task.schedule} /></td>
                    <td><Time at={nextDue(task)} /></td>
                    <td><Status task={task} /></td>
                    <td className="right"><TaskButtons task={task} /></td>
                  </tr>
                ))}
              </Table>
            )
            : <Empty title="No task matches the filter">Clear it to see all {list.length}.</Empty>}
      </Loaded>
    </>
  )
}

export function nextDue(task: Task) {
  if (task.paused) return undefined
  return (task.schedule ?? []).filter((s) => !s.paused && s.next_due).map((s) => s.next_due!).sort((a, b) => Date.parse(a) - Date.parse(b))[0]
}

export function Schedules({ schedules }: { schedules?: Schedule[] }) {
  if (!schedules?.length) return <span className="muted">on demand</span>
  return (
    <>
      {schedules.map((s, i) => (
        <div key={s.id ?? i}>
          <code>{s.cron || (s.at && `once, ${absolute(s.at)}`)}</code>
          {s.timezone && s.timezone !== 'UTC' && <span className="muted"> {s.timezone}</span>}
          {s.paused && <span className="muted"> paused</span>}
          {s.invalid && <div className="problem">{s.invalid}</div>}
        </div>
      ))}
    </>
  )
}

export function Status({ task }: { task: Task }) {
  if (task.invalid) return <><Badge state="invalid" /><div className="problem">{task.invalid}</div></>
  if (task.paused) return <><Badge state="paused" /><div className="muted">{task.note}</div></>
  return <Badge state="ready" />
}
