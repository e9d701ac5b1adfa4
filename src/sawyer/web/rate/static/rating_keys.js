// What a key means, for each of the four ways to judge.

export const GRADES = { a: -3, s: -2, d: -1, f: 0, j: 1, k: 2, l: 3 }

// The key's letter or digit. A letter of another script (Cyrillic, Greek, Hebrew) counts as the Latin one at its place, and
// the digits' row counts without Shift where its digits need Shift (French).
export function keyOf(event) {
  const { key, code = '' } = event
  if (key.length > 1) return key
  if (/^Key[A-Z]$/.test(code) && !/^[ -~]$/.test(key)) return code[3].toLowerCase()
  if (/^Digit\d$/.test(code) && !event.shiftKey && !/^[0-9=?]$/.test(key)) return code[5]
  return key.toLowerCase()
}

// Keys belong to the text in a field, and to the browser while Control, Alt or Meta is held or a text is being composed.
export function isForPage(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return false
  return !event.target.closest?.('input, textarea, select, [contenteditable]')
}

const COMMON = { z: ['skip'], u: ['undo'], Backspace: ['undo'], m: ['mono'], v: ['difference'], p: ['tall'], r: ['rewrite'], n: ['note'], '?': ['help'] }

// -> [name, value] or null
export function actionOf(key, method, count) {
  if (method === 'graded' && key in GRADES) return ['vote', { grade: GRADES[key] }]
  if (method === 'graded' && /^[1-7]$/.test(key)) return ['vote', { grade: Number(key) - 4 }]
  if (method === 'pair' && 'f1'.includes(key)) return ['vote', { grade: -1 }]
  if (method === 'pair' && 'j2'.includes(key)) return ['vote', { grade: 1 }]
  if (method === 'pair' || method === 'graded') {
    if (key === ' ') return ['vote', { grade: 0 }]
    if (key === 'x') return ['vote', { grade: 0, both_bad: true }]
  }
  if (method === 'rank' && /^[1-8]$/.test(key) && Number(key) <= count) return ['rank', Number(key) - 1]
  if (method === 'rank' && key === '=') return ['tie']
  if (method === 'score' && /^[0-9]$/.test(key)) return ['digit', Number(key)]
  if (method === 'score' && key === 't') return ['score', 10]
  if (method !== 'graded' && key === 's') return ['skip']
  if (key === 'Enter') return ['enter']
  if (key === 'Escape') return ['front']
  return COMMON[key] ?? null
}

// Ranks are typed best first: `typed` is a list of groups of answers, a group shares its rank.
export function withRank(typed, answer) {
  const rest = typed.map((group) => group.filter((each) => each !== answer)).filter((group) => group.length)
  return typed.some((group) => group.includes(answer)) ? rest : [...typed, [answer]]
}

export function withTie(typed) {
  return typed.length < 2 ? typed : [...typed.slice(0, -2), [...typed.at(-2), ...typed.at(-1)]]
}

export function withoutLast(typed) {
  return typed.length ? withRank(typed, typed.at(-1).at(-1)) : typed
}

// [[1], [0, 2]] of three answers -> [2, 1, 2]. Null while more than one answer has no rank; a single one left is the last.
export function ranksOf(typed, count) {
  const ranked = typed.flat()
  if (ranked.length < count - 1) return null
  const groups = ranked.length === count ? typed : [...typed, [[...Array(count).keys()].find((answer) => !ranked.includes(answer))]]
  const ranks = Array(count)
  groups.forEach((group, at) => group.forEach((answer) => (ranks[answer] = at + 1)))
  return ranks
}

export function typedOf(ranks) {
  const groups = []
  ranks.forEach((rank, answer) => (groups[rank] ??= []).push(answer))
  return groups.filter(Boolean)
}

const STRENGTHS = ['', 'slightly better', 'better', 'much better']

// A choice in words, as the rater sees it.
export function wordsOf(choice, method) {
  if (choice.skip) return 'skipped'
  if (choice.both_bad) return 'both are bad'
  if (choice.grade === 0) return 'the same'
  if (choice.grade) return `${choice.grade < 0 ? 1 : 2} is ${method === 'pair' ? 'better' : STRENGTHS[Math.abs(choice.grade)]}`
  if (choice.ranks) return rankWords(typedOf(choice.ranks))
  return choice.scores.map((score, at) => `${at + 1}: ${score ?? 'no score'}`).join(', ')
}

export function rankWords(typed) {
  return typed.map((group) => group.map((answer) => answer + 1).join(' = ')).join(' > ')
}

export function helpOf(method) {
  const ways = {
    pair: [['f or 1', 'answer 1 is better'], ['j or 2', 'answer 2 is better'], ['Space', 'the same'], ['x', 'both are bad'], ['s or z', 'skip: no judgement']],
    graded: [
      ['a s d', 'answer 1 is much better, better, slightly better'], ['f or Space', 'the same'],
      ['j k l', 'answer 2 is slightly better, better, much better'], ['1 to 7', 'the same seven grades'], ['x', 'both are bad'], ['z', 'skip: no judgement'],
    ],
    rank: [
      ['1 to 8', 'the answers in order, best first; a digit again takes it back'], ['=', 'the last two are equal'],
      ['Enter', 'done: a single answer left is the last'], ['s or z', 'skip: no judgement'],
    ],
    score: [
      ['0 to 9', 'the marked answer\'s score'], ['t, or 1 then 0', 'ten'], ['Tab', 'the next answer'],
      ['Enter', 'done; once more leaves an answer without a score'], ['s or z', 'skip: no judgement'],
    ],
  }
  return [
    ...ways[method],
    ['u or Backspace', 'back: first what is typed here, then vote by vote through all of yours'], ['Enter', 'on an earlier vote: keep it, on to the next'],
    ['Esc', 'leave a text field; return to the newest item'], ['r, n', 'write a better answer, a note'],
    ['m', 'the plain text in a monospace font'], ['v', 'mark the words that differ from answer 1 (in it: from answer 2)'], ['p', 'a taller prompt'], ['?', 'this list'],
  ]
}
