import { useMutation } from '@tanstack/react-query'
import { useState } from 'react'
import { request } from '../api'
import { logIn, whyOut } from '../session'
import { ErrorBox, Mark } from '../ui'

export function Login() {
  const [text, setText] = useState('')
  const trying = useMutation({
    mutationFn: (as: string) => request('/workers', { as }),
    onSuccess: (_, as) => logIn(as),
  })
  return (
    <main className="login">
      <form onSubmit={(event) => { event.preventDefault(); trying.mutate(text.trim()) }}>
        <h1><Mark />Catena</h1>
        <ErrorBox error={trying.error ?? (trying.isIdle && whyOut())} />
        <label>Token<input name="token" type="password" autoComplete="off" autoFocus required value={text} onChange={(event) => setText(event.target.value)} /></label>
        <button className="primary" disabled={!text.trim() || trying.isPending}>Sign in</button>
        <p className="muted"><code>catena dev</code> prints a link that signs in. Elsewhere, make a token with <code>catena token create --name NAME --role viewer</code>.</p>
      </form>
    </main>
  )
}
