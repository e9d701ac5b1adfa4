// Parts of the rating page that draw what they are given.

import { Component, html, useEffect, useRef, useState } from './preact-htm.js'
import { CAP, cutAt, differences, markdown, pieces } from './reading.js'
import { helpOf, rankWords, ranksOf } from './rating_keys.js'

export const countWords = (count, one, many) => `${count.toLocaleString('en')} ${count === 1 ? one : many}`

// One text, drawn again only when something about it changes: a key must not wait for eight answers.
class Text extends Component {
  shouldComponentUpdate({ text, mono, other }, { all }) {
    return text !== this.props.text || mono !== this.props.mono || other !== this.props.other || all !== this.state.all
  }

  render({ text, mono, other }, { all }) {
    const cut = cutAt(text)
    const head = text.slice(0, cut)
    const body = other != null
      ? html`<div class="plain" dir="auto">${differences(head, other.slice(0, CAP)).map((run) => (run.differs ? html`<mark>${run.text}</mark>` : run.text))}</div>`
      : mono ? html`<div class="plain mono" dir="auto">${head}</div>` : markdown(head)
    const rest = cut < text.length && (all
      ? html`<div class="plain">${pieces(text.slice(cut))}</div>`
      : html`<button class="more" onClick=${() => this.setState({ all: true })}>Show all ${countWords(text.length, 'character', 'characters')}</button>`)
    return html`<div class="text">${text.trim() ? body : html`<p class="soft">(empty answer)</p>`}${rest}</div>`
  }
}

export function Prompt({ messages, tall, toggle }) {
  const box = useRef(null)
  const [long, setLong] = useState(false)
  // The last message is the question: a long conversation is shown from its end.
  useEffect(() => {
    setLong(box.current.scrollHeight > box.current.clientHeight + 4 || tall)
    if (messages.length > 1) box.current.scrollTop = box.current.scrollHeight
  }, [messages, tall])
  return html`<section class=${`prompt ${tall ? 'tall' : ''}`} aria-label="Prompt">
    <div class="inside" ref=${box} tabindex="0" role="group" aria-label="Conversation">${messages.map(({ role, content }) => html`<div class=${`message ${role}`}>
      ${(messages.length > 1 || role !== 'user') && html`<span class="role">${role}</span>`}<${Text} text=${content} /></div>`)}</div>
    ${long && html`<button class="taller" aria-expanded=${String(tall)} onClick=${toggle}>${tall ? 'Less' : 'More'} <kbd>p</kbd></button>`}
  </section>`
}

function Score({ number, score, setScore }) {
  const values = [...Array(11).keys()]
  return html`<div class="score" role="slider" tabindex="0" data-answer=${number - 1} aria-label=${`Score of answer ${number}`} aria-valuemin="0" aria-valuemax="10"
    aria-valuenow=${score ?? 0} aria-valuetext=${score ?? 'no score'}>
    ${values.map((value) => html`<button tabindex="-1" aria-label=${`Answer ${number}: ${value}`} aria-pressed=${String(value === score)} onClick=${() => setScore(value === score ? null : value)}>${value}</button>`)}
  </div>`
}

export function Answer({ number, text, mono, other, method, rank, score, setRank, setScore }) {
  return html`<article class="answer" tabindex="0" aria-label=${`Answer ${number}`}>
    <h2><span>${number}</span>
      ${method === 'rank' && html`<button class="rank" aria-pressed=${String(rank !== null)} aria-label=${rank === null ? `Answer ${number} is next in rank` : `Answer ${number} has rank ${rank}; take it back`} onClick=${setRank}>${rank === null ? 'Next best' : `Rank ${rank}`}</button>`}
    </h2>
    <${Text} text=${text} mono=${mono} other=${other} />
    ${method === 'score' && html`<${Score} number=${number} score=${score} setScore=${setScore} />`}
  </article>`
}

