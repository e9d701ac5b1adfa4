// The rating page: one item at a time, judged by a key, a click or a touch.

import { keyFrom, remember, remembered, request } from './api.js'
import { Component, html, render } from './preact-htm.js'
import { Answer, countWords, Help, NameForm, Prompt, VoteBar } from './rating_parts.js'
import { actionOf, isForPage, keyOf, ranksOf, typedOf, withoutLast, withRank, withTie, wordsOf } from './rating_keys.js'
import { uuid, VotesQueue } from './votes_queue.js'

const PREFETCH = 25
const REFILL_BELOW = 13
const TRAIL = 100 // earlier votes kept here; still earlier ones come from the server again
const DRAFT = 'sawyer-draft:'

const afterPaint = (work) => requestAnimationFrame(() => setTimeout(work))

function draftOf(assignment) {
  try {
    return JSON.parse(sessionStorage.getItem(DRAFT + assignment)) ?? {}
  } catch {
    return {}
  }
}

function keepDraft({ item, rewrite, note }) {
  try {
    if (rewrite || note) sessionStorage.setItem(DRAFT + item.assignment, JSON.stringify({ rewrite, note }))
    else sessionStorage.removeItem(DRAFT + item.assignment)
  } catch {
    // a draft that cannot be kept is lost at a reload only
  }
}

// What the page knows of an item: the rater's last choice, and the texts beside it.
function entryOf(item) {
  return { item, choice: item.vote?.choice ?? null, rewrite: item.vote?.rewrite ?? '', note: item.vote?.note ?? '', ...draftOf(item.assignment) }
}

class RatingPage extends Component {
  constructor() {
    super()
    this.token = keyFrom('token', 'sawyer-token')
    this.key = keyFrom('key', 'sawyer-key')
    this.trail = []
    this.ahead = []
    this.votes = 0 // given on this page
    this.front = null // the newest item, not judged yet
    this.at = 0 // place in the trail; its length means the front
    this.state = {
      phase: 'loading', net: { waiting: 0 }, message: null, done: 0, left: 0, typed: [], scores: [], card: 0, fields: false,
      help: false, mono: remembered('sawyer-mono') === '1', difference: false, tall: false, announced: '',
    }
  }

  componentDidMount() {
    document.addEventListener('keydown', (event) => this.onKey(event))
    window.addEventListener('online', () => this.refill())
    window.addEventListener('beforeunload', (event) => {
      if (this.queue?.unsaved && this.queue.votes.size) event.preventDefault()
    })
    this.start()
  }

  get entry() {
    return this.trail[this.at] ?? this.front
  }

  get isEarlier() {
    return this.at < this.trail.length
  }

  // --- beginning

