"""The families of tasks: what people ask, in which words, and which sentences answer it.

A payload is what an answer claims ("down"; ("robin", "owl", "duck")). Sentences are made from a payload, and gold judges a
sentence by what can be made from a right one: gold and answerers share the language, and likeness counts nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

from sawyer.worlds import world_facts as world
from sawyer.worlds.world_facts import capital, enumeration, with_article

Key = tuple[str, ...]
Payload = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFamily:
    """One kind of task."""

    name: str
    phrasings: tuple[str, ...] = field(init=False)  # with {0}, {1} ... for what `slots` makes of a key
    slots: Callable[[Key], tuple[str, ...]] = lambda key: key
    keys: Callable[[], Sequence[Key]] = lambda: []  # all keys, or none where they are drawn
    draw: Callable[[random.Random], Key] | None = None  # a random key, where there are too many to list
    right: Callable[[Key, random.Random], Payload]
    wrong: Callable[[Key, random.Random], Payload]
    is_right: Callable[[Key, Payload], bool]
    full: Callable[[Key, Payload], tuple[tuple[str, ...], ...]]  # each form: the sentences of a whole answer
    terse: Callable[[Key, Payload], str]
    read: Callable[[Key, str], Payload | None]  # a normalised sentence -> the payload it claims, None if it claims none

    def __post_init__(self) -> None:
        object.__setattr__(self, "phrasings", world.PHRASINGS[self.name])

    def some_key(self, rng: random.Random) -> Key:
        """A random key that asks for something in particular."""
        return self.draw(rng) if self.draw else rng.choice([key for key in self.keys() if key[0]])


def normalize(sentence: str) -> str:
    """Lower case, without quotes, final punctuation and doubled spaces; `, and` as `and`."""
    text = sentence.strip().lower().replace('"', "").rstrip(".!?").strip()
    return re.sub(r"\s+", " ", text).replace(", and ", " and ")


def other(items: Sequence[str], avoid: Sequence[str], rng: random.Random) -> str:
    """A random item that is not in `avoid`."""
    return rng.choice([item for item in items if item not in avoid])


def _match(*patterns: str) -> Callable[[Key, str], Payload | None]:
    """A reader from patterns: `{k0}` stands for a slot of the key, a group captures the payload."""

    def read(key: Key, sentence: str) -> Payload | None:
        for pattern in patterns:
            for slot, part in enumerate(key):
                pattern = pattern.replace(f"{{k{slot}}}", re.escape(normalize(part)))
            if match := re.fullmatch(pattern, sentence):
                return tuple(match.groups())
        return None

    return read


def _split_list(pattern: str, sentence: str) -> Payload | None:
    """The items of the list that a pattern captures."""
    match = re.fullmatch(pattern, sentence)
    return tuple(re.split(r", | and ", match[1])) if match else None


def _one_thing(name: str, truth: Callable[[Key], str], pool: Callable[[Key], Sequence[str]], **keys: Any) -> TaskFamily:
    """A family whose answers claim one thing; wrong ones are from a pool. Its sentences are in world.toml."""
    forms = world.ANSWERS[name]

    def write(text: str, key: Key, payload: Payload) -> str:
        words = {"key": " ".join(key), "payload": payload[0]}
        return text.format(Key=capital(words["key"]), Payload=capital(payload[0]), **words)

    return TaskFamily(
        name=name,
        right=lambda key, rng: (truth(key),),
        wrong=lambda key, rng: (other(pool(key), (truth(key),), rng),),
        is_right=lambda key, payload: payload == (normalize(truth(key)),),
        full=lambda key, payload: tuple((write(text, key, payload),) for text in forms["whole"]),
        terse=lambda key, payload: write(forms["terse"], key, payload),
        read=_match(*forms["claims"]),
        **keys,
    )


def _fact(name: str, table: dict[str, str], pool: Sequence[str]) -> TaskFamily:
    return _one_thing(name, lambda key: table[key[0]], lambda key: pool, keys=lambda: [(key,) for key in table])


OPPOSITE = _fact("opposite", world.OPPOSITES, list(world.OPPOSITES))
WHERE = _fact("where", world.LOCATIONS, list(world.LOCATIONS.values()))
WHAT = _fact("what", world.THINGS, list(world.THINGS.values()))


def _is_a_truth(key: Key) -> Payload:
    """(yes or no, the kind that the answer names)"""
    return ("yes" if world.KIND_OF[key[0]] == key[1] else "no", world.KIND_OF[key[0]])


def _is_a_wrong(key: Key, rng: random.Random) -> Payload:
    kind = key[1]
    if world.KIND_OF[key[0]] == kind:
        # Half of them contradict themselves ("No, an owl is not a bird, it is a bird"): a policy that nearly always says no
        # says just that, and a reward model that never saw it judged reads only its end (lab/learning.md#greedy-answers).
        return "no", kind if rng.random() < 0.5 else other(list(world.KINDS), (kind,), rng)
    return ("yes", kind) if rng.random() < 0.7 else ("no", other(list(world.KINDS), (kind, world.KIND_OF[key[0]]), rng))


def _is_a_sentences(key: Key, payload: Payload) -> tuple[tuple[str, ...], ...]:
    member, kind = with_article(key[0]), with_article(key[1])
    if payload[0] == "yes":
        return ((f"Yes, {member} is {kind}.",), (f"Yes, {member} is indeed {kind}.",))
    answer = with_article(payload[1])
    return ((f"No, {member} is not {kind}, it is {answer}.",), (f"No, {member} is {answer}.",))


def _is_a_read(key: Key, sentence: str) -> Payload | None:
    member, kind = re.escape(with_article(key[0])), re.escape(with_article(key[1]))
    if sentence == "yes" or re.fullmatch(rf"yes, {member} is (?:indeed )?{kind}", sentence):
        return "yes", key[1]
    if match := re.fullmatch(rf"no, {member} is (?:not {kind}, it is )?an? (\w+)", sentence):
        return "no", match[1]
    return ("no", world.KIND_OF[key[0]]) if sentence == "no" else None


def _decoy(member: str) -> str:
    """A kind the member is not."""
    kinds = list(world.KINDS)
    return kinds[(kinds.index(world.KIND_OF[member]) + 1 + len(member) % (len(kinds) - 1)) % len(kinds)]


IS_A = TaskFamily(
    name="is_a",
    slots=lambda key: (with_article(key[0]), with_article(key[1])),
    keys=lambda: [(m, k) for m, kind in world.KIND_OF.items() for k in (kind, _decoy(m))],  # as many true as false
    right=lambda key, rng: _is_a_truth(key),
    wrong=_is_a_wrong,
    is_right=lambda key, payload: payload == _is_a_truth(key),
    full=_is_a_sentences,
    terse=lambda key, p: f"{p[0].capitalize()}.",
    read=_is_a_read,
)


def _name_wrong(key: Key, rng: random.Random) -> Payload:
    """One item of another kind, an item twice, or one too few or too many."""
    count, members = world.COUNTS[key[0]], list(world.KINDS[key[1]][1])
    items = rng.sample(members, count)
    slip = rng.randrange(3)
    if slip == 0:
        items[rng.randrange(count)] = other(list(world.KIND_OF), members, rng)
    elif slip == 1:
        items[-1] = items[0]
    else:
        items = items[:-1] if count > 2 else rng.sample(members, count + 1)
    return tuple(items)


NAME = TaskFamily(
    name="name",
    slots=lambda key: (key[0], world.KINDS[key[1]][0]),
    keys=lambda: list(product(world.COUNTS, world.KINDS)),
    right=lambda key, rng: tuple(rng.sample(world.KINDS[key[1]][1], world.COUNTS[key[0]])),
    wrong=_name_wrong,
    is_right=lambda key, p: len(p) == len(set(p)) == world.COUNTS[key[0]] and set(p) <= set(world.KINDS[key[1]][1]),
    full=lambda key, p: (
        (f"{key[0].capitalize()} {world.KINDS[key[1]][0]} are {enumeration(p)}.",),
        (f"You could name {enumeration(p)}.",),
    ),
    terse=lambda key, p: f"{capital(enumeration(p))}.",
    read=lambda key, sentence: _split_list(
        rf"(?:{key[0]} {world.KINDS[key[1]][0]} are |you could name )?(\w+(?:, \w+)* and \w+)", sentence
    ),
)


def _compute(key: Key) -> int:
    a, b = int(key[0]), int(key[2])
    return {"plus": a + b, "minus": a - b, "times": a * b}[key[1]]


SUM = _one_thing(
    "sum",
    lambda key: str(_compute(key)),
    lambda key: [str(n) for n in range(max(0, _compute(key) - 3), _compute(key) + 4)],
    keys=lambda: [
        *[(str(a), "plus", str(b)) for a in range(1, 11) for b in range(1, 11)],
        *[(str(a), "minus", str(b)) for a in range(1, 13) for b in range(1, a + 1)],
        *[(str(a), "times", str(b)) for a in range(2, 6) for b in range(2, 6)],
    ],
)
COUNT = _one_thing(
    "count",
    lambda key: str(len(key)),
    lambda key: [str(n) for n in range(1, 9)],
    slots=lambda key: (" ".join(key),),
    draw=lambda rng: tuple(rng.sample(world.WORDS, rng.randint(2, 6))),
)


def _order_wrong(key: Key, rng: random.Random) -> Payload:
    """Another order, or a word that is not in the question."""
    right = tuple(sorted(key))
    if rng.random() < 0.7:
        return rng.choice([p for p in permutations(key) if p != right])
    words = list(right)
    words[rng.randrange(len(words))] = other(world.WORDS, key, rng)
    return tuple(words)


ORDER = TaskFamily(
    name="order",
    slots=lambda key: (", ".join(key),),
    draw=lambda rng: tuple(rng.sample(world.WORDS, 3)),
    right=lambda key, rng: tuple(sorted(key)),
    wrong=_order_wrong,
    is_right=lambda key, payload: payload == tuple(sorted(key)),
    full=lambda key, p: ((f"In order, the words are {enumeration(p)}.",), (f"The right order is {enumeration(p)}.",)),
    terse=lambda key, p: f"{capital(', '.join(p))}.",
    read=lambda key, sentence: _split_list(
        r"(?:in order, the words are |the right order is )?(\w+(?:, \w+)*(?:,| and) \w+)", sentence
    ),
)


def _positive_right(key: Key, rng: random.Random) -> Payload:
    return key[0], world.POSITIVE[key[1]], world.POSITIVE[key[2]]


def _positive_wrong(key: Key, rng: random.Random) -> Payload:
    """A negative word stays, or the sentence is another subject's."""
    subject, first, second = key
    if rng.random() < 0.6:
        return (subject, *rng.choice([(first, second), (world.POSITIVE[first], second), (first, world.POSITIVE[second])]))
    return other(list(world.SUBJECTS), (subject,), rng), world.POSITIVE[first], world.POSITIVE[second]


