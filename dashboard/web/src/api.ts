import { useQuery } from '@tanstack/react-query'
import { logOut, token } from './session'

// ApiError is an error as the API words it: what, where, and what to do next.
export class ApiError extends Error {
  code: string
  where?: string
  remedy?: string

  constructor(detail: { code: string; message: string; where?: string; remedy?: string }) {
    super(detail.message)
    this.code = detail.code
    this.where = detail.where
    this.remedy = detail.remedy
  }
}

interface Options {
  method?: 'GET' | 'POST'
  body?: unknown
  signal?: AbortSignal
  as?: string // a token that is not yet the session's
}

export async function request<T>(path: string, { method = 'GET', body, signal, as }: Options = {}): Promise<T> {
  const headers: Record<string, string> = { Authorization: `Bearer ${as ?? token() ?? ''}` }
  if (body !== undefined) headers['Content-Type'] = 'application/json'
  let response: Response
  try {
    response = await fetch('/api/v1' + path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) })
  } catch (cause) {
    if (signal?.aborted) throw cause
    throw new ApiError({ code: 'unavailable', message: 'the server does not answer', where: location.host, remedy: 'check that the master runs; this page goes on by itself' })
  }
  if (response.ok) return response.status === 204 ? (undefined as T) : ((await response.json()) as T)
  const error = await refusal(response)
  if (error.code === 'unauthorized' && as === undefined) logOut(error)
  throw error
}

async function refusal(response: Response) {
  try {
    return new ApiError((await response.json()).error)
  } catch {
    return new ApiError({ code: 'internal', message: `the server answered ${response.status} ${response.statusText}`, where: response.url })
  }
}

export const post = <T>(path: string, body: unknown = {}) => request<T>(path, { method: 'POST', body })

// query writes the set fields as a query string.
export function query(fields: Record<string, string | number | undefined>) {
  const q = new URLSearchParams()
  for (const [name, value] of Object.entries(fields)) if (value) q.set(name, String(value))
  const text = q.toString()
  return text && '?' + text
}

// useApi reads path again every so many milliseconds while the tab is seen.
export function useApi<T>(path: string, every: number | ((data: T | undefined) => number)) {
  return useQuery<T>({
    queryKey: [path],
    queryFn: ({ signal }) => request<T>(path, { signal }),
    refetchInterval: typeof every === 'number' ? every : (q) => every(q.state.data),
  })
}

// Milliseconds between two looks at what changes fast, at lists, and at what
// is costly to find out.
export const fast = 1000
export const usual = 2000
export const slow = 10_000

export const taskPath = (name: string) => '/tasks/' + encodeURIComponent(name)
export const runPath = (id: string) => '/runs/' + encodeURIComponent(id)
export const packagePath = (name: string) => '/packages/' + encodeURIComponent(name)
