// Texts for people. Times come as RFC 3339.

const second = 1000
const minute = 60 * second
const hour = 60 * minute
const day = 24 * hour

// span writes milliseconds with the two units that matter.
export function span(ms: number): string {
  if (!Number.isFinite(ms)) return ''
  const rounded = Math.max(0, Math.round(ms))
  if (rounded < second) return `${rounded} ms`
  if (rounded < 10 * second) return `${(rounded / second).toFixed(1)} s`
  if (rounded < minute) return `${Math.floor(rounded / second)} s`
  if (rounded < hour) return `${Math.floor(rounded / minute)} min ${Math.floor((rounded % minute) / second)} s`
  if (rounded < day) return `${Math.floor(rounded / hour)} h ${Math.floor((rounded % hour) / minute)} min`
  return `${Math.floor(rounded / day)} d ${Math.floor((rounded % day) / hour)} h`
}

// relative writes a time as a distance from now, in one unit.
export function relative(at: string, now: number): string {
  const ms = now - Date.parse(at)
  const far = Math.abs(ms)
  if (far < 1500) return 'now'
  const text =
    far < minute ? `${Math.round(far / second)} s`
    : far < hour ? `${Math.round(far / minute)} min`
    : far < 2 * day ? `${Math.round(far / hour)} h`
    : `${Math.round(far / day)} d`
  return ms > 0 ? `${text} ago` : `in ${text}`
}

export const absolute = (at: string) => new Date(at).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' })

export const clock = (at: string) => {
  const t = new Date(at)
  const two = (n: number) => String(n).padStart(2, '0')
  return `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}.${String(t.getMilliseconds()).padStart(3, '0')}`
}

export function bytes(n: number): string {
  if (n < 1024) return `${n} B`
  if (n < 1 << 20) return `${(n / 1024).toFixed(1)} KiB`
  if (n < 1 << 30) return `${(n / (1 << 20)).toFixed(0)} MiB`
  return `${(n / (1 << 30)).toFixed(2)} GiB`
}

// The end of a run's id differs most; the start is its time.
export const shortRun = (id: string) => id.slice(-8)

export const shortDigest = (digest: string) => digest.replace(/^sha256:/, '').slice(0, 12)

export const between = (from: string | null, to: string | null, now: number) =>
  from ? span((to ? Date.parse(to) : now) - Date.parse(from)) : ''
