import { between } from './format'
import { hasEnded, type Run } from './types'
import { Badge, RunLink, Table, TaskLink, Time, useNow, Why } from './ui'

// RunTable is the list of runs on several pages.
export function RunTable({ runs, label, withTask = true }: { runs: Run[]; label: string; withTask?: boolean }) {
  const now = useNow()
  return (
    <Table label={label} head={['Run', ...(withTask ? ['Task'] : []), 'State', 'Reason', 'Attempt', 'Took', 'Created']}>
      {runs.map((run) => (
        <tr key={run.id}>
          <td><RunLink id={run.id} /></td>
          {withTask && <td><TaskLink name={run.task} /></td>}
          <td><Badge state={run.state} /></td>
          <td className="grow"><Why run={run} /></td>
          <td className="number">{run.attempt}</td>
          <td className="number">{between(run.started_at, hasEnded(run.state) ? run.finished_at : null, now)}</td>
          <td><Time at={run.created_at} /></td>
        </tr>
      ))}
    </Table>
  )
}
