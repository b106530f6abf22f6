import { useEffect, useId, useRef, useSyncExternalStore, type ReactNode } from 'react'
import type { UseQueryResult } from '@tanstack/react-query'
import { ApiError } from './api'
import { absolute, relative, shortRun } from './format'
import { Link } from './router'
import type { Run } from './types'

// One clock for every time on the page.
const ticking = new Set<() => void>()
let now = Date.now()
let timer = 0

function subscribe(tell: () => void) {
  ticking.add(tell)
  timer ||= window.setInterval(() => {
    now = Date.now()
    ticking.forEach((one) => one())
  }, 1000)
  return () => {
    ticking.delete(tell)
    if (ticking.size > 0) return
    clearInterval(timer)
    timer = 0
  }
}

export function useNow() {
  return useSyncExternalStore(subscribe, () => (timer ? now : (now = Date.now())))
}

export function Time({ at }: { at?: string | null }) {
  const time = useNow()
  if (!at) return <span className="muted">–</span>
  return <time dateTime={at} title={absolute(at)}>{relative(at, time)}</time>
}

export function Badge({ state }: { state: string }) {
  return <span className={`badge is-${state}`} data-state={state}>{state.replace('_', ' ')}</span>
}

export function ErrorBox({ error, children }: { error: unknown; children?: ReactNode }) {
  if (!error) return null
  const e = error instanceof ApiError ? error : new ApiError({ code: 'internal', message: String(error) })
  return (
    <div className="error" role="alert">
      <strong>{e.message}</strong>
      {e.where && <div>where: <code>{e.where}</code></div>}
      {e.remedy && <div>what to do: {e.remedy}</div>}
      {children}
    </div>
  )
}

// Loaded shows what a query has found, its error above what was found before.
export function Loaded<T>({ query, children }: { query: UseQueryResult<T>; children: (data: T) => ReactNode }) {
  return (
    <>
      <ErrorBox error={query.error} />
      {query.data !== undefined ? children(query.data) : query.isPending && <p className="muted loading">Loading…</p>}
    </>
  )
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return <div className="empty"><strong>{title}</strong><div>{children}</div></div>
}

export function Heading({ title, children }: { title: ReactNode; children?: ReactNode }) {
  return <div className="heading"><h1>{title}</h1>{children && <div className="actions">{children}</div>}</div>
}

export function Section({ title, aside, children }: { title: string; aside?: ReactNode; children: ReactNode }) {
  const id = useId()
  return (
    <section aria-labelledby={id}>
      <div className="heading"><h2 id={id}>{title}</h2>{aside && <div className="actions">{aside}</div>}</div>
      {children}
    </section>
  )
}

// Table scrolls sideways in itself where the window is too narrow.
export function Table({ label, head, children }: { label: string; head: ReactNode[]; children: ReactNode }) {
  return (
    <div className="table" tabIndex={0} role="region" aria-label={label}>
      <table>
        <thead><tr>{head.map((cell, i) => <th key={i} scope="col">{cell}</th>)}</tr></thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  )
}

export function Facts({ facts }: { facts: [string, ReactNode][] }) {
  return (
    <dl className="facts">
      {facts.filter(([, value]) => value !== undefined && value !== '' && value !== false && value !== null).map(([name, value]) => (
        <div key={name}><dt>{name}</dt><dd>{value}</dd></div>
      ))}
    </dl>
  )
}

// Modal is the browser's own dialog: it keeps the focus and closes on Escape.
export function Modal({ title, close, children }: { title: string; close: () => void; children: ReactNode }) {
  const dialog = useRef<HTMLDialogElement>(null)
  const id = useId()
  useEffect(() => {
    const shown = dialog.current
    if (shown && !shown.open) shown.showModal()
    return () => shown?.close()
  }, [])
  return (
    <dialog ref={dialog} aria-labelledby={id} onCancel={(event) => { event.preventDefault(); close() }}>
      <h2 id={id}>{title}</h2>
      {children}
    </dialog>
  )
}

const token = /("(?:\\.|[^"\\])*")(\s*:)?|\b(true|false|null)\b|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)/g

// Json shows a value as indented JSON.
export function Json({ value, label }: { value: unknown; label: string }) {
  const text = JSON.stringify(value, null, 2) ?? ''
  const parts: ReactNode[] = []
  let last = 0
  for (const found of text.length > 200_000 ? [] : text.matchAll(token)) {
    const [all, quoted, colon, word] = found
    const kind = quoted ? (colon ? 'key' : 'text') : word ? 'word' : 'number'
    const coloured = quoted ?? all
    parts.push(text.slice(last, found.index), <span key={found.index} className={`json-${kind}`}>{coloured}</span>)
    last = found.index + coloured.length
  }
  parts.push(text.slice(last))
  return <pre className="json" tabIndex={0} role="region" aria-label={label}>{parts}</pre>
}

export function RunLink({ id }: { id: string }) {
  return <Link href={'/runs/' + id} title={id}><code>{shortRun(id)}</code></Link>
}

export function TaskLink({ name }: { name: string }) {
  return <Link href={'/tasks/' + name}>{name}</Link>
}

// Why says what went wrong with a run, on one line.
export function Why({ run }: { run: Run }) {
  const text = run.reason || (run.outcome && !run.outcome.success ? run.outcome.reason : '')
  return text ? <span className="clip" title={text}>{text}</span> : null
}

export function Mark() {
  return (
    <svg className="mark" viewBox="0 0 32 32" fill="none" strokeWidth="3.5" aria-hidden="true">
      <rect x="2.5" y="10" width="16" height="12" rx="6" />
      <rect x="13.5" y="10" width="16" height="12" rx="6" />
    </svg>
  )
}
