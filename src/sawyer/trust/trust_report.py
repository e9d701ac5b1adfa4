"""From a scorer and judged answers to the whole report: the one door."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sawyer.errors import ModelError
from sawyer.records import JudgedPrompt, Prompt
from sawyer.trust.accuracy_ceiling import ceiling
from sawyer.trust.intervals import share
from sawyer.trust.judge_figures import JudgeAccess, judge_figures
from sawyer.trust.judged_answers import SFT, RewardedPrompt, score_prompts
from sawyer.trust.metrics import side
from sawyer.trust.probes import probe
from sawyer.trust.trust_values import Figure, SideName, Trust

if TYPE_CHECKING:
    from sawyer.models import Scorer


def trust(
    scorer: Scorer,
    records: Sequence[JudgedPrompt],
    *,
    loss: str | None = None,
    unit: float = 1.0,
    truth: Callable[[Prompt, str], float] | None = None,
    own_answers: Sequence[JudgedPrompt] = (),
    judgements: Sequence[JudgedPrompt] = (),
    held_out: bool = False,
    seed: int = 0,
    judge: JudgeAccess | None = None,
) -> Trust:
    """Every figure of the report.

    `records` are judged answers to prompts that the model should not have been trained on; `held_out` says that this is known.
    `loss` trained the model, whose D is the difference of two rewards times `unit`; calibration needs both. `truth` gives the
    true score where it is known, and `own` are the SFT model's own answers with true scores. `judgements` are all that these
    judges gave, from which the accuracy that they allow is known where answers were judged twice; by default `records`. With
    `judge` the scorer is that judge: its own figures are added; its points, which no loss made log-odds, are not calibrated.
    Raises ModelError for a reward that is no finite number.
    """
    scorer = Finite(scorer)
    rows = score_prompts(records, scorer, truth)
    true = score_prompts(own_answers, scorer)
    parts: list[tuple[SideName, str, Sequence[RewardedPrompt]]] = [("all", "all judged answers", rows)]
    sources = {answer.source for row in rows for answer in row.record.answers}
    if SFT in sources:
        if sources != {SFT}:
            parts.append(("file", "answers of the files", _of_sources(rows, lambda source: source != SFT)))
        parts.append(("own", "the SFT model's own answers, as the judges see them", _of_sources(rows, lambda s: s == SFT)))
    if true:
        parts.append(("gold", "the SFT model's own answers, by their true score", true))
    probes, corrupted_win_rate = probe(scorer, rows, seed=seed)
    sides = [side(name, what, part, loss=loss, unit=unit, seed=seed) for name, what, part in parts]
    return Trust(
        sides=tuple(replace(one, calibration=()) if judge is not None else one for one in sides),
        corrupted_win_rate=corrupted_win_rate,
        probes=probes,
        ceiling=ceiling(rows, seed, judgements),
        truth_agrees=_truth_agreement(rows, seed) if truth is not None else None,
        held_out=held_out,
        loss=loss,
        cut=scorer.cut,
        judge=judge_figures(scorer, judge, rows, seed=seed) if judge is not None else None,
    )


class Finite:
    """A scorer whose every reward is a finite number. Raises ModelError that names the answer whose reward is not."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    @property
    def cut(self) -> int:
        """Answers that the scorer could not read to their end."""
        return int(getattr(self.scorer, "cut", 0))

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        rewards = self.scorer(prompts, responses)
        for reward, response in zip(rewards, responses, strict=True):
            if not math.isfinite(reward):
                raise ModelError(
                    f"the reward of {response[:60]!r} is {reward}",
                    expected="a finite number for every answer, also for an empty one",
                    why="no figure can be made of it, and no policy learn from it",
                    todo="look at the model's weights, or load it in a precision that it was made for",
                )
        return rewards


def _of_sources(rows: Sequence[RewardedPrompt], accepts: Callable[[str], bool]) -> tuple[RewardedPrompt, ...]:
    return tuple(part for row in rows if (part := row.of_sources(accepts)).rewards)


def _truth_agreement(rows: Sequence[RewardedPrompt], seed: int) -> Figure:
    """How often the judges put the truly better of two answers first; truly equal ones count as half."""
    cells = []
    for row in rows:
        signs = [row.truths[j] - row.truths[k] for j, k, _ in row.pairs]
        cells.append((sum(0.5 if sign == 0 else float(sign > 0) for sign in signs), float(len(signs))))
    return share(cells, seed)
