"""What the votes say of their raters: agreement, the ceiling that it sets to any reward model, a profile of each rater."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from sawyer.ratings.agreement import (
    AgreementFigure,
    Level,
    Unit,
    alpha_figure,
    interval_words,
    kendall_tau_b,
    no_figure,
    share_figure,
    tau_figure,
)
from sawyer.ratings.comparisons import JudgedVote, PromptKey, Tally, tallies, votes_with_judgements
from sawyer.ratings.rater_profiles import RaterProfile, profiles
from sawyer.ratings.rating_types import METHODS, Method, RatedItem
from sawyer.ratings.translation import name_key
from sawyer.stats import FEW, detectable, most_accurate

# Of grades and scores the size means something, of ranks the order alone; a pair's verdict has three values in order.
LEVELS: Mapping[Method, tuple[Level, ...]] = {
    "pair": ("nominal", "ordinal"),
    "graded": ("ordinal", "interval"),
    "rank": ("ordinal",),
    "score": ("ordinal", "interval"),
}
NAMES: Mapping[Method, str] = {"pair": "pairs", "graded": "graded pairs", "rank": "ranks", "score": "scores"}
ENOUGH_PROMPTS = FEW  # judged twice, below which a ceiling is not stated
Tallies = Mapping[PromptKey, Mapping[tuple[int, int], Tally]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementReport:
    """How far the raters agree with each other and with themselves."""

    raters: int
    items: int  # with at least one judgement
    judgements: int
    shared_items: int  # judged by two raters or more
    repeats: int  # second judgements of an item by the same rater
    same_verdict: AgreementFigure  # two raters on the same two answers: first better, tie, second better
    same_order: AgreementFigure  # the same, among the pairs of judgements that both prefer one
    same_order_random: AgreementFigure  # the same, of items that were picked by chance: not biased towards hard ones
    self_consistency: AgreementFigure  # the same rater again
    alphas: tuple[AgreementFigure, ...]  # Krippendorff's, for each method that was used and each level that fits it
    taus: tuple[AgreementFigure, ...]  # Kendall's tau-b between two raters' ranks or scores of an item's answers
    ceiling: AgreementFigure  # the most that any reward model can be right against these judgements
    ceiling_words: str
    profiles: tuple[RaterProfile, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The report as lines for people."""
        by_chance = () if self.same_order_random.value is None else (self.same_order_random,)
        figures = (self.same_verdict, self.same_order, *by_chance, self.self_consistency, *self.alphas, *self.taus)
        flags = [f"{profile.name}: {flag}" for profile in self.profiles for flag in profile.flags]
        return (*(figure.words for figure in figures), self.ceiling_words, *flags)


def agreement_report(rated_items: Sequence[RatedItem], seed: int = 0, *, without: Collection[str] = ()) -> AgreementReport:
    """All figures of the votes, before any adjudication. `seed` draws the bootstrap's prompts; `without` names raters whose
    votes do not count, as where `reward.raters` leaves them out.

    Order agreement pools the pairs of judgements of one prompt's texts over all methods, as the reward model reads them. Alpha
    takes one value of each rater and item, the first: of a pair the signed grade in the item's order, of ranks and scores one
    unit an answer.
    """
    rated_items = _leave_out(rated_items, {name_key(name) for name in without})
    judgements = votes_with_judgements(rated_items)
    counts = tallies(judgements)
    by_chance = _random_items(rated_items)
    random_counts = tallies([one for one in judgements if one.vote.assignment.item.id in by_chance])
    raters_by_item: dict[str, list[int]] = {}
    for one in judgements:
        raters_by_item.setdefault(one.vote.assignment.item.id, []).append(one.rater)
    why = _why_no_pairs(counts, raters_by_item)
    alone = "no answers were judged twice by the same rater, and preferred both times"
    ceiling, ceiling_words = _ceiling(counts, why, seed)
    return AgreementReport(
        raters=len({one.rater for one in judgements}),
        items=len(raters_by_item),
        judgements=len(judgements),
        shared_items=sum(len(set(raters)) > 1 for raters in raters_by_item.values()),
        repeats=sum(len(raters) - len(set(raters)) for raters in raters_by_item.values()),
        same_verdict=share_figure("same verdict", _outcomes(counts, _different, "verdicts"), seed, why),
        same_order=share_figure("same order", _outcomes(counts, _different), seed, why or NOT_DECIDED),
        same_order_random=share_figure(
            "same order, picked by chance", _outcomes(random_counts, _different), seed, why or NONE_RANDOM
        ),
        self_consistency=share_figure("same order by the same rater", _outcomes(counts, _same), seed, alone),
        alphas=tuple(_alphas(judgements, seed)),
        taus=tuple(_taus(judgements, seed)),
        ceiling=ceiling,
        ceiling_words=ceiling_words,
        profiles=profiles(rated_items, judgements, counts),
    )


