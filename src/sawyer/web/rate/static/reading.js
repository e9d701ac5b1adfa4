// Answers as readable text. Everything becomes text nodes of the page, never HTML: an answer can say <script>.

import { html } from './preact-htm.js'

export const CAP = 20_000 // characters drawn at once; the rest waits for "show all"
const CHUNK = 20_000
const ESCAPABLE = '\\`*_{}[]()#+-.!|~>'
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/
const FENCE = /^\s{0,3}(```+|~~~+)\s*([\w+#.-]*)/
const RULER = /^\s{0,3}([-*_])(\s*\1){2,}\s*$/
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/

const isWord = (character) => character !== undefined && /[\p{L}\p{N}_]/u.test(character)

// Bold, italic, code and links in one line of thought. A mark without its partner stays what it is: a character.
function inline(text, depth = 0) {
  const nodes = []
  const missing = new Set() // marks that have no partner further on: not searched for again, so that the time stays linear
  let plain = ''
  let at = 0
  const push = (node) => {
    if (plain) nodes.push(plain)
    plain = ''
    nodes.push(node)
  }
  const partner = (mark, from, fits) => {
    if (missing.has(mark)) return -1
    for (let end = text.indexOf(mark, from), tries = 0; end >= 0 && tries < 20; end = text.indexOf(mark, end + 1), tries += 1) {
      if (fits(end)) return end
    }
    missing.add(mark)
    return -1
  }
  while (at < text.length) {
    const character = text[at]
    if (character === '\\' && ESCAPABLE.includes(text[at + 1] ?? ' ')) {
      plain += text[at + 1]
      at += 2
    } else if (character === '`') {
      let length = 1
      while (text[at + length] === '`') length += 1
      const mark = '`'.repeat(length)
      const end = partner(mark, at + length, (place) => text[place + length] !== '`' && text[place - 1] !== '`')
      if (end < 0) plain += mark
      else push(html`<code>${text.slice(at + length, end)}</code>`)
      at = end < 0 ? at + length : end + length
    } else if ((character === '*' || character === '_') && depth < 4) {
      const mark = text[at + 1] === character ? character + character : character
      const inside = at + mark.length
      const opens = /\S/.test(text[inside] ?? ' ') && (character === '*' || !isWord(text[at - 1]))
      const fits = (place) => place > inside && /\S/.test(text[place - 1]) && (mark.length === 2 || (text[place + 1] !== character && text[place - 1] !== character))
        && (character === '*' || !isWord(text[place + mark.length]))
      const end = opens ? partner(mark, inside, fits) : -1
      if (end < 0) plain += mark
      else push(mark.length === 2 ? html`<strong>${inline(text.slice(inside, end), depth + 1)}</strong>` : html`<em>${inline(text.slice(inside, end), depth + 1)}</em>`)
      at = end < 0 ? inside : end + mark.length
    } else if (character === '[' && text[at - 1] !== '!') {
      const link = /^\[([^[\]\n]{1,300})\]\(([^()\s]{1,500})\)/.exec(text.slice(at, at + 810))
      // A link is text with its address: no rater leaves the page by accident, and a wrong address can be seen.
      if (link) push(html`<span class="link">${link[1]}</span> (<span class="address">${link[2]}</span>)`)
      else plain += character
      at += link ? link[0].length : 1
    } else {
      plain += character
      at += 1
    }
  }
  if (plain) nodes.push(plain)
  return nodes
}

function listAt(lines, start, depth) {
  const [, indent, bullet] = ITEM.exec(lines[start])
  const ordered = /\d/.test(bullet)
  const items = []
  let at = start
  while (at < lines.length) {
    const head = ITEM.exec(lines[at])
    const blank = !lines[at].trim()
    if (head && head[1].length <= indent.length + 1) {
      if (/\d/.test(head[2]) !== ordered || head[1].length < indent.length) break
      items.push([head[3]])
    } else if (blank ? !/^(\s{2,}\S|\s*([-*+]|\d{1,9}[.)])\s)/.test(lines[at + 1] ?? '') : !/^\s{2,}/.test(lines[at])) break
    else items.at(-1).push(lines[at].slice(Math.min(indent.length + 2, /^\s*/.exec(lines[at])[0].length)))
    at += 1
  }
  const children = items.map((item) => html`<li dir="auto">${item.length === 1 ? inline(item[0]) : markdown(item.join('\n'), depth + 1)}</li>`)
  return [ordered ? html`<ol start=${Number.parseInt(bullet, 10)}>${children}</ol>` : html`<ul>${children}</ul>`, at]
}

function tableAt(lines, start) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, '').split('|').map((cell) => inline(cell.trim()))
  let at = start + 2
  const rows = []
  while (at < lines.length && lines[at].includes('|')) rows.push(cells(lines[at++]))
  return [
    html`<div class="scroll" tabindex="0" role="group" aria-label="table"><table dir="auto"><thead><tr>${cells(lines[start]).map((cell) => html`<th>${cell}</th>`)}</tr></thead>
      <tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody></table></div>`,
    at,
  ]
}