  async start() {
    if (!this.key) return this.setState({ phase: 'name' })
    clearTimeout(this.messageTimer)
    try {
      this.me = await request('/api/me', { key: this.key })
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        this.key = ''
        return this.setState({ phase: 'name', message: null })
      }
      setTimeout(() => this.start(), 2000)
      return this.setState({ phase: 'loading', message: { words: `Waiting: ${error.message}`, bad: true } })
    }
    this.setState({ message: null, done: this.me.done, left: this.me.left })
    this.queue = new VotesQueue(this.key, {
      send: (votes, keepalive) => request('/api/votes', { key: this.key, keepalive, body: { votes } }),
      changed: (net) => {
        this.setState({ net })
        if (!net.failed && this.failures) this.refill() // the server answers again
      },
      refused: (vote, words) => this.tell(`A vote was refused: ${words}`, true),
    })
    // Votes of an earlier visit first, so that their items do not come again.
    await this.queue.flush()
    await this.refill()
  }

  async join(name) {
    try {
      const { key } = await request('/api/join', { key: this.token, body: { name } })
      this.key = key
      remember('sawyer-key', key)
      remember('sawyer-name', name)
      this.setState({ phase: 'loading', message: null })
      await this.start()
    } catch (error) {
      const closed = error.status === 401 || error.status === 403
      this.tell(closed ? 'Here people come by a link of their own: ask the owner for yours.' : error.message, true)
    }
  }

  leave() {
    remember('sawyer-key', '')
    location.reload()
  }

  // --- items

  async refill() {
    if (!this.queue || this.fetching || this.exhausted || this.ahead.length >= REFILL_BELOW) return
    this.fetching = true
    clearTimeout(this.refillTimer)
    // The server's counts are of this moment: votes on the way to it, or given meanwhile, are not among them.
    const counted = this.queue.votes.size ? null : this.votes
    try {
      const answer = await request(`/api/items?count=${PREFETCH}`, { key: this.key })
      this.failures = 0
      const known = this.queue.assignments
      for (const entry of [...this.trail, this.front]) if (entry) known.add(entry.item.assignment)
      for (const item of this.ahead) known.add(item.assignment)
      const fresh = answer.items.filter((item) => !known.has(item.assignment) && !item.vote)
      this.ahead.push(...fresh)
      this.exhausted = !fresh.length && answer.items.length < PREFETCH
      if (counted === this.votes) this.setState({ done: answer.done, left: answer.left })
      if (!this.front) this.advance()
    } catch (error) {
      if (error.status === 401) return this.setState({ phase: 'name' })
      this.failures = (this.failures ?? 0) + 1
      this.refillTimer = setTimeout(() => this.refill(), Math.min(8, 2 ** (this.failures - 1)) * 1000)
      if (!this.front) this.setState({ phase: 'waiting', message: error.status ? { words: error.message, bad: true } : null })
    } finally {
      this.fetching = false
    }
  }

  advance() {
    const item = this.ahead.shift()
    this.front = item ? entryOf(item) : null
    if (this.trail.length > TRAIL) this.trail = this.trail.slice(-TRAIL)
    this.go(this.trail.length)
  }

  // Shows the entry at a place of the trail, or the front.
  go(at, announced = '') {
    this.at = at
    const entry = this.entry
    if (entry) entry.since = performance.now()
    this.tens = null
    this.setState({
      phase: entry ? 'rating' : this.exhausted ? 'finished' : 'waiting',
      typed: entry?.choice?.ranks ? typedOf(entry.choice.ranks) : [],
      scores: entry?.choice?.scores ?? [],
      card: 0,
      fields: Boolean(entry?.rewrite || entry?.note),
      message: this.state.message?.bad ? this.state.message : null,
      announced: `${announced} ${!entry ? '' : this.isEarlier ? `Earlier vote: ${entry.choice ? wordsOf(entry.choice, entry.item.method) : ''}` : 'Next item'}`,
    }, () => entry?.item.method === 'score' && matchMedia('(pointer: fine)').matches && document.querySelector('[role=slider]')?.focus({ preventScroll: true }))
  }

  async back() {
    if (this.entry && !this.isEarlier && (this.state.typed.length || this.state.scores.some((score) => score != null))) {
      const { typed, scores } = this.state
      const last = scores.findLastIndex((score) => score != null)
      return this.setState({ typed: withoutLast(typed), scores: scores.map((score, at) => (at === last ? null : score)) })
    }
    if (this.at > 0) return this.go(this.at - 1)
    if (this.goingBack || !this.queue) return
    this.goingBack = true
    try {
      if (!(await this.queue.flush())) return this.tell('Earlier votes wait for the network.')
      const first = this.trail[0]
      const answer = await request(`/api/previous${first ? `?before=${first.item.assignment}` : ''}`, { key: this.key })
      const item = 'item' in answer ? answer.item : answer
      if (!item) return this.tell(first ? 'This is your first vote.' : 'There is no vote of yours yet.')
      this.trail.unshift(entryOf(item))
      this.go(this.at === 0 ? 0 : this.at + 1)
    } catch (error) {
      this.tell(`Earlier votes wait: ${error.message}`, true)
    } finally {
      this.goingBack = false
    }
  }

  // --- judging

  vote(choice) {
    const { entry, isEarlier } = this
    if (!entry) return
    const { item } = entry
    entry.choice = choice
    this.votes += 1
    this.queue.add({
      id: uuid(), assignment: item.assignment, choice, seconds: Math.round(performance.now() - entry.since) / 1000,
      rewrite: entry.rewrite.trim(), note: entry.note.trim(),
    })
    keepDraft({ item, rewrite: '', note: '' })
    const words = wordsOf(choice, item.method)
    if (isEarlier) this.go(this.at + 1, words)
    else {
      this.trail.push(entry)
      this.setState(({ done, left }) => ({ done: done + 1, left: Math.max(0, left - 1) }))
      this.advance()
      this.setState({ announced: `${words}. ${this.state.announced}` })
    }
    // The next item is on the screen before anything is sent.
    afterPaint(async () => {
      await this.queue.flush()
      this.refill()
    })
  }

  enter() {
    const { entry } = this
    if (!entry) return
    const { method, answers } = entry.item
    let choice = this.isEarlier ? entry.choice : null
    if (method === 'rank' && this.state.typed.length) {
      const ranks = ranksOf(this.state.typed, answers.length)
      if (!ranks) return this.tell(`${countWords(answers.length - this.state.typed.flat().length, 'answer has', 'answers have')} no rank yet.`)
      choice = { ranks }
    } else if (method === 'score' && (this.state.scores.some((score) => score != null) || !choice?.skip)) {
      const scores = answers.map((_, at) => this.state.scores[at] ?? null)
      const missing = scores.filter((score) => score === null).length
      if (missing === scores.length) return this.tell('Give at least one score.')
      if (missing && this.warned !== entry && !this.isEarlier) {
        this.warned = entry
        document.querySelectorAll('[role=slider]')[scores.indexOf(null)]?.focus()
        return this.tell(`${countWords(missing, 'answer has', 'answers have')} no score: Enter once more leaves ${missing === 1 ? 'it' : 'them'} out.`)
      }
      choice = { scores }
    }
    if (!choice) return
    const same = this.isEarlier && JSON.stringify(choice) === JSON.stringify(entry.choice) && !entry.edited
    if (same) this.go(this.at + 1)
    else this.vote(choice)
  }

  setScore(answer, score) {
    this.tens = score === 1 ? answer : null
    this.setState(({ scores }) => {
      const changed = this.entry.item.answers.map((_, at) => scores[at] ?? null)
      changed[answer] = score
      return { scores: changed }
    })
  }

  typeDigit(digit) {
    const sliders = [...document.querySelectorAll('[role=slider]')]
    let answer = sliders.indexOf(document.activeElement)
    if (answer < 0) answer = Math.max(0, sliders.findIndex((_, at) => this.state.scores[at] == null))
    sliders[answer]?.focus()
    this.setScore(answer, digit === 0 && this.tens === answer ? 10 : digit)
  }

  act(name, value) {
    const { entry } = this
    if (name === 'undo') return this.back()
    if (name === 'help') return this.setState({ help: true })
    if (!entry) return
    if (name === 'vote') this.vote(value)
    else if (name === 'skip') this.vote({ skip: true })
    else if (name === 'enter') this.enter()
    else if (name === 'rank') this.setState(({ typed }) => ({ typed: withRank(typed, value) }))
    else if (name === 'tie') this.setState(({ typed }) => ({ typed: withTie(typed) }))
    else if (name === 'digit') this.typeDigit(value)
    else if (name === 'score') this.typeDigit(value)
    else if (name === 'front' && this.isEarlier) this.go(this.trail.length)
    else if (name === 'mono') {
      remember('sawyer-mono', this.state.mono ? '' : '1')
      this.setState({ mono: !this.state.mono, difference: false })
    } else if (name === 'difference') this.setState({ difference: !this.state.difference, mono: false })
    else if (name === 'tall') this.setState({ tall: !this.state.tall })
    else if (name === 'rewrite' || name === 'note') this.setState({ fields: true }, () => document.getElementById(name)?.focus())
    else if (name === 'fields') this.setState({ fields: !this.state.fields })
  }

  onKey(event) {
    if (this.state.help) {
      if (event.key === '?') this.setState({ help: false })
      return
    }
    if (event.key === 'Escape' && event.target.closest?.('textarea')) return event.target.blur()
    if (this.state.phase === 'name' || this.state.phase === 'loading' || !isForPage(event)) return
    const key = keyOf(event)
    // Space and Enter belong to a button that has the focus.
    if ((key === ' ' || key === 'Enter') && event.target.closest?.('button')) return
    if (key === 'Tab') return this.onTab(event)
    if (this.scroll(key) || (event.target.getAttribute?.('role') === 'slider' && this.slide(key, event))) return event.preventDefault()
    const entry = this.entry
    const action = actionOf(key, entry?.item.method ?? 'pair', entry?.item.answers.length ?? 0)
    if (!action) return
    event.preventDefault()
    // A key that is held down would judge everything ahead.
    if (!event.repeat) this.act(...action)
  }

  // Between scores Tab goes straight to the next answer's; past the last one it goes where it always goes.
  onTab(event) {
    const sliders = [...document.querySelectorAll('[role=slider]')]
    const at = sliders.indexOf(document.activeElement)
    const next = at < 0 ? null : sliders[at + (event.shiftKey ? -1 : 1)]
    if (!next) return
    event.preventDefault()
    next.focus({ preventScroll: true })
  }

  slide(key, event) {
    const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[key]
    if (!step) return false
    const answer = Number(event.target.dataset.answer)
    const score = this.state.scores[answer]
    this.setScore(answer, score == null ? (step > 0 ? 0 : 10) : Math.min(10, Math.max(0, score + step)))
    return true
  }

  // The page itself does not scroll, the answers do: they take the keys that scroll a page.
  scroll(key) {
    if (document.activeElement !== document.body) return false
    const answers = document.querySelector('.answers')
    const distance = { ArrowDown: 60, ArrowUp: -60, PageDown: answers?.clientHeight * 0.9, PageUp: answers?.clientHeight * -0.9, Home: -1e9, End: 1e9 }[key]
    if (!answers || !distance) return false
    answers.scrollBy({ top: distance })
    return true
  }

  tell(words, bad = false) {
    clearTimeout(this.messageTimer)
    if (!bad) this.messageTimer = setTimeout(() => this.setState({ message: null }), 6000)
    this.setState({ message: { words, bad } })
  }

  // --- drawing

  netWords() {
    const { waiting, words, failed, unsaved } = this.state.net
    if (waiting && failed) return `${countWords(waiting, 'vote waits', 'votes wait')}${words ? `: ${words}` : ' for the network'}`
    return waiting && unsaved ? 'This browser stores nothing: keep the page open until the votes are sent' : ''
  }

  render() {
    const { phase, message, help, announced, net } = this.state
    const netWords = this.netWords()
    return html`
      <div class="frame" data-method=${this.entry?.item.method} data-phase=${phase}>
        ${this.renderHead(netWords)}
        ${phase === 'name' && html`<${NameForm} name=${remembered('sawyer-name')} join=${(name) => this.join(name)} />`}
        ${phase === 'loading' && html`<main class="notice"><p>Loading</p></main>`}
        ${phase === 'waiting' && html`<main class="notice"><h2>A moment</h2><p>The next items wait for the network.</p></main>`}
        ${phase === 'finished' && this.renderEnd()}
        ${phase === 'rating' && this.renderItem()}
        <div class="sr" aria-live="polite">${announced}</div>
        <div class=${`pill ${net.failed || message?.bad ? 'bad' : ''}`} role="status" hidden=${!netWords && !message}>
          <span>${netWords && html`<b>${netWords}</b>`} ${message?.words}</span>
          ${message?.bad && html`<button aria-label="Close the message" onClick=${() => this.setState({ message: null })}>✕</button>`}
        </div>
        ${help && html`<${Help} method=${this.entry?.item.method ?? this.me?.method ?? 'pair'} name=${this.me?.name} close=${() => this.setState({ help: false })} leave=${() => this.leave()} />`}
      </div>`
  }

  renderHead(netWords) {
    const { phase, done, left, mono, difference, fields, net } = this.state
    const active = phase === 'rating'
    const toggle = (name, words, sign, on) =>
      html`<button class="tool" aria-pressed=${String(on)} aria-label=${words} title=${words} disabled=${!active} onClick=${(event) => this.press(event, name)}>${sign}</button>`
    return html`<header>
      <h1 class="brand">Rate answers</h1>
      ${this.me && html`<span class="progress"><progress max=${done + left || 1} value=${done} aria-label="items judged"></progress>
        <span><b>${done}</b> done<span class="wide">, ${left} left</span></span></span>`}
      <span class=${`saved ${netWords ? 'bad' : ''}`}>${this.me && (netWords ? 'not saved' : net.waiting ? 'saving' : 'all saved')}</span>
      ${this.me && html`<span class="tools">
        ${toggle('mono', 'Plain text, monospace (m)', 'Mono', mono)}
        ${toggle('difference', 'Mark the differences (v)', 'Diff', difference)}
        ${toggle('fields', 'A better answer, a note (r, n)', 'Note', fields)}
        <button class="tool" aria-label="Keys and help (?)" title="Keys and help (?)" onClick=${() => this.setState({ help: true })}>?</button>
      </span>`}
    </header>`
  }

  // A click leaves the focus on its button, where the next Space would press it once more: pointers leave no focus.
  press(event, name, value) {
    if (event.detail > 0) event.currentTarget.blur()
    this.act(name, value)
  }

  renderEnd() {
    return html`<main class="notice"><h2>All done</h2>
      <p>Thank you${this.me?.name ? `, ${this.me.name}` : ''}. You judged ${countWords(this.state.done, 'item', 'items')}.</p>
      <p class="row"><button class="choice" onClick=${() => this.back()}>Back to the last vote <kbd>u</kbd></button>
      <button class="choice" onClick=${() => { this.exhausted = false; this.refill() }}>Look for more</button></p></main>`
  }

  renderItem() {
    const { entry, isEarlier } = this
    const { typed, scores, mono, difference, tall, card, fields } = this.state
    const { item } = entry
    const count = item.answers.length
    const show = (at) => {
      const answers = document.querySelector('.answers')
      answers.scrollTo({ left: answers.children[at].offsetLeft - answers.offsetLeft })
    }
    const onScroll = (event) => {
      const at = Math.round(event.currentTarget.scrollLeft / event.currentTarget.clientWidth)
      if (at !== this.state.card && at < count) this.setState({ card: at })
    }
    const edit = (field) => (event) => {
      entry[field] = event.target.value
      entry.edited = true
      keepDraft(entry)
      this.setState({})
    }
    return html`
      <main key=${`${item.assignment}-${this.at}`} class="item">
        <${Prompt} messages=${item.prompt} tall=${tall} toggle=${() => this.act('tall')} />
        <nav class="cards" aria-label="Answers">${item.answers.map((_, at) => html`<button aria-current=${String(card === at)} onClick=${() => show(at)}>Answer ${at + 1}</button>`)}</nav>
        <div class="answers" data-count=${count} onScroll=${onScroll}>
          ${item.answers.map((text, at) => html`<${Answer} number=${at + 1} text=${text} mono=${mono} other=${difference ? item.answers[at === 0 ? 1 : 0] : null}
            method=${item.method} rank=${this.rankOf(typed, at)} score=${scores[at] ?? null}
            setRank=${(event) => this.press(event, 'rank', at)} setScore=${(score) => this.setScore(at, score)} />`)}
        </div>
        ${fields && html`<div class="fields">
          <label>A better answer, in your words <textarea id="rewrite" rows="2" dir="auto" maxlength="100000" value=${entry.rewrite} onInput=${edit('rewrite')}></textarea></label>
          <label>Note <textarea id="note" rows="2" dir="auto" maxlength="10000" value=${entry.note} onInput=${edit('note')}></textarea></label>
        </div>`}
        ${isEarlier && html`<p class="earlier"><span>Vote ${this.trail.length - this.at} before the newest: <b>${entry.choice ? wordsOf(entry.choice, item.method) : 'none'}</b>. A new choice replaces it.</span>
          <span class="row"><button onClick=${() => this.go(this.at + 1)}>Keep <kbd>Enter</kbd></button><button onClick=${() => this.go(this.trail.length)}>To the newest <kbd>Esc</kbd></button></span></p>`}
        <${VoteBar} method=${item.method} count=${count} choice=${entry.choice} typed=${typed} press=${(event, name, value) => this.press(event, name, value)} />
      </main>`
  }

  rankOf(typed, answer) {
    const group = typed.findIndex((each) => each.includes(answer))
    return group < 0 ? null : group + 1
  }
}

render(html`<${RatingPage} />`, document.getElementById('page'))
