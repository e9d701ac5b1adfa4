"""Scorers made of scorers: a weighted sum of named parts, a label of a classifier, a user's function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sawyer import processes
from sawyer.errors import ModelError, TrainingError
from sawyer.models.classify import Classifier
from sawyer.models.score import Scored, Scorer, scored
from sawyer.records import Prompt
from sawyer.text import conversation

Function = Callable[[list[str], list[str]], Sequence[float]]
SMALLEST = 1.2e-38  # the least normal number of fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One term of a weighted sum."""

    name: str
    weight: float
    scorer: Scorer


class WeightedScorer:
    """sum of weight * score over the parts; each part's own score is told by its name.

    The disagreement is that of the first part that is an ensemble.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [found.reward for found in self.detailed(prompts, responses)]

    def detailed(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Scored]:
        """The sums, with every part's score before its weight."""
        found = [scored(part.scorer, prompts, responses) for part in self.parts]
        return [self._summed([column[i] for column in found]) for i in range(len(responses))]

    def _summed(self, scores: Sequence[Scored]) -> Scored:
        voices = next((score for score in scores if score.disagreement is not None), None)
        return Scored(
            reward=sum(part.weight * score.reward for part, score in zip(self.parts, scores, strict=True)),
            members=voices.members if voices else (),
            disagreement=voices.disagreement if voices else None,
            parts={part.name: score.reward for part, score in zip(self.parts, scores, strict=True)},
        )


class FunctionScorer:
    """A user's function of (prompts, responses), both lists of text, that returns one number each; its answer is checked.

    A prompt of several turns is given as `sawyer.text.conversation` writes it.
    """

    def __init__(self, function: Function, name: str) -> None:
        self.function, self.name = function, name

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        # Asked once, by the first of several processes: a function may say something else each time.
        return processes.first(lambda: self._asked(prompts, responses))

    def _asked(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        try:
            given = self.function([conversation(prompt) for prompt in prompts], list(responses))
        except Exception as error:  # a user's function may raise anything
            raise self._unfit(f"raised {type(error).__name__}: {error}") from error
        try:
            numbers = [float(value) for value in given]
        except (TypeError, ValueError) as error:
            raise self._unfit(f"returned {type(given).__name__}, not a list of numbers ({error})") from error
        if len(numbers) != len(responses):
            raise self._unfit(f"returned {len(numbers):,} scores for {len(responses):,} answers")
        wrong = next((i for i, value in enumerate(numbers) if not math.isfinite(value)), None)
        if wrong is not None:
            raise self._unfit(f"scored the answer {responses[wrong][:60]!r} with {numbers[wrong]}")
        return numbers

    def _unfit(self, what: str) -> TrainingError:
        return TrainingError(
            f"{self.name} {what}",
            expected="a function of (prompts: list[str], responses: list[str]) that returns one finite number an answer",
            why="a policy would be trained on rewards that mean nothing",
            todo="mend the function, then run the same command again",
        )


class LabelScorer:
    """A classifier as a scorer: the log-probability, or the probability, that it gives to one label of the response alone."""

    def __init__(self, classifier: Classifier, label: str, *, probability: bool = False) -> None:
        if label not in classifier.labels:
            raise ModelError(
                f"the classifier has no label {label!r}",
                expected=f"one of: {', '.join(classifier.labels[:12])}",
                todo="name one of its labels, as its config.json has them",
            )
        self.classifier, self.label, self.probability = classifier, label, probability

    @property
    def cut(self) -> int:
        """The responses so far that were longer than the classifier reads."""
        return self.classifier.cut

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        shares = [found[self.label] for found in self.classifier(responses)]
        # fp32 knows no smaller number above 0: a label that is certain not to apply costs about 87, not infinity.
        return shares if self.probability else [math.log(max(share, SMALLEST)) for share in shares]
