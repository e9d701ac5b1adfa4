// Votes on their way to the server. A vote leaves this queue only when the server has acknowledged it: it lies in
// localStorage until then, under its own name, so that two tabs never overwrite each other's votes.

const BATCH = 50
const BATCH_CHARACTERS = 200_000 // the server refuses bodies above 1 MB
const DELAYS = [0.5, 1, 2, 4, 8] // seconds between attempts; a new vote is an attempt as well

// `crypto.randomUUID` exists on https and loopback only, and with --lan the page is neither.
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  bytes[6] = (bytes[6] & 15) | 64
  bytes[8] = (bytes[8] & 63) | 128
  return Array.from(bytes, (byte, at) => ([4, 6, 8, 10].includes(at) ? '-' : '') + byte.toString(16).padStart(2, '0')).join('')
}

export class VotesQueue {
  // send(votes, keepalive) -> {stored, refused}; changed(state) after each change; refused(vote, words)
  constructor(rater, { send, changed, refused }) {
    Object.assign(this, { send, changed, refused, votes: new Map(), running: null, failures: 0, words: '', unsaved: false, timer: 0 })
    this.prefix = `sawyer-vote:${rater}:`
    try {
      for (const name of Object.keys(localStorage)) {
        if (name.startsWith(this.prefix)) {
          const vote = JSON.parse(localStorage.getItem(name))
          this.votes.set(vote.id, vote)
        }
      }
    } catch {
      this.unsaved = true
    }
    window.addEventListener('online', () => this.flush())
    window.addEventListener('offline', () => this.tell())
    window.addEventListener('pagehide', () => this.flush(true))
  }

  add(vote) {
    this.votes.set(vote.id, vote)
    try {
      localStorage.setItem(this.prefix + vote.id, JSON.stringify(vote))
    } catch {
      this.unsaved = true
    }
    this.tell()
  }

  remove(id) {
    this.votes.delete(id)
    try {
      localStorage.removeItem(this.prefix + id)
    } catch {
      // it was never stored
    }
  }

  get assignments() {
    return new Set(Array.from(this.votes.values(), (vote) => vote.assignment))
  }

  tell() {
    this.changed({ waiting: this.votes.size, words: this.words, failed: this.failures > 0 || !navigator.onLine, unsaved: this.unsaved })
  }

  batch() {
    const votes = []
    let characters = 0
    for (const vote of this.votes.values()) {
      characters += JSON.stringify(vote).length
      if (votes.length && (votes.length === BATCH || characters > BATCH_CHARACTERS)) break
      votes.push(vote)
    }
    return votes
  }

  // Sends what waits, one request at a time and in the order of the votes. True: nothing waits any more.
  flush(keepalive = false) {
    this.running ??= this.sendAll(keepalive).finally(() => (this.running = null))
    return this.running
  }

  async sendAll(keepalive) {
    clearTimeout(this.timer)
    try {
      while (this.votes.size) {
        const votes = this.batch()
        const answer = await this.send(votes, keepalive)
        for (const id of answer.stored) this.remove(id)
        for (const { id, error } of answer.refused) {
          const vote = this.votes.get(id)
          this.remove(id)
          if (vote) this.refused(vote, error)
        }
        this.failures = 0
        this.words = ''
        if (votes.some((vote) => this.votes.has(vote.id))) throw new Error('the server has not stored all votes')
        this.tell()
      }
      return true
    } catch (error) {
      this.words = error.status === 0 ? '' : error.message
      const delay = DELAYS[Math.min(this.failures, DELAYS.length - 1)]
      this.failures += 1
      this.timer = setTimeout(() => this.flush(), delay * 1000)
      this.tell()
      return false
    }
  }
}
