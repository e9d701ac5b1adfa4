// Requests to the server, and the keys that a link brought.

const parts = new URLSearchParams(location.hash.slice(1))

function storage(name) {
  try {
    return window[name]
  } catch {
    return null // storage is switched off: everything works until the page is closed
  }
}

// The tab's own storage first, so that two people can rate in two tabs.
export function remembered(name) {
  for (const area of [storage('sessionStorage'), storage('localStorage')]) {
    const value = area?.getItem(name)
    if (value) return value
  }
  return ''
}

export function remember(name, value) {
  try {
    for (const area of [sessionStorage, localStorage]) value ? area.setItem(name, value) : area.removeItem(name)
    return true
  } catch {
    return false
  }
}

export function keyFrom(part, name) {
  const value = parts.get(part)
  if (!value) return remembered(name)
  // A key that stays in the address ends up in screenshots and histories.
  if (remember(name, value)) history.replaceState(null, '', location.pathname)
  return value
}

export class RequestError extends Error {
  constructor(words, status) {
    super(words)
    this.status = status // 0: no answer came
  }
}

export async function request(path, { key = '', body, text, keepalive = false } = {}) {
  const headers = {}
  if (key) headers.Authorization = `Bearer ${key}`
  if (body !== undefined) headers['Content-Type'] = 'application/json'
  let response
  try {
    response = await fetch(path, {
      method: body === undefined ? 'GET' : 'POST',
      headers,
      keepalive,
      cache: 'no-store',
      body: body === undefined ? undefined : JSON.stringify(body),
    })
  } catch {
    throw new RequestError('the server does not answer', 0)
  }
  if (response.ok) return text ? response : response.json()
  const answer = await response.json().catch(() => ({}))
  const words = [answer.error || `the server answers with status ${response.status}`, answer.todo].filter(Boolean).join('. ')
  throw new RequestError(words, response.status)
}
