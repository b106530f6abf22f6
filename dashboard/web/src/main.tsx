import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { App } from './app'
import { adoptLink, onSession } from './session'
import './style.css'

// A poll is its own retry. It stops while the tab is hidden, which is the
// library's default.
const client = new QueryClient({
  defaultOptions: { queries: { retry: false, networkMode: 'always' }, mutations: { retry: false, networkMode: 'always' } },
})

// Nothing that one token showed is kept for the next.
onSession(() => client.clear())

adoptLink()
addEventListener('hashchange', adoptLink) // a link followed in an open tab

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <QueryClientProvider client={client}>
      <App />
    </QueryClientProvider>
  </StrictMode>,
)
