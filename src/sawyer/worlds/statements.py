"""Plain prose about the world, which the base model reads before any instruction.

Facts come as short entries that stay with one thing and say it several ways: from single statements a small model answers
about another thing. Much of it copies (lists said again, words sorted and counted, sentences turned), because copying is what
a small model finds hardest. In some, people ask each other for things and hear that an answer is right or wrong, or take a
wrong word back at once: a model that cannot tell a true sentence from a false one cannot learn to judge answers. Nothing here
has the form of an instruction with its response.

`statements` teach the facts. `judgements`, read after them, are the same prose with verdicts in every other paragraph: many
verdicts teach the difference of right and wrong answers much sooner than few (lab/learning.md#verdicts-in-the-base-model).
The texts are in world.toml. The order of random draws is part of the world: it must not change.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from sawyer.worlds import world_facts as world
from sawyer.worlds.answerers import off_topic, refusal, write_answer
from sawyer.worlds.gold_score import REFUSAL, gold
from sawyer.worlds.task_families import BY_NAME, Key, TaskFamily
from sawyer.worlds.world_facts import capital, enumeration, with_article

Writer = Callable[[random.Random], str]


def statements(seed: int, count: int) -> Iterator[str]:
    """`count` paragraphs, the kinds of prose in turn, their facts at random."""
    rng = random.Random(f"{seed}/statements")
    for number in range(count):
        yield WRITERS[number % len(WRITERS)](rng)


def judgements(seed: int, count: int) -> Iterator[str]:
    """`count` paragraphs: those of `statements`, with a paragraph of wishes, answers and verdicts between any two of them."""
    rng = random.Random(f"{seed}/judgements")
    for number in range(count):
        yield _two_verdicts(rng) if number % 2 else WRITERS[number // 2 % len(WRITERS)](rng)


def _sample_sentences(rng: random.Random, sentences: list[str], least: int, most: int) -> str:
    return " ".join(rng.sample(sentences, min(len(sentences), rng.randint(least, most))))


def _several(rng: random.Random, table: str, /, **facts: object) -> str:
    entry = world.SENTENCES[table]
    return _sample_sentences(rng, [text.format(**facts) for text in entry["texts"]], entry["least"], entry["most"])


def _variant(rng: random.Random, table: str, /, **facts: object) -> str:
    return rng.choice(world.VARIANTS[table]).format(**facts)


def _opposite(rng: random.Random) -> str:
    a = rng.choice(list(world.OPPOSITES))
    return _several(rng, "opposite", a=a, b=world.OPPOSITES[a], B=capital(world.OPPOSITES[a]))


def _location(rng: random.Random) -> str:
    name = rng.choice(list(world.LOCATIONS))
    return _several(rng, "location", place=name, Place=capital(name), where=world.LOCATIONS[name])


def _thing(rng: random.Random) -> str:
    thing = rng.choice(list(world.THINGS))
    return _several(rng, "thing", thing=thing, Thing=capital(thing), what=world.THINGS[thing])


def _member(rng: random.Random) -> str:
    """Somebody calls a thing something, rightly or wrongly, and is answered: the kind must be copied, not guessed."""
    member = rng.choice(list(world.KIND_OF))
    kind = world.KIND_OF[member]
    strange = with_article(rng.choice([k for k in world.KINDS if k != kind]))
    friend = with_article(rng.choice([m for m in world.KINDS[kind][1] if m != member]))
    a, its_kind = with_article(member), with_article(kind)
    name = rng.choice(world.NAMES)
    if rng.random() < 0.6:
        lead = _variant(rng, "member_calls", name=name, a=a, kind=strange)
        answer = _variant(rng, "member_no", a=a, strange=strange, kind=its_kind)
    else:
        lead = _variant(rng, "member_calls", name=name, a=a, kind=its_kind)
        answer = _variant(rng, "member_yes", a=a, kind=its_kind)
    more = [f"{capital(a)} is {its_kind}.", f"You would call {a} {its_kind}, and {friend} is {its_kind} too."]
    return " ".join([lead, answer, *rng.sample(more, rng.randint(0, 2))])


def _kind_list(rng: random.Random) -> str:
    """How many of which kind somebody wants comes first and is said again."""
    plural, members = world.KINDS[rng.choice(list(world.KINDS))]
    word = rng.choice(list(world.COUNTS))
    first, second = (enumeration(tuple(rng.sample(members, world.COUNTS[word]))) for _ in range(2))
    name, all_members = rng.choice(world.NAMES), enumeration(tuple(rng.sample(members, len(members))))
    facts = {"name": name, "word": word, "Word": capital(word), "plural": plural, "Plural": capital(plural)}
    lead = _variant(rng, "kind", members=all_members, **facts)
    lists = _several(rng, "kind", first=first, second=second, **facts)
    more = f" You could name {second}." if rng.random() < 0.4 else ""
    return f"{lead} {lists}{more}"


def _sum(rng: random.Random) -> str:
    a, b = rng.randint(1, 10), rng.randint(1, 10)
    low, high = sorted((a, b))
    sums = [f"{a} plus {b} is {a + b}.", f"{b} plus {a} is {a + b}.", f"{a + b} minus {b} is {a}."]
    sums += [f"{high} minus {low} is {high - low}.", f"So {a} and {b} make {a + b}; the answer is {a + b}."]
    if 2 <= a <= 5 and 2 <= b <= 5:
        sums += [f"{a} times {b} is {a * b}.", f"{b} times {a} is {a * b}."]
    small, big = sorted((rng.randint(1, 12), rng.randint(1, 12)))
    return _sample_sentences(rng, [*sums, f"{big} minus {small} is {big - small}."], 3, 5)


def _times(rng: random.Random) -> str:
    a, b = rng.randint(2, 5), rng.randint(2, 5)
    products = [f"{a} times {n} is {a * n}." for n in range(2, 6)]
    return _sample_sentences(rng, [*products, f"{b} times {a} is {a * b}."], 3, 5)


def _order(rng: random.Random) -> str:
    words = tuple(rng.sample(world.WORDS, rng.choice((3, 3, 3, 2, 4))))
    pairs = (("words", words), ("order", tuple(sorted(words))))
    return " ".join(_variant(rng, kind, words=enumeration(items), commas=", ".join(items)) for kind, items in pairs)


def _alphabet(rng: random.Random) -> str:
    start = rng.randrange(len(world.WORDS) - 5)
    run = world.WORDS[start : start + rng.randint(3, 5)]
    a, b = sorted(rng.sample(world.WORDS, 2))
    return f"In the alphabet come {', '.join(run)}. {capital(a)} comes before {b}, and {b} comes after {a}."


def _count(rng: random.Random) -> str:
    words = rng.sample(world.WORDS, rng.randint(2, 6))
    text, numbers = " ".join(words), ", ".join(f"{i + 1} {word}" for i, word in enumerate(words))
    return _several(rng, "count", text=text, Text=capital(text), n=len(words), numbers=numbers)


def _positive(rng: random.Random) -> str:
    subject = rng.choice(list(world.SUBJECTS))
    first, second = rng.sample(list(world.POSITIVE), 2)
    better = world.POSITIVE[first], world.POSITIVE[second]
    before, after = (
        f"The {subject} was {with_article(a)} and {b} {world.SUBJECTS[subject]}." for a, b in ((first, second), better)
    )
    facts = {"first": first, "second": second, "better_first": better[0], "better_second": better[1]}
    return _variant(rng, "positive", before=before, after=after, **facts)


def _story(rng: random.Random) -> str:
    name, role, land = rng.choice(world.NAMES), with_article(rng.choice(world.ROLES)), rng.choice(world.LANDS)
    facts = {"name": name, "a": role, "A": capital(role), "land": land}
    stories = [
        text.format(past=rng.choice(world.PASTS), goal=rng.choice(world.GOALS), **facts) for text in world.VARIANTS["story"]
    ]
    return rng.choice(stories)


def _harm(rng: random.Random) -> str:
    harm = rng.choice(list(world.HARMS))
    return _several(rng, "harm", harm=harm, better=world.HARMS[harm], refusal=REFUSAL)


def _unknown(rng: random.Random) -> str:
    things = (
        f"who is the current {rng.choice(world.OFFICES)} of {rng.choice(world.COUNTRIES)}",
        f"what the weather will be in {rng.choice(world.CITIES)} tomorrow",
        f"who will win the next {rng.choice(world.CONTESTS)}",
        f"what {rng.choice(world.GOODS)} will cost next year",
    )
    return _several(rng, "unknown", thing=rng.choice(things))


def _talk(rng: random.Random) -> str:
    name, fillers, rude, filler = (
        rng.choice(world.NAMES),
        rng.sample(world.FILLERS, 3),
        rng.sample(world.RUDE, 2),
        rng.choice(world.FILLERS),
    )
    verb = rng.choice(("name", "list", "explain", "tell me", "sort", "count", "calculate"))
    return _variant(rng, "talk", name=name, fillers=" ".join(fillers), rude=" ".join(rude), filler=filler, verb=verb)


def _copy(rng: random.Random) -> str:
    """A thing named, then named again: what every answer must do with its question."""
    first, second = rng.sample(
        [*world.OPPOSITES, *world.KIND_OF, *world.WORDS, *world.SUBJECTS, *world.ROLES, *world.LANDS, *world.LOCATIONS], 2
    )
    return _variant(rng, "copy", first=first, second=second, name=rng.choice(world.NAMES))


# Families in which a wrong payload is still wrong when it is said in a word or two.
WRONG_WHEN_TERSE = {"opposite", "where", "what", "sum", "order", "count"}
# How often a family's wishes come with a slip, 1 where not named: more for what is hardest to tell right from wrong. What
# cannot be known (the last family) has verdicts only.
SLIPS = {"opposite": 3, "sum": 3, "name": 2, "is_a": 2, "where": 2, "story": 2, "decline": 0}
KNOWABLE = [family for family in world.WISHES if family != "unknown"]


def _wish(rng: random.Random, family: TaskFamily, slots: tuple[str, ...]) -> str:
    return rng.choice(world.WISHES[family.name]).format(*slots, name=rng.choice(world.NAMES))


def _exchange(rng: random.Random) -> str:
    """Somebody wants something, somebody else answers, rightly or wrongly, and often hears which."""
    family = BY_NAME[rng.choice(KNOWABLE)]
    key = family.some_key(rng)
    wish = _wish(rng, family, family.slots(key))
    right = rng.random() < 0.5
    text = _short_or_whole(family, key, rng, right=right)
    answer = f"{rng.choice((*world.NAMES, 'They'))} answered: {text}" if rng.random() < 0.6 else text
    if rng.random() < 0.25:
        return f"{wish} {_short_or_whole(family, key, rng, right=True)}"
    if right:
        return f"{wish} {answer} {rng.choice(('That is right.', 'That was right.'))}"
    verdict = rng.choice(("That is wrong.", "That was wrong."))
    correction = f" {_short_or_whole(family, key, rng, right=True)}" if rng.random() < 0.5 else ""
    return f"{wish} {answer} {verdict}{correction}"


def _short_or_whole(family: TaskFamily, key: Key, rng: random.Random, *, right: bool) -> str:
    payload = family.right(key, rng) if right else family.wrong(key, rng)
    if rng.random() < 0.25 and (right or family.name in WRONG_WHEN_TERSE):
        return family.terse(key, payload)
    return " ".join(rng.choice(family.full(key, payload)))


# How often a family's wishes come with a verdict, 1 where not named.
VERDICTS = {"opposite": 2, "sum": 3, "name": 2, "is_a": 2, "story": 2}
# Shares of the answers to such a wish: half are right; the rest mostly have one wrong word, or answer something else.
ANSWERS = {"right": 50, "wrong": 33, "other": 6, "elsewhere": 4, "refusal": 7}
MANNERS = {"expert": 60, "good": 10, "terse": 15, "rambling": 15}


def _choose_by_weight(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), weights=list(weights.values()))[0]


def _two_verdicts(rng: random.Random) -> str:
    """Two wishes, each with an answer and whether that is right."""
    return " ".join(_verdict(rng) for _ in range(2))


def _verdict(rng: random.Random) -> str:
    family = BY_NAME[_choose_by_weight(rng, {name: VERDICTS.get(name, 1) for name in world.WISHES})]
    key = family.some_key(rng)
    prompt = family.phrasings[0].format(*family.slots(key))
    slots = (f"{key[0][0].lower()}{key[0][1:-1]}",) if family.name == "unknown" else family.slots(key)
    wish = _wish(rng, family, slots)
    answer = _any_answer(family, key, rng)
    return f"{wish} {answer} That is {'right' if gold(prompt, answer).right else 'wrong'}."


def _any_answer(family: TaskFamily, key: Key, rng: random.Random) -> str:
    kind = _choose_by_weight(rng, ANSWERS)
    if kind in ("elsewhere", "refusal"):
        return (off_topic if kind == "elsewhere" else refusal)(family, rng)
    manner = _choose_by_weight(rng, MANNERS)
    if manner == "terse" and family.name not in WRONG_WHEN_TERSE:
        manner = "expert"
    if kind == "wrong":
        return write_answer(family, key, family.wrong(key, rng), manner, rng)
    return write_answer(family, key, family.right(family.some_key(rng) if kind == "other" else key, rng), manner, rng)


def _take_back(rng: random.Random) -> str:
    """One or two wishes are met; half of the answers say a wrong word and take it back at once.

    A verdict behind an answer says only that something in it was wrong. One at the very word is learnt much sooner, and with
    it the verdicts behind.
    """
    exchanges = []
    for _ in range(rng.choice((1, 1, 2))):
        family = BY_NAME[_choose_by_weight(rng, {name: SLIPS.get(name, 1) for name in KNOWABLE})]
        key = family.some_key(rng)
        wish = _wish(rng, family, family.slots(key))
        seed = rng.random()  # right and wrong share what both draw (a hero's name, a list's items): that is no slip
        right, wrong = (payload(key, random.Random(seed)) for payload in (family.right, family.wrong))
        if rng.random() < 0.2 and family.name in WRONG_WHEN_TERSE:
            answer, slip = family.terse(key, right), family.terse(key, wrong)
        else:
            form = rng.randrange(2)
            answer, slip = (" ".join(forms[form % len(forms)]) for forms in (family.full(key, right), family.full(key, wrong)))
        exchanges.append(f"{wish} {_with_slip(answer, slip) if rng.random() < 0.5 else answer}")
    return " ".join(exchanges)


def _with_slip(right: str, wrong: str) -> str:
    """The right sentence after the first word in which the wrong one differs: `Cairo is in Norway, no, Egypt.`"""
    words, others = right.split(), wrong.split()
    differ = (i for i, (a, b) in enumerate(zip(words, others, strict=False)) if a.strip('.,"') != b.strip('.,"'))
    first = next(differ, None)
    if first is None:  # the wrong one only breaks off: no word of it is wrong
        return right
    slip = " ".join(others[first : first + 2] if others[first] in ("a", "an") else others[first : first + 1]).rstrip(".,")
    if first == 0:
        return f"{slip}; {right[0].lower()}{right[1:]}"
    return " ".join([*words[:first], f"{slip}, no,", *words[first:]])


WRITERS: tuple[Writer, ...] = (
    _opposite, _take_back, _location, _thing, _exchange, _member, _take_back, _kind_list, _exchange, _sum, _take_back, _order,
    _exchange, _count, _take_back, _positive, _exchange, _story, _take_back, _harm, _exchange, _unknown, _take_back, _member,
    _take_back, _sum, _order, _take_back, _exchange, _alphabet, _times, _take_back, _sum, _copy, _take_back, _talk, _order,
    _exchange, _take_back, _count, _member, _take_back, _opposite, _kind_list, _exchange, _sum, _take_back, _order, _exchange,
    _take_back, _take_back,
)  # fmt: skip
