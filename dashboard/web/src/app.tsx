import { useEffect, useRef, useSyncExternalStore } from 'react'
import { Login } from './pages/login'
import { OverviewPage } from './pages/overview'
import { PackagePage, PackagesPage } from './pages/packages'
import { RunPage } from './pages/run'
import { RunsPage } from './pages/runs'
import { TaskPage } from './pages/task'
import { TasksPage } from './pages/tasks'
import { Link, useLocation } from './router'
import { logOut, onSession, token } from './session'
import { Empty, Mark } from './ui'

const sections = [
  ['', 'Overview'],
  ['tasks', 'Tasks'],
  ['runs', 'Runs'],
  ['packages', 'Packages'],
] as const

export function App() {
  const here = useLocation()
  const known = useSyncExternalStore(onSession, token)
  const [section = '', ...rest] = here.pathname.slice(1).split('/').map(decode)
  const name = rest.join('/')
  useEffect(() => {
    const title = sections.find(([id]) => id === section)?.[1]
    document.title = [name, title, 'Catena'].filter(Boolean).join(' · ')
  }, [section, name])
  const main = useRef<HTMLElement>(null)
  const page = useRef(here.pathname)
  useEffect(() => {
    // A new page takes the focus, as it does where the browser loads each.
    if (page.current !== here.pathname) main.current?.focus({ preventScroll: true })
    page.current = here.pathname
  }, [here.pathname])
  if (!known) return <Login />
  return (
    <>
      <a className="skip" href="#main">Skip to the content</a>
      <header className="bar">
        <Link className="brand" href="/"><Mark />Catena</Link>
        <nav aria-label="Pages">
          {sections.map(([id, title]) => (
            <Link key={id} href={'/' + id} aria-current={id === section ? 'page' : undefined}>{title}</Link>
          ))}
        </nav>
        <button className="quiet" onClick={() => logOut()}>Sign out</button>
      </header>
      <main ref={main} id="main" tabIndex={-1} key={known + here.pathname}>
        <Page section={section} name={name} search={here.searchParams} />
      </main>
    </>
  )
}

function decode(part: string) {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

function Page({ section, name, search }: { section: string; name: string; search: URLSearchParams }) {
  switch (section + (name ? '/*' : '')) {
    case '': return <OverviewPage />
    case 'tasks': return <TasksPage />
    case 'tasks/*': return <TaskPage name={name} />
    case 'runs': return <RunsPage search={search} />
    case 'runs/*': return <RunPage id={name} />
    case 'packages': return <PackagesPage />
    case 'packages/*': return <PackagePage name={name} />
  }
  return <Empty title="There is no such page">Go on from the <Link href="/">overview</Link>.</Empty>
}
