"""Prompts and the facts they turn on: three splits of combinations of phrasing and key, looked up by a prompt's text."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from sawyer.errors import WorldError
from sawyer.worlds.task_families import BY_NAME, FAMILY_LIST, Key, TaskFamily
from sawyer.worlds.world_facts import QUESTIONS, WORDS

Split = Literal["train", "dev", "held_out"]
FAMILIES: tuple[str, ...] = tuple(family.name for family in FAMILY_LIST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt with the facts it turns on.

    Example: `Task(family="opposite", prompt='What is the opposite of "up"?', key=("up",), split="held_out")`
    """

    family: str
    prompt: str
    key: Key
    split: Split


def questions() -> list[str]:
    """The six questions the original SAWYER was tried on; all of them are held out."""
    return list(QUESTIONS)


def tasks(split: Split, count: int, seed: int) -> list[Task]:
    """`count` distinct tasks of a split, families in turn; a family that has no more leaves its turns to the others.

    A split is a set of combinations of phrasing and key: every fact and every phrasing is in training, held-out prompts combine
    them as training never did.
    """
    rng = random.Random(f"{seed}/{split}")
    queues = {family.name: _queue(family, split, count, rng) for family in FAMILY_LIST}
    picks: list[Task] = []
    while len(picks) < count and any(queues.values()):
        for queue in queues.values():
            if queue and len(picks) < count:
                picks.append(queue.pop())
    if len(picks) < count:
        raise WorldError(f"{count} {split} tasks are more than the world has", expected=f"at most {len(picks)}")
    rng.shuffle(picks)
    return picks


def find_task(prompt: str) -> Task:
    """The task of a prompt's text. Raises WorldError for a prompt outside the world."""
    text = prompt.strip()
    if text in _prompt_index():
        return _prompt_index()[text]
    for name in ("order", "count"):
        family = BY_NAME[name]
        for phrasing in family.phrasings:
            words = re.fullmatch(re.escape(phrasing).replace(r"\{0\}", "(.+)"), text)
            if words:
                key = tuple(words[1].split(", " if name == "order" else " "))
                if len(key) >= 2 and set(key) <= set(WORDS):
                    return Task(family=name, prompt=text, key=key, split=split_of(name, phrasing, key))
    raise WorldError(
        f"the built-in world does not know the prompt {text[:80]!r}",
        expected="one of its own prompts (`sawyer world --out DIR` writes thousands)",
        why="it knows the truth of its own prompts only",
        todo="remove `world:` from the config to run on prompts of your own",
    )


def split_of(family: str, phrasing: str, key: Key) -> Split:
    """By a hash of the combination: a tenth held out, a tenth for development."""
    digest = hashlib.sha256(f"{family}|{phrasing}|{key}".encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return "held_out" if share < 0.1 else "dev" if share < 0.2 else "train"


@lru_cache(maxsize=1)
def _prompt_index() -> dict[str, Task]:
    index: dict[str, Task] = {}
    for family in FAMILY_LIST:
        for key in family.keys():
            for phrasing in family.phrasings:
                if ("D&D" in phrasing) != (key == ("", "")):
                    continue
                prompt = phrasing.format(*family.slots(key))
                split = "held_out" if prompt in QUESTIONS else split_of(family.name, phrasing, key)
                index[prompt] = Task(family=family.name, prompt=prompt, key=key, split=split)
    return index


def _queue(family: TaskFamily, split: Split, count: int, rng: random.Random) -> list[Task]:
    """At least `count` tasks of a family that draws its keys; all of a family that lists them."""
    if family.draw is None:
        members = [task for task in _prompt_index().values() if task.family == family.name and task.split == split]
        rng.shuffle(members)
        return members
    queue: dict[str, Task] = {}
    while len(queue) < count:
        key, phrasing = family.draw(rng), rng.choice(family.phrasings)
        if split_of(family.name, phrasing, key) == split:
            prompt = phrasing.format(*family.slots(key))
            queue[prompt] = Task(family=family.name, prompt=prompt, key=key, split=split)
    return list(queue.values())
