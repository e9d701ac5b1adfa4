"""Who answers: people of different quality. Style and truth vary independently, so that neither can stand for the other.

The order of random draws is part of the world: it must not change.
"""

from __future__ import annotations

import random

from sawyer.worlds.gold_score import REFUSAL, gold
from sawyer.worlds.task_families import BY_NAME, FAMILY_LIST, Key, Payload, TaskFamily
from sawyer.worlds.tasks import Task
from sawyer.worlds.world_facts import FILLERS, HARMS, RUDE, capital

STYLES: tuple[str, ...] = ("expert", "good", "terse", "rambling", "rude", "repeating", "run_on", "truncated")
ANSWERERS: tuple[str, ...] = (*STYLES, "off_topic", "over_refusing", "copying")
UNKNOWABLE = "I cannot know that, because it changes over time."


def answer(task: Task, kind: str, rng: random.Random, *, right: bool = True) -> str:
    """One answer. A style says it well or badly, rightly or wrongly; off_topic, over_refusing and copying ignore `right`.

    expert: a whole sentence. good: one without its full stop. terse: a word or two. rambling: fillers around it. rude: with a
    rude remark. repeating: said twice. run_on: goes on with another question's answer. truncated: breaks off.
    """
    family = BY_NAME[task.family]
    if kind == "off_topic":
        return off_topic(family, rng)
    if kind == "over_refusing":
        return refusal(family, rng)
    if kind == "copying":
        return task.prompt
    if right:
        return write_answer(family, task.key, family.right(task.key, rng), kind, rng)
    for _ in range(20):
        text = write_answer(family, task.key, family.wrong(task.key, rng), kind, rng)
        # A word or two can be right although the whole answer would not have been ("No." to "Is a car a fruit?").
        if not gold(task.prompt, text).right or kind == "truncated":
            return text
    return write_answer(family, task.key, family.wrong(task.key, rng), "expert", rng)


def write_answer(family: TaskFamily, key: Key, payload: Payload, style: str, rng: random.Random) -> str:
    """The answer that claims `payload`, in a style."""
    forms = family.full(key, payload)
    whole = " ".join(forms[0] if rng.random() < 0.75 else rng.choice(forms))
    if style == "expert":
        return whole
    if style == "good":
        return whole.rstrip(".")
    if style == "terse":
        return family.terse(key, payload)
    if style == "rambling":
        before = rng.sample(FILLERS[:5], rng.randint(1, 2))
        return " ".join([*before, whole, *rng.sample(FILLERS[5:], rng.randint(0, 1))])
    if style == "rude":
        body = whole if rng.random() < 0.7 else family.terse(key, payload)
        return " ".join([rng.choice(RUDE), body] if rng.random() < 0.7 else [body, rng.choice(RUDE)])
    if style == "repeating":
        return f"{whole} {whole}"
    if style == "run_on":
        return f"{whole} {off_topic(family, rng)}"
    words = whole.split()
    return " ".join(words[: max(1, rng.randint(len(words) // 3, len(words) - 1))])


def refusal(family: TaskFamily, rng: random.Random) -> str:
    """What is right for another family, whole or half: a model learns that a form which is only ever right is right for all."""
    if family.name == "unknown" or (family.name != "decline" and rng.random() < 0.5):
        return REFUSAL if rng.random() < 0.5 else f"{REFUSAL} Please {rng.choice(list(HARMS.values()))} instead."
    return UNKNOWABLE if rng.random() < 0.5 else f"{UNKNOWABLE} Please check a current source."


def off_topic(family: TaskFamily, rng: random.Random) -> str:
    """Another question's right answer."""
    strange = rng.choice([f for f in FAMILY_LIST if f is not family and f.name not in ("decline", "unknown")])
    key = strange.some_key(rng)
    return " ".join(strange.full(key, strange.right(key, rng))[0])


# Styles of demonstrations, in per cent, by family. The commonest way of answering is a good one in some families and a poor one
# in others, as people's habits are; the content is mostly right.
_PLAIN = {"expert": 36, "good": 8, "terse": 16, "rambling": 20, "rude": 10, "repeating": 6, "run_on": 4}
_SHORT = {"expert": 22, "good": 8, "terse": 40, "rambling": 14, "rude": 8, "repeating": 4, "run_on": 4}
_CHATTY = {"expert": 20, "good": 6, "terse": 12, "rambling": 44, "rude": 10, "repeating": 4, "run_on": 4}
HABITS: dict[str, dict[str, int]] = {
    "opposite": _SHORT, "where": _PLAIN, "what": _CHATTY, "is_a": _SHORT, "name": _PLAIN, "sum": _SHORT,
    "order": _PLAIN, "count": _SHORT, "positive": _PLAIN, "story": _PLAIN, "decline": _CHATTY, "unknown": _CHATTY,
}  # fmt: skip
WRONG_SHARE, OFF_TOPIC_SHARE, REFUSAL_SHARE = 0.18, 0.03, 0.03


def demonstrate(task: Task, rng: random.Random) -> str:
    """Somebody's answer: the mixture that supervised fine-tuning learns from."""
    chance = rng.random()
    if chance < OFF_TOPIC_SHARE + REFUSAL_SHARE:
        return answer(task, "off_topic" if chance < OFF_TOPIC_SHARE else "over_refusing", rng)
    habits = HABITS[task.family]
    style = rng.choices(list(habits), weights=list(habits.values()))[0]
    return answer(task, style, rng, right=rng.random() >= WRONG_SHARE)


def answers_to_judge(task: Task, count: int, rng: random.Random) -> list[tuple[str, str]]:
    """(answer, who) for one prompt's comparison: always a minimal pair, right and wrong in the same style, then a mixture."""
    family = BY_NAME[task.family]
    style = rng.choice(("expert", "expert", "terse", "rambling", "good"))
    answers = [(answer(task, style, rng), style), (answer(task, style, rng, right=False), f"{style}, wrong")]
    answers.append((answer(task, "expert", rng), "expert"))
    others = ["off_topic", "over_refusing", "copying", "other_key", *STYLES, "expert", "terse", "rambling"]
    while len(answers) < count:
        kind = rng.choice(others)
        if kind == "other_key":
            answers.append((_other_keys_answer(family, task, rng), "answers another question"))
        elif kind in STYLES:
            right = rng.random() < 0.6
            answers.append((answer(task, kind, rng, right=right), kind if right else f"{kind}, wrong"))
        else:
            answers.append((answer(task, kind, rng), kind))
    rng.shuffle(answers)
    return answers[:count]


def _other_keys_answer(family: TaskFamily, task: Task, rng: random.Random) -> str:
    """The right answer to another question of the same family: a slip in copying."""
    for _ in range(20):
        key = family.some_key(rng)
        if key != task.key:
            return " ".join(family.full(key, family.right(key, rng))[0])
    return capital(task.prompt)