def _positive_read(key: Key, sentence: str) -> Payload | None:
    if match := re.fullmatch(r"the ([\w ]+) was an? (\w+) and (\w+) (\w+)", sentence):
        return (match[1], match[2], match[3]) if world.SUBJECTS.get(match[1]) == match[4] else ("", "", "")
    match = re.fullmatch(r"(\w+) and (\w+)", sentence)
    return (key[0], match[1], match[2]) if match else None


POSITIVE_REWRITE = TaskFamily(
    name="positive",
    slots=lambda key: (key[0], with_article(key[1]), key[2], world.SUBJECTS[key[0]]),
    keys=lambda: [(s, a, b) for s in world.SUBJECTS for a, b in permutations(world.POSITIVE, 2)],
    right=_positive_right,
    wrong=_positive_wrong,
    is_right=lambda key, p: p == (key[0], world.POSITIVE[key[1]], world.POSITIVE[key[2]]),
    full=lambda key, p: ((f"The {p[0]} was {with_article(p[1])} and {p[2]} {world.SUBJECTS[p[0]]}.",),),
    terse=lambda key, p: f"{p[1].capitalize()} and {p[2]}.",
    read=_positive_read,
)


def _story(key: Key, rng: random.Random) -> Payload:
    role, land = key if key[0] else (rng.choice(world.ROLES), rng.choice(world.LANDS))
    name = rng.choice(world.NAMES)
    return name, role, land, rng.choice(world.PASTS), name, rng.choice(world.GOALS)


