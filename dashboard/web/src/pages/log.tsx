import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useEffect, useRef } from 'react'
import { fast, query, request, runPath, slow } from '../api'
import { clock } from '../format'
import { hasEnded, type LogLine, type Run } from '../types'
import { ErrorBox, Section } from '../ui'

const page = 1000 // lines of one request
const kept = 5000 // lines that the page holds

interface Lines {
  lines: LogLine[]
  dropped: number
}

// useLog reads what is new since the line it knows, until it has caught up.
function useLog(run: Run) {
  const client = useQueryClient()
  const key = ['log', run.id]
  return useQuery<Lines>({
    queryKey: key,
    refetchInterval: hasEnded(run.state) ? slow : fast,
    queryFn: async ({ signal }) => {
      let { lines, dropped } = client.getQueryData<Lines>(key) ?? { lines: [], dropped: 0 }
      for (let more = true; more; ) {
        const found = await request<LogLine[]>(runPath(run.id) + '/logs' + query({ after: lines.at(-1)?.seq, limit: page }), { signal })
        more = found.length === page
        if (found.length > 0) lines = [...lines, ...found]
        if (lines.length > kept) {
          dropped += lines.length - kept
          lines = lines.slice(-kept)
        }
      }
      return { lines, dropped }
    },
  })
}

// Log shows a run's log and follows it while its end is in sight.
export function Log({ run }: { run: Run }) {
  const log = useLog(run)
  const box = useRef<HTMLDivElement>(null)
  const following = useRef(true)
  const { lines, dropped } = log.data ?? { lines: [], dropped: 0 }
  const ended = hasEnded(run.state)
  const { refetch } = log
  useEffect(() => {
    if (ended) void refetch() // the lines of the end, without waiting for the next look
  }, [ended, refetch])
  useEffect(() => {
    if (box.current && following.current) box.current.scrollTop = box.current.scrollHeight
  }, [lines])
  return (
    <Section title="Log" aside={!ended && <span className="live">live</span>}>
      <ErrorBox error={log.error} />
      <div ref={box} className="log" role="log" tabIndex={0} aria-label="Log of the run"
        onScroll={({ currentTarget: b }) => { following.current = b.scrollHeight - b.scrollTop - b.clientHeight < 24 }}>
        {dropped > 0 && <p className="muted">{dropped} earlier lines: <code>catena runs logs {run.id}</code></p>}
        {lines.length === 0 && !log.isPending && <p className="muted">{ended ? 'The run logged nothing.' : 'Nothing yet.'}</p>}
        {lines.map((line) => (
          <div key={line.seq} className={`line is-${line.level}`}>
            <time dateTime={line.at}>{clock(line.at)}</time>
            <span className="level">{line.level}</span>
            {line.step && <span className="step">{line.step}</span>}
            <span className="message">{line.message}</span>
          </div>
        ))}
      </div>
    </Section>
  )
}