function codeAt(lines, start) {
  const [, mark, language] = FENCE.exec(lines[start])
  let at = start + 1
  while (at < lines.length && !lines[at].trim().startsWith(mark)) at += 1
  const label = language ? `code: ${language}` : 'code'
  return [html`<pre tabindex="0" role="group" aria-label=${label} dir="ltr"><code>${lines.slice(start + 1, at).join('\n')}</code></pre>`, at + 1]
}

// A small Markdown: paragraphs, headings, lists, quotes, tables, rules, code. Line breaks in a paragraph are kept.
export function markdown(text, depth = 0) {
  const lines = text.split('\n')
  const blocks = []
  let paragraph = []
  const close = () => {
    if (paragraph.length) blocks.push(html`<p dir="auto">${inline(paragraph.join('\n'))}</p>`)
    paragraph = []
  }
  const add = ([block, next]) => {
    close()
    blocks.push(block)
    return next
  }
  let at = 0
  while (at < lines.length) {
    const line = lines[at]
    const heading = /^\s{0,3}(#{1,6})\s+(.*?)\s*#*$/.exec(line.slice(0, 1000))
    if (FENCE.test(line)) at = add(codeAt(lines, at))
    else if (!line.trim()) {
      close()
      at += 1
    } else if (heading) at = add([html`<p dir="auto" role="heading" aria-level=${Math.min(6, heading[1].length + 2)} class=${`h${heading[1].length}`}>${inline(heading[2])}</p>`, at + 1])
    else if (RULER.test(line.slice(0, 200))) at = add([html`<hr />`, at + 1])
    else if (ITEM.test(line) && depth < 6) at = add(listAt(lines, at, depth))
    else if (line.startsWith('>') && depth < 6) {
      let end = at
      while (end < lines.length && lines[end].startsWith('>')) end += 1
      at = add([html`<blockquote dir="auto">${markdown(lines.slice(at, end).map((each) => each.replace(/^> ?/, '')).join('\n'), depth + 1)}</blockquote>`, end])
    } else if (line.includes('|') && TABLE_RULE.test((lines[at + 1] ?? 'none').slice(0, 500))) at = add(tableAt(lines, at))
    else {
      paragraph.push(line)
      at += 1
    }
  }
  close()
  return blocks
}

// The cut lies at the end of a line where one is near, and never inside a surrogate pair.
export function cutAt(text, cap = CAP) {
  if (text.length <= cap) return text.length
  const line = text.lastIndexOf('\n', cap)
  if (line > cap * 0.8) return line + 1
  return /[\uD800-\uDBFF]/.test(text[cap - 1]) ? cap - 1 : cap
}

// Long text in pieces that the browser lays out only when they come into view.
export function pieces(text) {
  const parts = []
  for (let at = 0; at < text.length; ) {
    const end = at + cutAt(text.slice(at, at + CHUNK + 1), CHUNK)
    parts.push(html`<div class="piece" dir="auto">${text.slice(at, end)}</div>`)
    at = end
  }
  return parts
}

const WORDS = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Thai}]|[\p{L}\p{M}\p{N}_]+|\s+|./gsu
const CELLS = 4_000_000 // of the table of common subsequences: 8 MB, some 20 ms

// -> runs {text, differs} of `own`: what is not part of the longest common subsequence of words with `other`.
export function differences(own, other) {
  const left = own.match(WORDS) ?? []
  const right = other.match(WORDS) ?? []
  let head = 0
  while (head < left.length && head < right.length && left[head] === right[head]) head += 1
  let tail = 0
  while (tail < left.length - head && tail < right.length - head && left.at(-1 - tail) === right.at(-1 - tail)) tail += 1
  const differs = new Uint8Array(left.length)
  const rows = left.length - head - tail
  const columns = right.length - head - tail
  if (rows * columns > CELLS) {
    const known = new Set(right) // too long for the table: words that the other text does not have at all
    for (let row = 0; row < rows; row += 1) differs[head + row] = known.has(left[head + row]) ? 0 : 1
  } else {
    const width = columns + 1
    const common = new Uint16Array((rows + 1) * width)
    for (let row = rows - 1; row >= 0; row -= 1) {
      for (let column = columns - 1; column >= 0; column -= 1) {
        common[row * width + column] = left[head + row] === right[head + column]
          ? common[(row + 1) * width + column + 1] + 1
          : Math.max(common[(row + 1) * width + column], common[row * width + column + 1])
      }
    }
    for (let row = 0, column = 0; row < rows; ) {
      if (column < columns && left[head + row] === right[head + column]) {
        row += 1
        column += 1
      } else if (column < columns && common[row * width + column + 1] >= common[(row + 1) * width + column]) column += 1
      else differs[head + row++] = 1
    }
  }
  const runs = []
  left.forEach((word, at) => {
    if (runs.length && runs.at(-1).differs === Boolean(differs[at])) runs.at(-1).text += word
    else runs.push({ text: word, differs: Boolean(differs[at]) })
  })
  return runs
}