NOT_DECIDED = "no two raters both preferred one of the same two answers"
NONE_RANDOM = "no item that was picked by chance has two raters' preferences"


def report_json(report: AgreementReport) -> dict[str, Any]:
    """The report as JSON: its fields, `words` beside each figure and for the whole."""
    fields: dict[str, Any] = asdict(report)
    fields |= {name: _figure_json(value) for name in fields if isinstance(value := getattr(report, name), AgreementFigure)}
    fields["alphas"] = [_figure_json(figure) for figure in report.alphas]
    fields["taus"] = [_figure_json(figure) for figure in report.taus]
    fields["profiles"] = [
        {
            name: _figure_json(value) if isinstance(value := getattr(profile, name), AgreementFigure) else value
            for name in profile.__slots__
        }
        | {"flags": list(profile.flags)}
        for profile in report.profiles
    ]
    return fields | {"words": list(report.words)}


def _figure_json(figure: AgreementFigure) -> dict[str, Any]:
    return asdict(figure) | {"words": figure.words}


def _different(pair: tuple[int, int]) -> bool:
    return pair[0] != pair[1]


def _same(pair: tuple[int, int]) -> bool:
    return pair[0] == pair[1]


def _outcomes(
    counts: Tallies, selects: Callable[[tuple[int, int]], bool] | None = None, what: str = "orders"
) -> list[tuple[float, float]]:
    """(agreeing, all) pairs of judgements of each prompt, by the raters that `selects` takes."""
    tallies_of = [[tally for pair, tally in pairs.items() if selects is None or selects(pair)] for pairs in counts.values()]
    if what == "verdicts":
        return [(float(sum(t.same_verdict for t in each)), float(sum(t.verdicts for t in each))) for each in tallies_of]
    return [(float(sum(t.same_order for t in each)), float(sum(t.orders for t in each))) for each in tallies_of]


def _leave_out(rated_items: Sequence[RatedItem], names: Collection[str]) -> list[RatedItem]:
    return [
        replace(item, votes=tuple(vote for vote in item.votes if name_key(vote.assignment.rater.name) not in names))
        for item in rated_items
    ]


def _random_items(rated_items: Sequence[RatedItem]) -> set[str]:
    """The items that came to their first rater by chance."""
    return {
        item.item.id
        for item in rated_items
        if item.votes and min(item.votes, key=lambda vote: vote.assignment.id).assignment.pick == "random"
    }


def _why_no_pairs(counts: Tallies, raters_by_item: Mapping[str, Sequence[int]]) -> str:
    """Why no two raters' judgements can be compared; empty where they can."""
    raters = {rater for raters_of in raters_by_item.values() for rater in raters_of}
    if len(raters) < 2:
        return "nobody has judged yet" if not raters else "there is one rater: agreement needs two"
    if any(pairs for _, pairs in _outcomes(counts, _different, "verdicts")):
        return ""
    if all(len(set(raters_of)) < 2 for raters_of in raters_by_item.values()):
        return "no item was judged by two raters: raise the overlap"
    return "no two answers were compared by two raters"


