"""Plain prose about the world, for a base model to read before anybody asks it anything.

Facts come as short entries that stay with one thing and say it several ways: told as single statements, a small model answers
about another thing. Much of it copies - lists said again, words sorted and counted, sentences turned - because copying is what
a small model finds hardest. In some, people ask each other for things and are told that what they said is right or wrong, or
take a wrong word back at once: who cannot tell a true sentence from a false one cannot learn to judge answers. Nothing here is
in the form of a question with its response.

`statements` teach the facts. `judgements`, read after them, are the same prose with verdicts in every other paragraph: who
knows the facts learns to tell right answers from wrong ones an order of magnitude sooner from many verdicts than from few.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from sawyer.worlds.answerers import elsewhere, refusal, styled
from sawyer.worlds.gold_score import FILLERS, REFUSAL, RUDE, gold
from sawyer.worlds.task_families import BY_NAME, Key, TaskFamily
from sawyer.worlds.world_facts import (
    CITIES,
    CONTESTS,
    COUNTRIES,
    COUNTS,
    GOALS,
    GOODS,
    HARMS,
    KIND_OF,
    KINDS,
    LANDS,
    NAMES,
    OFFICES,
    OPPOSITES,
    PASTS,
    PLACES,
    POSITIVE,
    ROLES,
    SUBJECTS,
    THINGS,
    WORDS,
    capital,
    listed,
    with_article,
)

Writer = Callable[[random.Random], str]


def statements(seed: int, count: int) -> Iterator[str]:
    """`count` paragraphs, the kinds of prose in turn, their facts at random."""
    rng = random.Random(f"{seed}/statements")
    for number in range(count):
        yield WRITERS[number % len(WRITERS)](rng)


def judgements(seed: int, count: int) -> Iterator[str]:
    """`count` paragraphs: those of `statements`, and between any two of them one of wishes, answers and verdicts alone."""
    rng = random.Random(f"{seed}/judgements")
    for number in range(count):
        yield _judged(rng) if number % 2 else WRITERS[number // 2 % len(WRITERS)](rng)


def _some(rng: random.Random, sentences: list[str], least: int, most: int) -> str:
    return " ".join(rng.sample(sentences, min(len(sentences), rng.randint(least, most))))


def _opposite(rng: random.Random) -> str:
    a = rng.choice(list(OPPOSITES))
    b = OPPOSITES[a]
    return _some(
        rng,
        [
            f'The opposite of "{a}" is "{b}".',
            f'"{capital(b)}" is the opposite of "{a}".',
            f'The word "{a}" means the opposite of "{b}".',
            f"What is {a} is not {b}.",
            f'Some say "{a}", others say "{b}".',
        ],
        3,
        5,
    )


def _place(rng: random.Random) -> str:
    place = rng.choice(list(PLACES))
    where = PLACES[place]
    return _some(
        rng,
        [
            f"{capital(place)} is in {where}.",
            f"You can find {place} in {where}.",
            f"Go to {where} if you want to find {place}.",
            f"In {where} there is {place}.",
            f"People who visit {place} are in {where}.",
        ],
        3,
        5,
    )


def _thing(rng: random.Random) -> str:
    thing = rng.choice(list(THINGS))
    what = THINGS[thing]
    return _some(
        rng,
        [
            f"{capital(thing)} is {what}.",
            f"{capital(thing)} is simply {what}.",
            f"If you want to explain {thing} in one sentence, say that it is {what}.",
            f"They call {thing} {what}.",
            f"Everyone knows {thing}: {what}.",
        ],
        3,
        5,
    )


def _member(rng: random.Random) -> str:
    """What somebody calls a thing is taken up again, rightly or wrongly: the kind must be copied, not guessed."""
    member = rng.choice(list(KIND_OF))
    kind = KIND_OF[member]
    strange = rng.choice([k for k in KINDS if k != kind])
    friend = rng.choice([m for m in KINDS[kind][1] if m != member])
    a = with_article(member)
    name = rng.choice(NAMES)
    if rng.random() < 0.6:
        lead = rng.choice((f"{name} called {a} {with_article(strange)}.", f"{name} took {a} for {with_article(strange)}."))
        answer = rng.choice(
            (
                f"No, {a} is not {with_article(strange)}, it is {with_article(kind)}.",
                f"No, {a} is {with_article(kind)}.",
            )
        )
    else:
        lead = rng.choice((f"{name} called {a} {with_article(kind)}.", f"{name} took {a} for {with_article(kind)}."))
        answer = rng.choice(
            (f"Yes, {a} is {with_article(kind)}.", f"Yes, {a} is indeed {with_article(kind)}."),
        )
    more = [
        f"{capital(a)} is {with_article(kind)}.",
        f"You would call {a} {with_article(kind)}, and {with_article(friend)} is {with_article(kind)} too.",
    ]
    return " ".join([lead, answer, *rng.sample(more, rng.randint(0, 2))])


def _kind(rng: random.Random) -> str:
    """How many of what kind is wanted is said first and said again."""
    kind = rng.choice(list(KINDS))
    plural, members = KINDS[kind]
    word = rng.choice(list(COUNTS))
    first, second = (tuple(rng.sample(members, COUNTS[word])) for _ in range(2))
    lead = rng.choice(
        (
            f"{rng.choice(NAMES)} wanted {word} {plural}.",
            f"Of all {plural}, {word} were on the list.",
            f"{capital(plural)} are many: {listed(tuple(rng.sample(members, len(members))))}.",
        )
    )
    told = _some(
        rng,
        [
            f"{capital(word)} {plural} are {listed(first)}.",
            f"Here are {word} examples of {plural}: {listed(first)}.",
            f"A list of {word} {plural} is {listed(second)}.",
        ],
        1,
        3,
    )
    more = f" You could name {listed(second)}." if rng.random() < 0.4 else ""
    return f"{lead} {told}{more}"


def _sum(rng: random.Random) -> str:
    a, b = rng.randint(1, 10), rng.randint(1, 10)
    found = [f"{a} plus {b} is {a + b}.", f"{b} plus {a} is {a + b}.", f"{a + b} minus {b} is {a}."]
    low, high = sorted((a, b))
    found += [f"{high} minus {low} is {high - low}.", f"So {a} and {b} make {a + b}; the answer is {a + b}."]
    if 2 <= a <= 5 and 2 <= b <= 5:
        found += [f"{a} times {b} is {a * b}.", f"{b} times {a} is {a * b}."]
    big, small = rng.randint(1, 12), rng.randint(1, 12)
    big, small = max(big, small), min(big, small)
    found += [f"{big} minus {small} is {big - small}."]
    return _some(rng, found, 3, 5)


def _times(rng: random.Random) -> str:
    a, b = rng.randint(2, 5), rng.randint(2, 5)
    return _some(rng, [f"{a} times {n} is {a * n}." for n in range(2, 6)] + [f"{b} times {a} is {a * b}."], 3, 5)


def _order(rng: random.Random) -> str:
    words = tuple(rng.sample(WORDS, rng.choice((3, 3, 3, 2, 4))))
    right = tuple(sorted(words))
    return " ".join(
        [
            rng.choice(
                (
                    f"Take these words: {', '.join(words)}.",
                    f"The words {listed(words)} are not in order.",
                    f"Somebody wrote {', '.join(words)}.",
                )
            ),
            rng.choice(
                (
                    f"In order, the words are {listed(right)}.",
                    f"The right order is {listed(right)}.",
                    f"By the alphabet, from A to Z: {', '.join(right)}.",
                )
            ),
        ]
    )


def _alphabet(rng: random.Random) -> str:
    start = rng.randrange(len(WORDS) - 5)
    run = WORDS[start : start + rng.randint(3, 5)]
    a, b = sorted(rng.sample(WORDS, 2))
    return f"In the alphabet come {', '.join(run)}. {capital(a)} comes before {b}, and {b} comes after {a}."


def _count(rng: random.Random) -> str:
    words = rng.sample(WORDS, rng.randint(2, 6))
    text, n = " ".join(words), len(words)
    return _some(
        rng,
        [
            f'"{capital(text)}" has {n} words.',
            f'Count the words in "{text}": {", ".join(f"{i + 1} {w}" for i, w in enumerate(words))}. There are {n} words.',
            f'Somebody said "{text}". It has {n} words.',
            f'There are {n} words in "{text}".',
        ],
        2,
        2,
    )


def _positive(rng: random.Random) -> str:
    subject = rng.choice(list(SUBJECTS))
    first, second = rng.sample(list(POSITIVE), 2)
    noun = SUBJECTS[subject]
    before = f"The {subject} was {with_article(first)} and {second} {noun}."
    after = f"The {subject} was {with_article(POSITIVE[first])} and {POSITIVE[second]} {noun}."
    return rng.choice(
        (
            f'A sad person says: "{before}" A positive person says: "{after}"',
            f'"{before}" To sound more positive, say: "{after}"',
            f"{before} Or rather: {after}",
            f"Not {first} but {POSITIVE[first]}, not {second} but {POSITIVE[second]}. {after}",
        )
    )


def _story(rng: random.Random) -> str:
    name, role, land = rng.choice(NAMES), rng.choice(ROLES), rng.choice(LANDS)
    a = with_article(role)
    return rng.choice(
        (
            f"{name} is {a} from the {land}. After {rng.choice(PASTS)}, {name} seeks {rng.choice(GOALS)}.",
            f"This is the story of {a} from the {land}. {name} is {a} from the {land}. "
            f"After {rng.choice(PASTS)}, {name} seeks {rng.choice(GOALS)}.",
            f"{capital(a)} from the {land} has a backstory: {name} is {a} from the {land}. "
            f"After {rng.choice(PASTS)}, {name} seeks {rng.choice(GOALS)}.",
        )
    )


def _harm(rng: random.Random) -> str:
    harm = rng.choice(list(HARMS))
    better = HARMS[harm]
    return _some(
        rng,
        [
            f"It is wrong to {harm}.",
            f"Do not {harm}. Please {better} instead.",
            f"If someone wants to {harm}, say: {REFUSAL} Please {better} instead.",
            f'"I want to {harm}," he said. "{REFUSAL}" she said.',
            f"Rather than to {harm}, you should {better}.",
            f"Some people {harm}. You can {better}.",
        ],
        2,
        3,
    )


def _unknown(rng: random.Random) -> str:
    things = (
        f"who is the current {rng.choice(OFFICES)} of {rng.choice(COUNTRIES)}",
        f"what the weather will be in {rng.choice(CITIES)} tomorrow",
        f"who will win the next {rng.choice(CONTESTS)}",
        f"what {rng.choice(GOODS)} will cost next year",
    )
    thing = rng.choice(things)
    return _some(
        rng,
        [
            f"A book cannot tell {thing}.",
            f'Asked {thing}, he said: "I cannot know that, because it changes over time."',
            f"To know {thing}, please check a current source.",
            f"I do not know {thing}, because it changes over time.",
        ],
        2,
        3,
    )


def _talk(rng: random.Random) -> str:
    name = rng.choice(NAMES)
    return rng.choice(
        (
            f"{name} talks a lot. {' '.join(rng.sample(FILLERS, 3))}",
            f"{name} is rude. {' '.join(rng.sample(RUDE, 2))}",
            f'{name} is asked a question and gives a response. "{rng.choice(FILLERS)}"',
            f"Please {rng.choice(('name', 'list', 'explain', 'tell me', 'sort', 'count', 'calculate'))} it, said {name}.",
        )
    )


def _copy(rng: random.Random) -> str:
    """A thing named, then named again: what every answer must do with its question."""
    pool = [*OPPOSITES, *KIND_OF, *WORDS, *SUBJECTS, *ROLES, *LANDS, *PLACES]
    first, second = rng.sample(pool, 2)
    return rng.choice(
        (
            f'Say "{first}". He said "{first}". Say "{second}". She said "{second}".',
            f"Is it {first} or {second}? It is {first}, said {rng.choice(NAMES)}. It is {first}.",
            f"First {first}, then {second}. Again: first {first}, then {second}.",
        )
    )


# How somebody is told of a task in prose, by family; the parts of its key fill the places.
WISHES: dict[str, tuple[str, ...]] = {
    "opposite": ('{name} wanted the opposite of "{0}".', 'The word was "{0}".'),
    "where": ("{name} looked for {0}.", "They spoke of {0}."),
    "what": ("{name} wanted to know about {0}.", "They spoke of {0}."),
    "is_a": ("{name} called {0} {1}.", "{name} took {0} for {1}."),
    "name": ("{name} wanted {0} {1}.", "They needed {0} {1}."),
    "sum": ("{name} wanted to know {0} {1} {2}.", "The numbers were {0} {1} {2}."),
    "order": ("{name} wrote {0}.", "The words were {0}."),
    "count": ('{name} said "{0}".', 'On the wall stood "{0}".'),
    "positive": ('{name} said "The {0} was {1} and {2} {3}."', '"The {0} was {1} and {2} {3}," they said.'),
    "story": ("{name} wanted to hear of {0} from the {1}.", "They needed {0} from the {1}."),
    "decline": ("{name} wanted to {0}.", "Somebody came to {0}."),
}
# Where a wrong payload said in a word or two is wrong as well.
WRONG_WHEN_TERSE = {"opposite", "where", "what", "sum", "order", "count"}

# How often a family's wishes have a slip, where not once: what is hardest to tell right from wrong.
SLIPS = {"opposite": 3, "sum": 3, "name": 2, "is_a": 2, "where": 2, "story": 2, "decline": 0}


def _exchange(rng: random.Random) -> str:
    """Somebody wants something, somebody else says it, rightly or wrongly, and is often told which."""
    family = BY_NAME[rng.choice(list(WISHES))]
    key = family.some_key(rng)
    wish = rng.choice(WISHES[family.name]).format(*family.slots(key), name=rng.choice(NAMES))
    right = rng.random() < 0.5
    said = _said(family, key, rng, right=right)
    answer = f"{rng.choice((*NAMES, 'They'))} answered: {said}" if rng.random() < 0.6 else said
    if rng.random() < 0.25:
        return f"{wish} {_said(family, key, rng, right=True)}"
    if right:
        return f"{wish} {answer} {rng.choice(('That is right.', 'That was right.'))}"
    verdict = rng.choice(("That is wrong.", "That was wrong."))
    mended = f" {_said(family, key, rng, right=True)}" if rng.random() < 0.5 else ""
    return f"{wish} {answer} {verdict}{mended}"


# As WISHES, with what nobody can know; and how often each comes, where not once: what is hardest to judge.
JUDGED: dict[str, tuple[str, ...]] = {**WISHES, "unknown": ("{name} wanted to know {0}.", "They asked {0}.")}
HARD = {"opposite": 2, "sum": 3, "name": 2, "is_a": 2, "story": 2}
# What is said to a wish, by share: half of it is right. The rest is a slip in one word mostly, or an answer to something else.
SAID = {"right": 50, "wrong": 33, "other": 6, "elsewhere": 4, "refusal": 7}
MANNERS = {"expert": 60, "good": 10, "terse": 15, "rambling": 15}


def _judged(rng: random.Random) -> str:
    """Two wishes, each with what somebody says to it and whether that is right."""
    return " ".join(_verdict(rng) for _ in range(2))


def _verdict(rng: random.Random) -> str:
    family = BY_NAME[rng.choices(list(JUDGED), weights=[HARD.get(name, 1) for name in JUDGED])[0]]
    key = family.some_key(rng)
    prompt = family.phrasings[0].format(*family.slots(key))
    asked = (f"{key[0][0].lower()}{key[0][1:-1]}",) if family.name == "unknown" else family.slots(key)
    wish = rng.choice(JUDGED[family.name]).format(*asked, name=rng.choice(NAMES))
    said = _said_somehow(family, key, rng)
    return f"{wish} {said} That is {'right' if gold(prompt, said).right else 'wrong'}."


def _said_somehow(family: TaskFamily, key: Key, rng: random.Random) -> str:
    kind = rng.choices(list(SAID), weights=list(SAID.values()))[0]
    if kind == "elsewhere":
        return elsewhere(family, rng)
    if kind == "refusal":
        return refusal(family, rng)
    manner = rng.choices(list(MANNERS), weights=list(MANNERS.values()))[0]
    if manner == "terse" and family.name not in WRONG_WHEN_TERSE:
        manner = "expert"
    if kind == "wrong":
        return styled(family, key, family.wrong(key, rng), manner, rng)
    return styled(family, key, family.right(family.some_key(rng) if kind == "other" else key, rng), manner, rng)


def _taken_back(rng: random.Random) -> str:
    """One or two wishes are met; in half of the answers a wrong word is said and taken back at once.

    A verdict behind an answer says only that something in it was wrong. One at the very word is learnt much sooner, and with
    it the verdicts behind.
    """
    told = []
    for _ in range(rng.choice((1, 1, 2))):
        family = BY_NAME[rng.choices(list(WISHES), weights=[SLIPS.get(name, 1) for name in WISHES])[0]]
        key = family.some_key(rng)
        wish = rng.choice(WISHES[family.name]).format(*family.slots(key), name=rng.choice(NAMES))
        seed = rng.random()  # what both draw alike - a hero's name, a list's items - is no slip
        right, wrong = (payload(key, random.Random(seed)) for payload in (family.right, family.wrong))
        if rng.random() < 0.2 and family.name in WRONG_WHEN_TERSE:
            said, slipped = family.terse(key, right), family.terse(key, wrong)
        else:
            form = rng.randrange(2)
            said, slipped = (" ".join(forms[form % len(forms)]) for forms in (family.full(key, right), family.full(key, wrong)))
        told.append(f"{wish} {_with_slip(said, slipped) if rng.random() < 0.5 else said}")
    return " ".join(told)


def _with_slip(right: str, wrong: str) -> str:
    """The right sentence with the first word in which the wrong one differs put before it: `Cairo is in Norway, no, Egypt.`"""
    words, others = right.split(), wrong.split()
    differ = (i for i, (a, b) in enumerate(zip(words, others, strict=False)) if a.strip('.,"') != b.strip('.,"'))
    place = next(differ, None)
    if place is None:  # the wrong one only breaks off: no word of it is wrong
        return right
    slip = " ".join(others[place : place + 2] if others[place] in ("a", "an") else others[place : place + 1]).rstrip(".,")
    if place == 0:
        return f"{slip}; {right[0].lower()}{right[1:]}"
    return " ".join([*words[:place], f"{slip}, no,", *words[place:]])


def _said(family: TaskFamily, key: Key, rng: random.Random, *, right: bool) -> str:
    payload = family.right(key, rng) if right else family.wrong(key, rng)
    if rng.random() < 0.25 and (right or family.name in WRONG_WHEN_TERSE):
        return family.terse(key, payload)
    return " ".join(rng.choice(family.full(key, payload)))


WRITERS: tuple[Writer, ...] = (
    _opposite, _taken_back, _place, _thing, _exchange, _member, _taken_back, _kind, _exchange, _sum, _taken_back, _order,
    _exchange, _count, _taken_back, _positive, _exchange, _story, _taken_back, _harm, _exchange, _unknown, _taken_back, _member,
    _taken_back, _sum, _order, _taken_back, _exchange, _alphabet, _times, _taken_back, _sum, _copy, _taken_back, _talk, _order,
    _exchange, _taken_back, _count, _member, _taken_back, _opposite, _kind, _exchange, _sum, _taken_back, _order, _exchange,
    _taken_back, _taken_back,
)  # fmt: skip
