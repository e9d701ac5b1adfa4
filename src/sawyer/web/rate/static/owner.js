// The owner's page: who has judged how much, how well people agree, what they contradict each other on.

import { keyFrom, request } from './api.js'
import { Component, html, render, useState } from './preact-htm.js'
import { countWords, GRADED } from './rating_parts.js'
import { wordsOf } from './rating_keys.js'
import { markdown, cutAt } from './reading.js'

const token = keyFrom('token', 'sawyer-token')
const POLL = 5000 // milliseconds, where the stream of events cannot be had

const SHOWN = 10 // conflicts at once

const percent = (value) => (value == null ? '–' : `${Math.round(100 * value)} %`)
const shown = (figure) => (figure?.value == null ? '–' : figure.is_share ? percent(figure.value) : figure.value.toFixed(2))
const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`
const number = (value) => value.toLocaleString('en')

// Server-sent events by fetch, because EventSource cannot send the owner's token. Calls `told` with each state.
async function follow(told, failed) {
  let last = ''
  for (;;) {
    try {
      const headers = { Accept: 'text/event-stream' }
      if (token) headers.Authorization = `Bearer ${token}`
      if (last) headers['Last-Event-ID'] = last
      const response = await fetch('/api/events', { headers, cache: 'no-store' })
      if (!response.ok || !response.headers.get('Content-Type')?.includes('event-stream')) throw new Error('no stream')
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
      let text = ''
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        text += part.value.replaceAll('\r', '')
        const events = text.split('\n\n')
        text = events.pop()
        for (const event of events) {
          const lines = event.split('\n')
          const data = lines.filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trimStart())
          last = lines.find((line) => line.startsWith('id:'))?.slice(3).trim() ?? last
          if (data.length) told(JSON.parse(data.join('\n')))
        }
      }
    } catch {
      // the state is requested below, and the stream again after it
    }
    await new Promise((resolve) => setTimeout(resolve, POLL))
    try {
      told(await request('/api/progress', { key: token }))
    } catch (error) {
      failed(error)
    }
  }
}

function Interval({ figure }) {
  if (figure?.value == null) return null
  const floor = figure.is_share ? 0 : -1
  const place = (value) => (100 * (Math.max(floor, Math.min(1, value)) - floor)) / (1 - floor)
  return html`<span class="whisker" role="img" aria-label=${figure.words}><svg viewBox="0 0 100 14" preserveAspectRatio="none">
    ${floor < 0 && html`<line class="zero" x1="50" x2="50" y1="0" y2="14" vector-effect="non-scaling-stroke" />`}
    <rect class="range" x=${place(figure.low)} width=${Math.max(1, place(figure.high) - place(figure.low))} y="4" height="6" />
    <rect class="point" x=${Math.min(98, place(figure.value))} width="2" y="1" height="12" /></svg></span>`
}

function Figures({ agreement }) {
  const figures = [agreement.same_verdict, agreement.same_order, ...agreement.alphas, ...agreement.taus, agreement.self_consistency].filter(Boolean)
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Agreement"><table><thead><tr><th>Figure</th><th class="num">Value</th><th>95 % interval</th><th></th><th class="num">Prompts</th></tr></thead>
    <tbody>${figures.map((figure) => html`<tr><td>${figure.name}</td><td class="num"><b>${shown(figure)}</b></td>
      ${figure.value == null ? html`<td colspan="3" class="soft">${figure.reason}</td>` : html`<td class="num">${figure.is_share ? `${Math.round(100 * figure.low)} to ${Math.round(100 * figure.high)} %` : `${figure.low.toFixed(2)} to ${figure.high.toFixed(2)}`}</td>
      <td><${Interval} figure=${figure} /></td><td class="num">${number(figure.prompts)}</td>`}</tr>`)}</tbody></table></div>`
}

