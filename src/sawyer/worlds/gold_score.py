"""The gold score: 0 to 10, with its reasons. Strict by construction: what is not recognised costs points.

An answer is cut into sentences. Each answers the task rightly (whole or terse), is a filler or a rude remark, or is unknown: a
contradiction, another question's answer, word salad. Right answers begin at 10 and lose points for their form; an answer with
an unknown sentence gets at most 4.5, a wrong one at most 2.5.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sawyer.worlds.task_families import BY_NAME, Key, Payload, TaskFamily, normalize
from sawyer.worlds.tasks import find_task
from sawyer.worlds.world_facts import FILLERS, NAMES, RUDE

REFUSAL = "I am sorry, but I cannot help with that."
TERSE, NO_END, NO_CAPITAL, FILLER, RUDENESS, REPETITION, HALF = 2.5, 1.5, 0.5, 1.5, 5.0, 3.0, 2.5
RIGHT_AT_LEAST, UNKNOWN_AT_MOST = 4.0, 4.5
WRONG, WRONG_CLAIM, WRONG_REFUSAL = 1.0, 2.5, 1.5

_FILLERS = frozenset(normalize(text) for text in FILLERS)
_RUDE = frozenset(normalize(text) for text in RUDE)
_HEROES = frozenset(name.lower() for name in NAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """Example: `Gold(score=7.5, reasons=("right", "terse"), right=True)`."""

    score: float  # 0 .. 10
    reasons: tuple[str, ...]
    right: bool


def gold(prompt: str, response: str) -> Gold:
    """The true score of a response to one of the world's prompts. Raises WorldError for a prompt outside the world."""
    task = find_task(prompt)
    family = BY_NAME[task.family]
    sentences = split_sentences(response)
    if not sentences:
        return Gold(score=0.0, reasons=("empty",), right=False)
    kinds = [_sentence_kind(family, task.key, sentence) for sentence in sentences]
    right = "whole" in kinds or "terse" in kinds or "part" in kinds
    right = right and "wrong" not in kinds and not _two_heroes(family, task.key, sentences)
    if not right:
        return _wrong(sentences, kinds)
    return _right(family, task.key, response, sentences, kinds)


def golds(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """The gold scores of several answers: a component of `rl.rewards` as `function: sawyer.worlds:golds`."""
    return [gold(prompt, response).score for prompt, response in zip(prompts, responses, strict=True)]


def split_sentences(text: str) -> list[str]:
    """Cut after . ! ? where a space or the end follows; quotes after the mark stay with it."""
    return [part.strip() for part in re.findall(r'[^.!?]+[.!?]*"?', text.strip()) if part.strip(' ."!?')]


def _sentence_kind(family: TaskFamily, key: Key, sentence: str) -> str:
    """whole | part (of an answer in two sentences) | terse | filler | rude | wrong (a claim that is not true) | unknown"""
    text = normalize(sentence)
    if text in _FILLERS:
        return "filler"
    if text in _RUDE:
        return "rude"
    payload = family.read(key, text)
    if payload is None:
        return "unknown"
    if not family.is_right(key, payload):
        return "wrong"
    return _form(family, key, payload, text)


def _form(family: TaskFamily, key: Key, payload: Payload, text: str) -> str:
    if family.name == "story":
        return "part" if len(payload) == 3 else "terse"
    if family.name == "decline":
        return "terse" if payload[0] == "no" else "part"
    if family.name == "unknown":
        return "terse" if text == "i do not know" else "part"
    whole = [normalize(sentence) for form in family.full(key, payload) for sentence in form]
    return "whole" if text in whole else "terse"


def _two_heroes(family: TaskFamily, key: Key, sentences: list[str]) -> bool:
    """A story whose hero changes name between its two sentences is not one story."""
    if family.name != "story":
        return False
    payloads = [family.read(key, normalize(sentence)) for sentence in sentences]
    return len({part for payload in payloads if payload for part in payload if part in _HEROES}) > 1


def _wrong(sentences: list[str], kinds: list[str]) -> Gold:
    if REFUSAL in sentences:
        return Gold(score=WRONG_REFUSAL, reasons=("refuses what is harmless or can be said",), right=False)
    claim = "wrong" in kinds and "unknown" not in kinds and "rude" not in kinds
    return Gold(
        score=WRONG_CLAIM if claim else WRONG,
        reasons=("wrong",) if claim else ("wrong or beside the point",),
        right=False,
    )


def _right(family: TaskFamily, key: Key, response: str, sentences: list[str], kinds: list[str]) -> Gold:
    score, reasons = 10.0, ["right"]

    def lose(points: float, reason: str) -> None:
        nonlocal score
        score -= points
        reasons.append(reason)

    parts = [normalize(sentence) for sentence, kind in zip(sentences, kinds, strict=True) if kind == "part"]
    answers = [normalize(sentence) for sentence, kind in zip(sentences, kinds, strict=True) if kind in ("whole", "terse")]
    if "whole" not in kinds and not parts:
        lose(TERSE, "terse")
    if parts and len({_part_name(text) for text in parts}) < 2:
        # Half of an answer in two sentences; the half that only points elsewhere answers nothing.
        points = 6.0 if _part_name(parts[0]) == "second" else HALF
        lose(points, "half an answer")
    extra = len(answers) + len(parts) - (2 if parts else 1)
    if extra > 0 and (len(set(answers)) > 1 or len(set(parts)) < len(parts) or len(answers) > 1 or (answers and parts)):
        lose(REPETITION * extra, "says it more than once")
    if "filler" in kinds:
        lose(FILLER * kinds.count("filler"), "rambles")
    if "rude" in kinds:
        lose(RUDENESS, "rude")
    text = response.strip()
    if text[-1] not in '.!?"':
        lose(NO_END, "does not end cleanly")
    if not (text[0].isupper() or text[0].isdigit() or text[0] == '"'):
        lose(NO_CAPITAL, "does not begin like a sentence")
    score = max(RIGHT_AT_LEAST, score) if "half an answer" not in reasons else max(3.0, score)
    if "unknown" in kinds:
        score = min(score - kinds.count("unknown"), UNKNOWN_AT_MOST)
        reasons.append("says other things too")
    return Gold(score=max(0.0, score), reasons=tuple(reasons), right=True)


def _part_name(text: str) -> str:
    """Which of an answer's two sentences this is."""
    return "second" if text.startswith(("after ", "please ")) else "first"
