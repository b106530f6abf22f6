import { Fragment, useState } from 'react'
import { fast, post, runPath, slow, useApi } from '../api'
import { Action, RunDialog } from '../dialogs'
import { absolute, between, shortDigest } from '../format'
import { Link } from '../router'
import { hasEnded, isFailure, type Frame, type Outcome, type Run, type Step } from '../types'
import { Badge, Facts, Heading, Json, Loaded, Section, Table, TaskLink, Time, useNow } from '../ui'
import { Log } from './log'

export function RunPage({ id }: { id: string }) {
  const run = useApi<Run>(runPath(id), (data) => (data && hasEnded(data.state) ? slow : fast))
  return (
    <>
      <Heading title={run.data ? <>Run of <TaskLink name={run.data.task} /> <Badge state={run.data.state} /></> : 'Run'}>
        {run.data && <Buttons run={run.data} />}
      </Heading>
      <Loaded query={run}>{(data) => <Detail run={data} />}</Loaded>
    </>
  )
}

function Detail({ run }: { run: Run }) {
  const now = useNow()
  const stack = run.outcome?.call_stack ?? []
  const reason = run.reason || run.outcome?.reason
  return (
    <>
      {reason && <p className={isFailure(run.state) ? 'reason bad' : 'reason'}>{reason}</p>}
      <Facts facts={[
        ['Run', <code className="id">{run.id}</code>],
        ['Attempt', run.attempt],
        ['Created', <Time at={run.created_at} />],
        ['Due', run.due_at && absolute(run.due_at)],
        ['Not before', !run.started_at && run.available_at && <Time at={run.available_at} />],
        ['Started', run.started_at && <Time at={run.started_at} />],
        ['Took', between(run.started_at, run.finished_at, now)],
        ['Worker', run.worker && <code>{run.worker}</code>],
        ['Workers lost', run.losses || ''],
        ['Queue', `${run.queue}, priority ${run.priority}`],
        ['Packages', run.packages && Object.entries(run.packages).map(([name, digest]) => (
          <div key={name}><Link href={'/packages/' + name}>{name}</Link> <code>{shortDigest(digest)}</code></div>
        ))],
      ]} />
      {stack.length > 0 && <Section title="Call stack"><Stack frames={stack} /></Section>}
      {run.steps.length > 0 && <Section title="Steps"><Steps steps={run.steps} /></Section>}
      <Log run={run} />
      {run.outcome && <Section title="Outcome"><Json value={run.outcome} label="Outcome" /></Section>}
      {run.params && Object.keys(run.params).length > 0 && <Section title="Parameters"><Json value={run.params} label="Parameters" /></Section>}
    </>
  )
}

// Stack lists the places of a failure, innermost first.
function Stack({ frames }: { frames: Frame[] }) {
  return (
    <ol className="stack">
      {frames.map((frame, i) => (
        <li key={i}>
          <code>{frame.item || frame.module}</code>
          <span className="muted">
            {frame.item && frame.module && <> in {frame.module}</>}
            {frame.index && <>, item {frame.index}</>}
            {frame.source && <> at <code>{frame.source}</code></>}
          </span>
        </li>
      ))}
    </ol>
  )
}

function Steps({ steps }: { steps: Step[] }) {
  const [open, setOpen] = useState('')
  return (
    <Table label="Steps" head={['Step', 'Ended', 'Took', 'Reason', 'Outcome']}>
      {steps.map((step) => {
        const key = `${step.path} ${step.iteration}`
        const shown = open === key
        return (
          <Fragment key={key}>
            <tr>
              <td><code>{step.path}</code> {step.name !== step.path && step.name}</td>
              <td><Badge state={verdict(step.outcome)} /></td>
              <td className="number">{between(step.started_at, step.finished_at, 0)}</td>
              <td className="grow">{step.outcome?.reason && <span className="clip" title={step.outcome.reason}>{step.outcome.reason}</span>}</td>
              <td>{step.outcome && <button className="quiet" aria-expanded={shown} onClick={() => setOpen(shown ? '' : key)}>{shown ? 'Hide' : 'Show'}</button>}</td>
            </tr>
            {shown && <tr><td colSpan={5}><Json value={step.outcome} label={`Outcome of step ${step.path}`} /></td></tr>}
          </Fragment>
        )
      })}
    </Table>
  )
}

const verdict = (outcome: Outcome | null) => (!outcome ? 'running' : outcome.success ? 'succeeded' : 'failed')

function Buttons({ run }: { run: Run }) {
  const [open, setOpen] = useState<'cancel' | 'retry' | 'again' | null>(null)
  const close = () => setOpen(null)
  const ended = hasEnded(run.state)
  return (
    <>
      {!ended && <button className="danger" disabled={run.cancel_requested} onClick={() => setOpen('cancel')}>{run.cancel_requested ? 'Cancelling…' : 'Cancel'}</button>}
      {ended && run.state !== 'succeeded' && <button className="primary" onClick={() => setOpen('retry')}>Retry</button>}
      {ended && <button onClick={() => setOpen('again')}>Run again</button>}
      {open === 'cancel' && <CancelDialog run={run} close={close} />}
      {open === 'retry' && <RetryDialog run={run} close={close} />}
      {open === 'again' && <RunDialog task={run.task} params={run.params} close={close} />}
    </>
  )
}

function CancelDialog({ run, close }: { run: Run; close: () => void }) {
  const [reason, setReason] = useState('')
  return (
    <Action title="Cancel this run" action="Cancel the run" danger close={close} perform={() => post(runPath(run.id) + '/cancel', { reason })}>
      <label>Why<input name="reason" maxLength={1000} placeholder="kept in the audit log" value={reason} onChange={(event) => setReason(event.target.value)} /></label>
    </Action>
  )
}

function RetryDialog({ run, close }: { run: Run; close: () => void }) {
  const [from, setFrom] = useState('')
  return (
    <Action title="Retry this run" action="Retry" close={close} perform={() => post(runPath(run.id) + '/retry', { from })}>
      <label>
        Begin at
        <select name="from" value={from} onChange={(event) => setFrom(event.target.value)}>
          <option value="">the step that failed</option>
          {run.steps.map((step) => <option key={`${step.path} ${step.iteration}`} value={step.path}>step {step.path}{step.name && step.name !== step.path && ` (${step.name})`}</option>)}
        </select>
      </label>
      <p className="muted">The outcomes of the steps before it are used again. Packages are those that are live now.</p>
    </Action>
  )
}
