"""Scripted scorers and small judged sets for the trust report's tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from sawyer.records import Answer, JudgedPrompt, Prompt, prompt_of
from sawyer.worlds import comparisons, gold, rate

Scorer = Callable[[Sequence[Prompt], Sequence[str]], list[float]]


def record(prompt: str, *judged: tuple[str, float], source: str = "") -> JudgedPrompt:
    """One prompt's answers with their scores."""
    answers = tuple(Answer(response=text, score=score, source=source) for text, score in judged)
    return JudgedPrompt(prompt=prompt_of(prompt), answers=answers)


def table(scores: dict[str, float], otherwise: float = -9.0) -> Scorer:
    """A scorer that knows some responses."""
    return lambda _, responses: [scores.get(response, otherwise) for response in responses]


def truly(prompt: Prompt, response: str) -> float:
    """The world's gold score."""
    return gold(prompt.text, response).score


def gold_scorer(noise: float = 0.001, seed: int = 0) -> Scorer:
    """The truth with normal noise of a given deviation; a trace of it keeps equally good answers from being tied."""

    def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        draws = [random.Random(f"{seed}/{p.text}/{r}").gauss(0.0, noise) for p, r in zip(prompts, responses, strict=True)]
        return [truly(p, r) + draw for p, r, draw in zip(prompts, responses, draws, strict=True)]

    return score


def noise_scorer(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """Nothing but noise."""
    return [random.Random(f"{p.text}/{r}").gauss(0.0, 1.0) for p, r in zip(prompts, responses, strict=True)]


def length_scorer(_: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """The longer the better."""
    return [float(len(response)) for response in responses]


def constant_scorer(_: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """The same for everything."""
    return [1.5] * len(responses)


def judged(
    rater: str, count: int, *, twice: bool = False, split: Literal["train", "held_out"] = "held_out"
) -> list[JudgedPrompt]:
    """World prompts judged by a rater, each once or, by fresh judgements, twice."""
    found = comparisons(count, 3, rater=rater, split=split)
    rng = random.Random(11)
    again = [
        replace(r, answers=tuple(replace(a, score=rate(rater, r.prompt.text, a.response, rng)) for a in r.answers))
        for r in found
    ]
    return [*found, *again] if twice else found
