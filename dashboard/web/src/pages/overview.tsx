import { useState } from 'react'
import { query, slow, useApi, usual } from '../api'
import { between, bytes } from '../format'
import { Link } from '../router'
import { isFailure, states, type Check, type Run, type Worker } from '../types'
import { Badge, Empty, Heading, Loaded, RunLink, Section, Table, TaskLink, Time, useNow, Why } from '../ui'

export function OverviewPage() {
  return (
    <>
      <Heading title="Overview" />
      <RecentRuns />
      <Workers />
      <Doctor />
    </>
  )
}

const newest = 500

function RecentRuns() {
  const runs = useApi<Run[]>('/runs' + query({ since: '1h', limit: newest }), 2 * usual)
  const count = runs.data?.length ?? 0
  return (
    <Section title="Runs of the last hour" aside={count === newest && <span className="muted">the newest {newest}</span>}>
      <Loaded query={runs}>
        {(list) => list.length === 0
          ? <Empty title="No run in the last hour">Start one on <Link href="/tasks">Tasks</Link>, or with <code>catena task run NAME</code>.</Empty>
          : <><Counts runs={list} /><Failures runs={list} /></>}
      </Loaded>
    </Section>
  )
}

function Counts({ runs }: { runs: Run[] }) {
  const counts = states.map((state) => [state, runs.filter((run) => run.state === state).length] as const).filter(([, n]) => n > 0)
  return (
    <>
      <div className="share" aria-hidden="true">
        {counts.map(([state, n]) => <span key={state} className={`is-${state}`} style={{ flexGrow: n }} />)}
      </div>
      <ul className="counts">
        {counts.map(([state, n]) => (
          <li key={state}><Link href={'/runs' + query({ state })}><b>{n}</b><Badge state={state} /></Link></li>
        ))}
      </ul>
    </>
  )
}

function Failures({ runs }: { runs: Run[] }) {
  const failed = runs.filter((run) => isFailure(run.state)).slice(0, 5)
  if (failed.length === 0) return null
  return (
    <Table label="Newest failures" head={['Failed run', 'Task', 'State', 'Reason', 'Ended']}>
      {failed.map((run) => (
        <tr key={run.id}>
          <td><RunLink id={run.id} /></td>
          <td><TaskLink name={run.task} /></td>
          <td><Badge state={run.state} /></td>
          <td className="grow"><Why run={run} /></td>
          <td><Time at={run.finished_at} /></td>
        </tr>
      ))}
    </Table>
  )
}

function Workers() {
  const [all, setAll] = useState(false)
  const workers = useApi<Worker[]>('/workers' + query({ all: all ? 'true' : undefined }), usual)
  const now = useNow()
  return (
    <Section title="Workers" aside={<label className="check"><input type="checkbox" checked={all} onChange={(event) => setAll(event.target.checked)} />with ended ones</label>}>
      <Loaded query={workers}>
        {(list) => list.length === 0
          ? <Empty title="No worker is alive">Start one with <code>catena worker --config FILE</code>, or set <code>master.workers</code>.</Empty>
          : (
            <Table label="Workers" head={['Worker', 'Host', 'PID', 'State', 'Running', 'Memory', 'Age', 'Seen']}>
              {list.map((w) => (
                <tr key={w.id}>
                  <td><code>{w.id}</code></td>
                  <td>{w.host}</td>
                  <td className="number">{w.pid}</td>
                  <td><Badge state={w.state} />{w.reason && <div className="muted clip" title={w.reason}>{w.reason}</div>}</td>
                  <td className="number">{w.running} / {w.slots}</td>
                  <td className="number">{bytes(w.rss)}</td>
                  <td className="number">{between(w.started_at, w.state === 'lost' || w.state === 'stopped' ? w.beat_at : null, now)}</td>
                  <td><Time at={w.beat_at} /></td>
                </tr>
              ))}
            </Table>
          )}
      </Loaded>
    </Section>
  )
}

function Doctor() {
  const doctor = useApi<{ checks: Check[] }>('/doctor', slow)
  return (
    <Section title="Health">
      <Loaded query={doctor}>
        {({ checks }) => (
          <ul className="checks">
            {checks.map((check) => (
              <li key={check.name} className={check.ok ? 'ok' : 'bad'}>
                <b>{check.name}</b>
                <span className="verdict">{check.ok ? 'ok' : 'problem'}</span>
                <span className="detail">{check.detail}{check.remedy && <em> {check.remedy}</em>}</span>
              </li>
            ))}
          </ul>
        )}
      </Loaded>
    </Section>
  )
}
