import { useSyncExternalStore, type AnchorHTMLAttributes } from 'react'

// Pages are addressed by the path alone: /tasks/NAME, /runs/ID. Names of tasks
// and packages hold slashes and stay readable as they are.

const changed = 'catena:navigate'

function subscribe(tell: () => void) {
  addEventListener('popstate', tell)
  addEventListener(changed, tell)
  return () => {
    removeEventListener('popstate', tell)
    removeEventListener(changed, tell)
  }
}

const here = () => location.pathname + location.search

export function useLocation() {
  return new URL(useSyncExternalStore(subscribe, here), location.origin)
}

export function navigate(to: string, { replace = false } = {}) {
  if (to !== here()) history[replace ? 'replaceState' : 'pushState'](null, '', to)
  dispatchEvent(new Event(changed))
  if (!replace) scrollTo(0, 0)
}

export function Link({ href, ...rest }: AnchorHTMLAttributes<HTMLAnchorElement> & { href: string }) {
  return (
    <a
      {...rest}
      href={href}
      onClick={(event) => {
        if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return
        event.preventDefault()
        navigate(href)
      }}
    />
  )
}