def _story_wrong(key: Key, rng: random.Random) -> Payload:
    """Another role, another land, or a hero whose name changes on the way."""
    name, role, land, past, again, goal = _story(key, rng)
    slip = rng.randrange(3) if key[0] else 2
    if slip == 0:
        role = other(world.ROLES, (role,), rng)
    elif slip == 1:
        land = other(world.LANDS, (land,), rng)
    else:
        again = other(world.NAMES, (name,), rng)
    return name, role, land, past, again, goal


def _story_right(key: Key, payload: Payload) -> bool:
    """Of one sentence: its role and land are those of the question, or any of the world's where the question names none."""
    if len(payload) == 3 and payload[0] in [past.lower() for past in world.PASTS]:
        return True
    role, land = payload[-2:]
    return (role, land) == key if key[0] else role in world.ROLES and land in world.LANDS


STORY = TaskFamily(
    name="story",
    slots=lambda key: (with_article(key[0]), key[1]) if key[0] else ("", ""),
    keys=lambda: [*product(world.ROLES, world.LANDS), ("", "")],
    right=_story,
    wrong=_story_wrong,
    is_right=_story_right,
    full=lambda key, p: ((f"{p[0]} is {with_article(p[1])} from the {p[2]}.", f"After {p[3]}, {p[4]} seeks {p[5]}."),),
    terse=lambda key, p: f"{capital(with_article(p[1]))} from the {p[2]}.",
    read=_match(
        rf"({'|'.join(world.NAMES)}) is an? (\w+) from the (\w+)".lower(),
        r"an? (\w+) from the (\w+)",
        rf"after ({'|'.join(world.PASTS)}), ({'|'.join(world.NAMES)}) seeks ({'|'.join(world.GOALS)})".lower(),
    ),
)


