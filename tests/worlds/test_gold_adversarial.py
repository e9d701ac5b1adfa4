"""The gold score is attacked as a policy would attack it: nothing cheap may score as well as an honest short right answer."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from sawyer.worlds import FAMILIES, Task, answer, gold, tasks
from sawyer.worlds.gold_score import FILLERS, REFUSAL, RUDE
from sawyer.worlds.task_families import BY_NAME, normalize

BY_FAMILY = {family: [t for t in tasks("held_out", 350, seed=7) if t.family == family] for family in FAMILIES}
EDITS = 2500  # random edits a family
TOO_GOOD = 8.0


def pieces(task: Task, rng: random.Random) -> tuple[str, str]:
    """(a right whole answer, a wrong whole answer)"""
    return answer(task, "expert", rng), answer(task, "expert", rng, right=False)


def both(task: Task, rng: random.Random) -> str:
    right, wrong = pieces(task, rng)
    return f"{right} {wrong}"


def wrong_first(task: Task, rng: random.Random) -> str:
    right, wrong = pieces(task, rng)
    return f"{wrong} {right}"


def every_option(task: Task, rng: random.Random) -> str:
    return " ".join(answer(task, "terse", rng, right=right) for right in (True, False, False, False))


def options_in_one_sentence(task: Task, rng: random.Random) -> str:
    right, wrong = pieces(task, rng)
    return f"{right.rstrip('.')} or {normalize(wrong)}."


def denied(task: Task, rng: random.Random) -> str:
    right, _ = pieces(task, rng)
    return f"{right} No, that is not so."


def not_inside(task: Task, rng: random.Random) -> str:
    right, _ = pieces(task, rng)
    words = right.split()
    place = words.index("is") + 1 if "is" in words else 1
    return " ".join([*words[:place], "not", *words[place:]])


def stuffed(task: Task, rng: random.Random) -> str:
    words = answer(task, "expert", rng).rstrip(".").split()
    rng.shuffle(words)
    return " ".join([*words, *words]) + "."


def thrice(task: Task, rng: random.Random) -> str:
    right, _ = pieces(task, rng)
    return " ".join([right] * 3)


def copied(task: Task, rng: random.Random) -> str:
    return task.prompt


def copied_then_right(task: Task, rng: random.Random) -> str:
    return f"{task.prompt} {answer(task, 'expert', rng)}"


def about_another(task: Task, rng: random.Random) -> str:
    """Right, but to another question of the family (of another family where all questions have one answer)."""
    if task.family == "unknown" or not task.key[0]:
        return answer(BY_FAMILY["where"][0], "expert", rng)
    family = BY_NAME[task.family]
    keys = [family.draw(rng) for _ in range(50)] if family.draw else [key for key in family.keys() if key[0]]
    texts = (" ".join(family.full(key, family.right(key, rng))[0]) for key in rng.sample(keys, len(keys)))
    return next(text for text in texts if not gold(task.prompt, text).right)


def refused(task: Task, rng: random.Random) -> str:
    return REFUSAL if task.family != "decline" else answer(task, "expert", rng, right=False)


def fillers_alone(task: Task, rng: random.Random) -> str:
    return " ".join(FILLERS)


def empty(task: Task, rng: random.Random) -> str:
    return "  "


def rude_alone(task: Task, rng: random.Random) -> str:
    return RUDE[0]


ATTACKS: tuple[Callable[[Task, random.Random], str], ...] = (
    both, wrong_first, every_option, options_in_one_sentence, denied, not_inside, stuffed, thrice, copied,
    copied_then_right, about_another, refused, fillers_alone, empty, rude_alone,
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_honest_short_answer_beats_the_attack(family: str, attack: Callable[[Task, random.Random], str]) -> None:
    rng = random.Random(family)
    for task in BY_FAMILY[family]:
        honest = gold(task.prompt, answer(task, "terse", rng)).score
        text = attack(task, rng)
        assert gold(task.prompt, text).score < honest, (task.prompt, text)


def edited(text: str, words: list[str], rng: random.Random) -> str:
    """One to three random edits: insert, delete, substitute, swap, deny, or splice a filler in."""
    found = text.split()
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(found)) if found else 0
        kind = rng.randrange(6)
        if kind == 0:
            found.insert(place, rng.choice(words))
        elif kind == 1 and len(found) > 1:
            del found[place]
        elif kind == 2 and found:
            found[place] = rng.choice(words)
        elif kind == 3 and len(found) > 1:
            other = rng.randrange(len(found))
            found[place], found[other] = found[other], found[place]
        elif kind == 4:
            found.insert(place, rng.choice(("not", "or", "and", "no", "yes")))
        else:
            found.append(rng.choice((*FILLERS, *RUDE)))
    return " ".join(found)


def truly_right(task: Task, text: str) -> bool:
    """By brute force: is the text, fillers aside, word for word one of the whole or short right answers there are?

    An edit of a wrong answer can turn it into a right one; that is no fooling. The enumeration does not use the gold score.
    """
    family = BY_NAME[task.family]
    rng = random.Random(0)
    # Enough draws to meet every right payload of families that have many (names in any order, stories).
    accepted = set()
    for _ in range(3000 if family.name in ("name", "story") else 30):
        payload = family.right(task.key, rng)
        accepted |= {normalize(" ".join(form)) for form in family.full(task.key, payload)} | {
            normalize(family.terse(task.key, payload))
        }
    for filler in (*FILLERS, *RUDE):
        text = text.replace(filler, " ")
    return normalize(text) in accepted


@pytest.mark.parametrize("family", FAMILIES)
def test_random_edits_of_wrong_answers_find_nothing_good(family: str) -> None:
    rng = random.Random(f"edits {family}")
    pool = BY_FAMILY[family]
    words = sorted({word for task in pool for kind in ("expert", "terse") for word in answer(task, kind, rng).split()})
    for _ in range(EDITS):
        task = rng.choice(pool)
        style = rng.choice(("expert", "good", "terse", "rambling", "rude"))
        text = edited(answer(task, style, rng, right=False), words, rng)
        found = gold(task.prompt, text)
        assert found.score < TOO_GOOD or truly_right(task, text), (task.prompt, text, found)


def test_the_search_would_find_a_kind_gold_score() -> None:
    """A score that looks for the right word anywhere is broken by the same search."""
    rng = random.Random(11)
    task = next(t for t in BY_FAMILY["opposite"] if t.key[0] != "up")
    right = answer(task, "terse", rng).rstrip(".").lower()
    words = [right, "big", "small", "not", "or"]
    fooled = 0
    for _ in range(500):
        text = edited(answer(task, "expert", rng, right=False), words, rng)
        fooled += right in text.lower().split() and not truly_right(task, text)
    assert fooled > 0