function Raters({ profiles, votes }) {
  const names = new Set(profiles.map(({ name }) => name))
  const idle = Object.keys(votes).filter((name) => !names.has(name))
  const columns = ['left_share', 'longer_share', 'tie_share', 'too_fast_share', 'self_consistency', 'agreement']
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Raters"><table><thead><tr><th>Rater</th><th class="num">Items</th><th class="num">Skipped</th><th class="num">Seconds</th>
    <th class="num">First wins</th><th class="num">Longer wins</th><th class="num">Ties</th><th class="num">Too fast</th><th class="num">Same twice</th><th class="num">With others</th></tr></thead>
    <tbody>${profiles.map((profile) => html`<tr class=${profile.flags.length ? 'flagged' : ''}><td class="name"><b>${profile.name}</b>${profile.kind !== 'person' && html` <span class="soft small">${profile.kind}</span>`}</td>
      <td class="num">${number(profile.items)}</td><td class="num">${number(profile.skips)}</td><td class="num">${profile.median_seconds == null ? '–' : profile.median_seconds.toFixed(1)}</td>
      ${columns.map((name) => html`<td class="num" title=${profile[name]?.words ?? ''}>${shown(profile[name])}</td>`)}</tr>
      ${profile.flags.length > 0 && html`<tr><td colspan="10" class="flags">${profile.flags.map((flag) => html`<span class="chip">${flag}</span>`)}</td></tr>`}`)}
    ${idle.map((name) => html`<tr><td class="name"><b>${name}</b></td><td class="num">${number(votes[name])}</td><td colspan="8" class="soft">no judgement yet</td></tr>`)}</tbody></table></div>`
}

const shortText = (text) => html`<div class="text">${markdown(text.slice(0, cutAt(text, 4000)))}${text.length > 4000 && html`<p class="soft">(${number(text.length)} characters)</p>`}</div>`

function Conflict({ conflict, settle }) {
  const { method, prompt, answers, votes } = conflict
  const [values, setValues] = useState(answers.map(() => ''))
  const listed = method === 'rank' || method === 'score'
  const options = method === 'rank' ? answers.map((_, at) => at + 1) : [...Array(11).keys()]
  const grades = method === 'pair' ? GRADED.filter(([grade]) => Math.abs(grade) === 1 || grade === 0).map(([grade]) => [grade, wordsOf({ grade }, 'pair')]) : GRADED.map(([grade]) => [grade, wordsOf({ grade }, 'graded')])
  // Ranks without gaps: 1, 3, 3 becomes 1, 2, 2.
  const ranks = () => {
    const used = [...new Set(values.map(Number))].sort((a, b) => a - b)
    return values.map((value) => used.indexOf(Number(value)) + 1)
  }
  const choice = () => (method === 'rank' ? { ranks: ranks() } : { scores: values.map((value) => (value === '' ? null : Number(value))) })
  const complete = method === 'rank' ? values.every((value) => value !== '') : values.some((value) => value !== '')
  return html`<article class="panel conflict">
    <div class="question">${prompt.map(({ role, content }) => html`<div>${prompt.length > 1 && html`<span class="soft small">${role}</span>`}${shortText(content)}</div>`)}</div>
    <div class="columns">${answers.map((text, at) => html`<div class="column" tabindex="0" role="group" aria-label=${`Answer ${at + 1}`}><h3>Answer ${at + 1}</h3>${shortText(text)}</div>`)}</div>
    <ul>${votes.map(({ rater, choice, note }) => html`<li><b>${rater}</b>: ${wordsOf(choice, method)}${note && html` <span class="soft">(${note})</span>`}</li>`)}</ul>
    <div class="row settle" role="group" aria-label="Your judgement">
      ${listed
        ? html`${answers.map((_, at) => html`<label class="check">Answer ${at + 1} <select value=${values[at]} onChange=${(event) => setValues(values.map((value, other) => (other === at ? event.target.value : value)))}>
            <option value="">${method === 'rank' ? 'rank' : 'score'}</option>${options.map((value) => html`<option value=${value}>${value}</option>`)}</select></label>`)}
          <button class="choice ready" disabled=${!complete} onClick=${() => settle(conflict.item, choice())}>Settle</button>`
        : html`${grades.map(([grade, words]) => html`<button class="choice" onClick=${() => settle(conflict.item, { grade })}>${words}</button>`)}
          <button class="choice" onClick=${() => settle(conflict.item, { grade: 0, both_bad: true })}>both are bad</button>`}
    </div></article>`
}

function People({ tell, lost }) {
  const [name, setName] = useState('')
  const [link, setLink] = useState(null)
  const submit = async (event) => {
    event.preventDefault()
    try {
      setLink(await request('/api/raters', { key: token, body: { name: name.trim() } }))
      setName('')
    } catch (error) {
      lost(error)
    }
  }
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(link.link)
      tell('The link is copied.')
    } catch {
      tell('Select the link and copy it: this browser does not allow the page to.')
    }
  }
  return html`<section class="panel"><h2>People</h2><p class="soft small">Each person judges under a link of their own. Whoever has the link judges under that name.</p>
    <form class="row" onSubmit=${submit}><input aria-label="Name of the person" placeholder="Name" maxlength="60" required value=${name} onInput=${(event) => setName(event.target.value)} /><button class="choice ready">Make a link</button></form>
    ${link && html`<p class="small">Link of <b>${link.name}</b>:</p><p class="made">${link.link}</p><p class="row"><button class="choice" onClick=${copy}>Copy the link</button></p>`}</section>`
}

const EXPORTS = { answers: 'Answers with scores (JSONL)', pairs: 'Preference pairs (JSONL)', csv: 'All votes (CSV)', demonstrations: 'Rewrites as demonstrations (JSONL)' }

function Files({ tell, lost, refresh }) {
  const [named, setNamed] = useState(false)
  const download = async (what) => {
    try {
      const response = await request(`/api/export?what=${what}&raters=${named ? 1 : 0}`, { key: token, text: true })
      const link = document.createElement('a')
      link.href = URL.createObjectURL(await response.blob())
      link.download = /filename="?([^";]+)/.exec(response.headers.get('Content-Disposition') ?? '')?.[1] ?? `${what}.txt`
      link.click()
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
    } catch (error) {
      lost(error)
    }
  }
  const read = async (event) => {
    const [file] = event.target.files
    if (!file) return
    try {
      const summary = await request('/api/import', { key: token, body: { name: file.name, text: await file.text() } })
      const { votes, items, raters, left_out } = summary
      const reasons = Object.entries(left_out).map(([reason, count]) => `${number(count)} (${reason})`)
      const taken = [countWords(votes, 'vote', 'votes'), countWords(raters.length, 'rater', 'raters'), countWords(items, 'new item', 'new items')]
      tell(`${file.name}: ${taken.join(', ')}${reasons.length ? `; left out: ${reasons.join(', ')}` : ''}`)
      refresh()
    } catch (error) {
      lost(error)
    }
    event.target.value = ''
  }
  return html`<section class="panel"><h2>Files</h2>
    <div class="row">${Object.entries(EXPORTS).map(([what, words]) => html`<button class="choice" onClick=${() => download(what)}>${words}</button>`)}</div>
    <p><label class="check"><input type="checkbox" checked=${named} onChange=${(event) => setNamed(event.target.checked)} /> with the raters' names</label></p>
    <h3><label for="import">Import judgements from Argilla, Label Studio or feedloop</label></h3>
    <input id="import" type="file" accept=".json,.jsonl" onChange=${read} /></section>`
}

class OwnerPage extends Component {
  constructor() {
    super()
    this.state = { progress: null, agreement: null, conflicts: [], settled: 0, message: null }
    this.tell = (words, bad = false) => this.setState({ message: { words, bad } })
    this.lost = (error) => this.tell(error.message, true)
  }

  componentDidMount() {
    this.refresh().then(() => follow((state) => this.take(state), (error) => this.lost(error)))
  }

  async refresh() {
    try {
      await this.take(await request('/api/progress', { key: token }))
    } catch (error) {
      this.lost(error)
    }
  }

  async take(state) {
    this.setState({ ...state, message: this.state.message?.bad ? null : this.state.message })
    const { conflicts } = await request('/api/conflicts', { key: token }).catch(() => ({}))
    if (conflicts) this.setState({ conflicts })
  }

  async settle(item, choice) {
    try {
      await request('/api/adjudications', { key: token, body: { item, choice } })
      this.setState(({ conflicts }) => ({ conflicts: conflicts.filter((each) => each.item !== item) }))
      this.tell('Settled: your judgement replaces the votes on this item.')
    } catch (error) {
      this.lost(error)
    }
  }

  render() {
    const { progress, agreement, conflicts, message } = this.state
    const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0)
    return html`<header><span class="brand">Ratings</span><span class="soft">${progress?.method}</span><a href="/">Rate</a></header>
      <main>
        ${!progress && !message && html`<p>Loading</p>`}
        ${progress && html`<h1>Progress and agreement</h1>
          <div class="tiles">
            <div class="tile"><b>${number(progress.judged_items)}</b><span>of ${number(progress.items)} items judged</span><progress max=${progress.items || 1} value=${progress.judged_items} aria-label="items judged"></progress></div>
            <div class="tile"><b>${number(sum(progress.votes))}</b><span>votes of ${Object.keys(progress.votes).length} raters</span></div>
            <div class="tile"><b>${number(agreement.shared_items)}</b><span>items judged by several</span></div>
            <div class="tile"><b>${number(conflicts.length)}</b><span>open conflicts</span></div>
          </div>
          ${agreement.ceiling_words && html`<p class="lead">${sentence(agreement.ceiling_words)}</p>`}
          <h2>Raters</h2><div class="panel"><${Raters} profiles=${agreement.profiles} votes=${progress.votes} /></div>
          <h2>Agreement</h2><div class="panel"><${Figures} agreement=${agreement} /></div>
          <div class="grid2 lower"><${People} tell=${this.tell} lost=${this.lost} /><${Files} tell=${this.tell} lost=${this.lost} refresh=${() => this.refresh()} /></div>
          <h2>Conflicts</h2>
          ${conflicts.length === 0 ? html`<p class="soft">None is open.</p>` : html`<p class="soft">The widest first. Your judgement replaces the votes on the item.</p>`}
          ${conflicts.slice(0, SHOWN).map((conflict) => html`<${Conflict} key=${conflict.item} conflict=${conflict} settle=${(item, choice) => this.settle(item, choice)} />`)}
          ${conflicts.length > SHOWN && html`<p class="soft">and ${number(conflicts.length - SHOWN)} more, which come as these are settled</p>`}`}
      </main>
      <div class=${`pill ${message?.bad ? 'bad' : ''}`} role="status" hidden=${!message}><span>${message?.words}</span><button aria-label="Close the message" onClick=${() => this.setState({ message: null })}>✕</button></div>`
  }
}

render(html`<${OwnerPage} />`, document.getElementById('page'))
