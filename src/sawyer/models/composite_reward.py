"""Scorers made of scorers: a weighted sum of named parts, a label of a classifier, a user's function."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sawyer.errors import ModelError, TrainingError
from sawyer.models.classifier import Classifier
from sawyer.models.scoring import ScoreDetails, Scorer, score_details
from sawyer.records import Prompt
from sawyer.text import conversation

# Of (prompts, responses), or of (prompts, responses, rows): one number an answer, or None where it does not apply.
Function = Callable[..., Sequence[float | None]]
Call = Callable[[Callable[[], list[float | None]]], list[float | None]]
SMALLEST = 1.2e-38  # the least normal number of fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardComponent:
    """One term of a weighted sum."""

    name: str
    weight: float
    scorer: Scorer | FunctionScorer


class WeightedScorer:
    """sum of weight * score over the parts; `ScoreDetails.parts` has each part's score by its name.

    A function that says None of an answer does not apply to it: it adds nothing there, and is not among that answer's parts. An
    answer to which no part applies has no reward: TrainingError.

    The disagreement is that of the first part that is an ensemble.
    """

    def __init__(self, parts: Sequence[RewardComponent]) -> None:
        self.parts = tuple(parts)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [answer.reward for answer in self.score_details(prompts, responses)]

    def score_details(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[ScoreDetails]:
        """The sums, with every part's score before its weight."""
        columns = [_scored_where_it_applies(part.scorer, prompts, responses) for part in self.parts]
        return [self._weighted_sum([column[i] for column in columns], responses[i]) for i in range(len(responses))]

    def _weighted_sum(self, scores: Sequence[ScoreDetails | None], response: str) -> ScoreDetails:
        components = [(part, score) for part, score in zip(self.parts, scores, strict=True) if score is not None]
        if not components:
            raise TrainingError(
                f"no part of rl.rewards applies to the answer {response[:60]!r}: each returned None",
                expected="one part at least that gives it a number",
                why="without a reward nothing can be learnt from it",
                todo="let one of the functions return a number, 0 if that is what it is worth",
            )
        ensemble = next((score for _, score in components if score.disagreement is not None), None)
        return ScoreDetails(
            reward=sum(part.weight * score.reward for part, score in components),
            members=ensemble.members if ensemble else (),
            disagreement=ensemble.disagreement if ensemble else None,
            parts={part.name: score.reward for part, score in components},
        )


def _scored_where_it_applies(
    scorer: Scorer | FunctionScorer, prompts: Sequence[Prompt], responses: Sequence[str]
) -> list[ScoreDetails | None]:
    if isinstance(scorer, FunctionScorer):
        return [None if score is None else ScoreDetails(reward=score) for score in scorer(prompts, responses)]
    return [*score_details(scorer, prompts, responses)]


class FunctionScorer:
    """A user's function of (prompts, responses), both lists of text, that returns one number each, or None where it does not
    apply; what it returns is checked.

    One that has a parameter `rows`, or a third positional one without a default, gets the rows too: a dict of the other fields
    of each prompt's row, such as the right answer. A prompt of several turns is given as `sawyer.text.conversation` writes it.

    `call` runs the function: training on several processes passes one that calls it in a single process and gives all of them
    what it returned, since a function may return something else each time.
    """

    def __init__(self, function: Function, name: str, *, call: Call = lambda work: work()) -> None:
        self.function, self.name, self.call = function, name, call
        self.rows = _takes_rows(function)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        return self.call(lambda: self._scores_of_function(prompts, responses))

    def _scores_of_function(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        texts, rows = [conversation(prompt) for prompt in prompts], [dict(prompt.fields) for prompt in prompts]
        more: list[Any] = [rows] if self.rows == "third" else []
        keywords = {"rows": rows} if self.rows == "named" else {}
        try:
            output = self.function(texts, list(responses), *more, **keywords)
        except Exception as error:  # a user's function may raise anything
            raise self._unfit(f"raised {type(error).__name__}: {error}") from error
        try:
            numbers = [None if value is None else float(value) for value in output]
        except (TypeError, ValueError) as error:
            raise self._unfit(f"returned {type(output).__name__}, not a list of numbers ({error})") from error
        if len(numbers) != len(responses):
            raise self._unfit(f"returned {len(numbers):,} scores for {len(responses):,} answers")
        wrong = next((i for i, value in enumerate(numbers) if value is not None and not math.isfinite(value)), None)
        if wrong is not None:
            raise self._unfit(f"scored the answer {responses[wrong][:60]!r} with {numbers[wrong]}")
        return numbers

    def _unfit(self, what: str) -> TrainingError:
        return TrainingError(
            f"{self.name} {what}",
            expected="a function of (prompts: list[str], responses: list[str]), or of these and rows: list[dict], that returns "
            "one finite number an answer, or None where it does not apply",
            why="a policy would be trained on rewards that mean nothing",
            todo="mend the function, then run the same command again",
        )


def _takes_rows(function: Function) -> Literal["named", "third", ""]:
    """How a function takes the rows: by the name `rows`, as its third positional argument, or not at all."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):  # some callables of extension modules have no signature
        return ""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if any(one.name == "rows" and one.kind in by_name for one in parameters):
        return "named"
    positional_kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [one for one in parameters if one.kind in positional_kinds and one.default is inspect.Parameter.empty]
    return "third" if len(positional) > 2 else ""


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
        shares = [probabilities[self.label] for probabilities in self.classifier(responses)]
        # fp32 knows no smaller number above 0: a label that is certain not to apply costs about 87, not infinity.
        return shares if self.probability else [math.log(max(share, SMALLEST)) for share in shares]
