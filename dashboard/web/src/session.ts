// The token of this tab. It lives in sessionStorage, so it ends with the tab,
// and is sent to nobody but this server's API.

const key = 'catena.token'
const listeners = new Set<() => void>()
let farewell: unknown = null

export const token = () => sessionStorage.getItem(key)

// whyOut is the error that ended the last session, if one did.
export const whyOut = () => farewell

export function logIn(value: string) {
  farewell = null
  sessionStorage.setItem(key, value)
  listeners.forEach((tell) => tell())
}

export function logOut(reason: unknown = null) {
  farewell = reason
  sessionStorage.removeItem(key)
  listeners.forEach((tell) => tell())
}

export function onSession(tell: () => void) {
  listeners.add(tell)
  return () => void listeners.delete(tell)
}

// adoptLink takes the token of a link such as http://ADMIN/#token=... and
// removes it from the address, and so from the history. A browser never sends
// this part of an address to a server.
export function adoptLink() {
  const found = /^#token=(.+)$/.exec(location.hash)
  if (!found) return
  history.replaceState(null, '', location.pathname + location.search)
  try {
    logIn(decodeURIComponent(found[1]!))
  } catch {
    logIn(found[1]!)
  }
}