def _ceiling(counts: Tallies, why: str, seed: int) -> tuple[AgreementFigure, str]:
    """From the share p^2 + (1 - p)^2 of judgements that order the same two answers alike, a rater's repeats included, to p."""
    name = "ceiling of any reward model"
    agreement = share_figure("", _outcomes(counts), seed, why or NOT_DECIDED)
    if agreement.value is None or agreement.low is None or agreement.high is None:
        reason = agreement.reason
        return no_figure(name, reason), f"how far these raters cap a reward model is not known: {reason}"
    if agreement.prompts < ENOUGH_PROMPTS:
        prompts = f"{agreement.prompts} prompt{'s' * (agreement.prompts != 1)}"
        reason = f"answers to {prompts} were judged twice, and {ENOUGH_PROMPTS} are needed"
        return no_figure(name, reason), f"how far these raters cap a reward model is not known: {reason}"
    value, low, high = (most_accurate(bound) for bound in (agreement.value, agreement.low, agreement.high))
    ceiling = AgreementFigure(
        name=name,
        value=value,
        low=low,
        high=high,
        prompts=agreement.prompts,
        cases=agreement.cases,
        detectable=detectable(low, high) if high > low else None,
    )
    return ceiling, f"these raters cap any reward model at {interval_words(ceiling)}"


def _first_judgements(judgements: Sequence[JudgedVote], method: Method) -> dict[str, dict[int, JudgedVote]]:
    """item -> rater -> the rater's first judgement of it by this method; repeats are the rater's own affair."""
    firsts: dict[str, dict[int, JudgedVote]] = {}
    for one in judgements:
        if one.vote.assignment.method == method:
            firsts.setdefault(one.vote.assignment.item.id, {}).setdefault(one.rater, one)
    return firsts


def _alphas(judgements: Sequence[JudgedVote], seed: int) -> list[AgreementFigure]:
    figures = []
    for method in METHODS:
        firsts = _first_judgements(judgements, method)
        if not firsts:
            continue
        units: dict[PromptKey, list[Unit]] = {}
        for by_rater in firsts.values():
            votes = list(by_rater.values())
            scores = [vote.judgement.scores for vote in votes]
            if method in ("pair", "graded"):
                item_units: list[Unit] = [[_lead(score) for score in scores]]
            else:
                item_units = [[score[i] for score in scores] for i in range(len(scores[0]))]
            units.setdefault(votes[0].prompt, []).extend(item_units)
        figures += [alpha_figure(f"alpha of {NAMES[method]}, {level}", units, level, seed) for level in LEVELS[method]]
    return figures


def _lead(scores: Sequence[float | None]) -> float:
    """By how much a pair's second answer, in the item's order, is better: the signed grade."""
    first, second = scores
    return (second or 0.0) - (first or 0.0)


def _taus(judgements: Sequence[JudgedVote], seed: int) -> list[AgreementFigure]:
    figures = []
    for method in ("rank", "score"):
        firsts = _first_judgements(judgements, method)
        if not firsts:
            continue
        taus: dict[PromptKey, list[float]] = {}
        for by_rater in firsts.values():
            for one, other in combinations(by_rater.values(), 2):
                both = [
                    (a, b)
                    for a, b in zip(one.judgement.scores, other.judgement.scores, strict=True)
                    if a is not None and b is not None
                ]
                tau = kendall_tau_b([a for a, _ in both], [b for _, b in both])
                if tau is not None and math.isfinite(tau):
                    taus.setdefault(one.prompt, []).append(tau)
        why = "no two raters ranked the same answers without tying all of them"
        figures.append(tau_figure(f"tau-b of {NAMES[method]}", taus, seed, why))
    return figures