export const GRADED = [
  [-3, 'a', '1 is much better', '1 ⋙', 'much'], [-2, 's', '1 is better', '1 ≫', 'better'], [-1, 'd', '1 is slightly better', '1 >', 'slightly'], [0, 'f', 'The same', '=', 'same'],
  [1, 'j', '2 is slightly better', '< 2', 'slightly'], [2, 'k', '2 is better', '≪ 2', 'better'], [3, 'l', '2 is much better', '⋘ 2', 'much'],
]

export function VoteBar({ method, count, choice, typed, press }) {
  const button = (kind, words, key, action, { label, pressed } = {}) =>
    html`<button class=${kind} aria-label=${label} aria-pressed=${pressed === undefined ? undefined : String(Boolean(pressed))} onClick=${(event) => press(event, ...action)}>${words}${key && html` <kbd>${key}</kbd>`}</button>`
  const both = (method === 'pair' || method === 'graded') && button('choice', 'Both bad', 'x', ['vote', { grade: 0, both_bad: true }], { pressed: choice?.both_bad })
  const graded = (grade) => choice?.grade === grade && !choice.both_bad
  const main = {
    pair: () => [
      button('choice main', '1 is better', 'f', ['vote', { grade: -1 }], { pressed: graded(-1) }),
      button('choice main', 'The same', 'space', ['vote', { grade: 0 }], { pressed: graded(0) }),
      button('choice main', '2 is better', 'j', ['vote', { grade: 1 }], { pressed: graded(1) }),
    ],
    graded: () => GRADED.map(([grade, key, label, sign, word]) =>
      button(`choice main g${grade}`, html`<span class="sign">${sign}</span><span class="word">${word} <kbd>${key}</kbd></span>`, '', ['vote', { grade }], { label, pressed: graded(grade) })),
    rank: () => [
      html`<output class="order">${typed.length ? rankWords(typed) : 'Best first'}</output>`,
      button('choice', 'Tie', '=', ['tie'], { label: 'The last two are equal' }),
      button(`choice main ${ranksOf(typed, count) ? 'ready' : ''}`, 'Done', 'Enter', ['enter']),
    ],
    score: () => [button('choice main ready', 'Done', 'Enter', ['enter'])],
  }[method]()
  return html`<footer class="bar" role="group" aria-label="Your judgement">
    <div class="main-row" data-method=${method}>${main}</div>
    <div class="side-row">${both}${button('choice', 'Skip', method === 'graded' ? 'z' : 's', ['skip'], { pressed: choice?.skip })}${button('choice', 'Back', 'u', ['undo'])}</div>
  </footer>`
}

export function NameForm({ name, join }) {
  const [typed, setTyped] = useState(name)
  const submit = (event) => {
    event.preventDefault()
    if (typed.trim()) join(typed.trim())
  }
  return html`<main class="notice"><h2>Which answer is better?</h2>
    <p>Read what was asked and the answers to it, and say which is better. Nothing shows where an answer comes from.</p>
    <form onSubmit=${submit}><label for="name">Your name</label>
      <p class="row"><input id="name" autocomplete="name" maxlength="60" required value=${typed} onInput=${(event) => setTyped(event.target.value)} autofocus /><button class="choice ready">Begin</button></p>
      <p class="soft small">Your votes are stored under this name.</p></form></main>`
}

export function Help({ method, name, close, leave }) {
  const dialog = useRef(null)
  useEffect(() => dialog.current.showModal(), [])
  return html`<dialog ref=${dialog} aria-label="Keys" onClose=${close} onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
    <h2>Keys</h2>
    <dl>${helpOf(method).map(([keys, words]) => html`<dt>${keys.split(' ').map((part) => (/^(or|to|then|and)$/.test(part) ? ` ${part} ` : html`<kbd>${part.replace(',', '')}</kbd> `))}</dt><dd>${words}</dd>`)}</dl>
    <p class="soft small">On a phone: swipe between the answers, then tap below. Keys rest while you write. Votes are kept in this browser until the server has stored them.</p>
    <p class="row">${name && html`<button class="choice" onClick=${leave}>Not ${name}?</button>`}<button class="choice ready" autofocus onClick=${() => dialog.current.close()}>Close <kbd>Esc</kbd></button></p>
  </dialog>`
}
