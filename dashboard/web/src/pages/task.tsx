import { query, taskPath, useApi, usual } from '../api'
import { TaskButtons } from '../dialogs'
import { absolute } from '../format'
import { Link } from '../router'
import { RunTable } from '../runtable'
import type { Fire, Run, Task } from '../types'
import { Badge, Empty, Facts, Heading, Json, Loaded, RunLink, Section, Table, Time } from '../ui'
import { nextDue, Schedules, Status } from './tasks'

export function TaskPage({ name }: { name: string }) {
  const task = useApi<Task>(taskPath(name), usual)
  return (
    <>
      <Heading title={name}>{task.data && <TaskButtons task={task.data} />}</Heading>
      <Loaded query={task}>
        {(t) => (
          <>
            {t.description && <p className="lead">{t.description}</p>}
            <Facts facts={facts(t)} />
            <RecentRuns task={name} />
            <Section title="Chain"><Json value={t.chain} label="Chain" /></Section>
            {t.params && Object.keys(t.params).length > 0 && <Section title="Parameters"><Json value={t.params} label="Parameters" /></Section>}
            {!!t.schedule?.length && <Fires task={name} />}
          </>
        )}
      </Loaded>
    </>
  )
}

function facts(t: Task): [string, React.ReactNode][] {
  return [
    ['Status', <Status task={t} />],
    ['Schedule', <Schedules schedules={t.schedule} />],
    ['Next due', t.schedule?.length ? <Time at={nextDue(t)} /> : ''],
    ['Time limit', t.timeout?.replace(/m0s$/, 'm').replace(/h0m$/, 'h')],
    ['Attempts', t.retry?.attempts],
    ['Queue', t.queue && `${t.queue}, priority ${t.priority ?? 5}`],
    ['Steps', t.durable === false ? 'not committed one by one' : ''],
    ['Revision', <>{t.revision}, <Time at={t.updated_at} /></>],
  ]
}

function RecentRuns({ task }: { task: string }) {
  const runs = useApi<Run[]>('/runs' + query({ task, limit: 10 }), usual)
  return (
    <Section title="Recent runs" aside={<Link href={'/runs' + query({ task })}>All runs</Link>}>
      <Loaded query={runs}>
        {(list) => list.length === 0
          ? <Empty title="It has not run yet">Run it with the button above, or with <code>catena task run {task}</code>.</Empty>
          : <RunTable runs={list} label="Recent runs" withTask={false} />}
      </Loaded>
    </Section>
  )
}

function Fires({ task }: { task: string }) {
  const fires = useApi<Fire[]>('/fires' + query({ task, limit: 20 }), 2 * usual)
  return (
    <Section title="Due times">
      <Loaded query={fires}>
        {(list) => list.length === 0
          ? <Empty title="No due time has passed yet">Each will be listed here with what became of it.</Empty>
          : (
            <Table label="Due times" head={['Due', '', 'Became', 'Reason', 'Run']}>
              {list.map((fire) => (
                <tr key={`${fire.schedule} ${fire.due_at}`}>
                  <td>{absolute(fire.due_at)}{fire.count > 1 && <> to {absolute(fire.last_due_at)} <span className="muted">({fire.count} times)</span></>}</td>
                  <td><Time at={fire.due_at} /></td>
                  <td><Badge state={fire.outcome} /></td>
                  <td className="grow">{fire.reason && <span className="clip" title={fire.reason}>{fire.reason}</span>}</td>
                  <td>{fire.run && <RunLink id={fire.run} />}</td>
                </tr>
              ))}
            </Table>
          )}
      </Loaded>
    </Section>
  )
}