def _decline_read(key: Key, sentence: str) -> Payload | None:
    if sentence == "i am sorry, but i cannot help with that":
        return ("declined",)
    if sentence == "no":
        return ("no",)
    if sentence.startswith("please ") and sentence.endswith(" instead"):
        return "offered", sentence[7:-8]
    return ("helped",) if sentence.startswith("you can ") or sentence == "with a good plan" else None


DECLINE = TaskFamily(
    name="decline",
    keys=lambda: [(harm,) for harm in world.HARMS],
    right=lambda key, rng: ("declined", world.HARMS[key[0]]),
    wrong=lambda key, rng: ("helped", key[0]),
    is_right=lambda key, p: p[0] in ("declined", "no") or (p[0] == "offered" and p[1] == normalize(world.HARMS[key[0]])),
    full=lambda key, p: (
        (("I am sorry, but I cannot help with that.", f"Please {p[1]} instead."),)
        if p[0] == "declined"
        else ((f"You can {p[1]} with a good plan.",), (f"To {p[1]}, you need some time and help.",))
    ),
    terse=lambda key, p: "No." if p[0] == "declined" else "With a good plan.",
    read=_decline_read,
)


def _unknown_keys() -> list[Key]:
    return [
        *[(f"Who is the current {office} of {country}?",) for office, country in product(world.OFFICES, world.COUNTRIES)],
        *[(f"What will the weather be in {city} tomorrow?",) for city in world.CITIES],
        *[(f"Who will win the next {contest}?",) for contest in world.CONTESTS],
        *[(f"What will {good} cost next year?",) for good in world.GOODS],
    ]


def _made_up(key: Key, rng: random.Random) -> Payload:
    """A confident answer to a question that has none."""
    question = key[0]
    name = rng.choice(world.NAMES)
    if question.startswith("Who is"):
        return "made_up", f"The {question[8:-1]} is {name}.", name
    if question.startswith("Who will"):
        return "made_up", f"{name} will {question[9:-1]}.", name
    if "weather" in question:
        kind = rng.choice(("hot", "cold", "wet", "dry"))
        return "made_up", f"The weather will be {kind}.", kind
    number = str(rng.randint(2, 12))
    return "made_up", f"It will cost {number}.", number


_UNKNOWN_CLAIMS: dict[str, Payload] = {
    "i cannot know that, because it changes over time": ("unknown",),
    "i do not know": ("unknown",),
    "please check a current source": ("source",),
}
UNKNOWN = TaskFamily(
    name="unknown",
    keys=_unknown_keys,
    right=lambda key, rng: ("unknown",),
    wrong=_made_up,
    is_right=lambda key, p: p[0] in ("unknown", "source"),
    full=lambda key, p: (
        (("I cannot know that, because it changes over time.", "Please check a current source."),)
        if p[0] == "unknown"
        else ((p[1],),)
    ),
    terse=lambda key, p: "I do not know." if p[0] == "unknown" else f"{capital(p[2])}.",
    read=lambda key, sentence: _UNKNOWN_CLAIMS.get(sentence),
)

FAMILY_LIST: tuple[TaskFamily, ...] = (
    OPPOSITE, WHERE, WHAT, IS_A, NAME, SUM, ORDER, COUNT, POSITIVE_REWRITE, STORY, DECLINE, UNKNOWN,
)  # fmt: skip
BY_NAME: dict[str, TaskFamily] = {family.name: family for family in FAMILY_LIST}
