"""How each rater judges: speed, sides, lengths, ties, agreement; and what of it chance or honest work does not explain.

Every share has Wilson's interval for as many independent cases as its prompts are worth (`share_by_prompt`). A flag is raised
only where an interval excludes the innocent explanation, at a level that is divided by the number of raters and of flags
(Bonferroni): with fifty honest raters one in twenty such reports has a false flag, not each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from sawyer.ratings.agreement import AgreementFigure, interval_words, no_figure
from sawyer.ratings.comparisons import JudgedVote, PromptKey, Tally, comparisons_of, sign
from sawyer.ratings.rating_types import RatedItem, Rater, StoredVote
from sawyer.ratings.translation import is_tie, last_choice
from sawyer.stats import FEW, detectable, wilson

FLAGS = 7  # shares that a flag looks at: what the level is divided by, beside the number of raters
WORDS_PER_SECOND = 1000 / 60  # four times what people read silently (238 words a minute, Brysbaert 2019)
ALMOST_ALWAYS = 0.8  # the least share, by its interval, that is called always
# Chinese and Japanese characters, which stand without spaces: each counts as a word, as people read about as many a minute.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
Outcomes = Sequence[tuple[float, float]]  # (successes, trials) of each prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterProfile:
    """One rater's figures. A share without a case has no value and says why."""

    name: str
    kind: str
    items: int  # different ones that were voted on
    votes: int  # skips and repeats included
    skips: int
    ties: int
    both_bad: int
    rewrites: int
    median_seconds: float | None  # of first votes whose time is known
    left_share: AgreementFigure  # of the choices between two answers those for the one that was shown first; 0.5 is chance
    longer_share: AgreementFigure  # those for the longer text
    tie_share: AgreementFigure  # of all judgements those that prefer nothing
    too_fast_share: AgreementFigure  # of the first votes those made faster than the answers' words can be read
    self_consistency: AgreementFigure  # of repeats with the order swapped those that prefer the same answer again
    same_side_left: int  # repeats that prefer the left answer both times: not the same answer
    same_side_right: int
    agreement: AgreementFigure  # with the other raters: the same order, among what both decide
    commonest_score: AgreementFigure  # of the scores 0 to 10 those that are this rater's commonest one
    flags: tuple[str, ...]  # in words


def share_by_prompt(name: str, outcomes: Outcomes, why: str, *, looks: int = 1) -> AgreementFigure:
    """A share with Wilson's interval for the effective number of trials, p (1 - p) / v with v the variance of the share by
    prompts (linearised, Korn and Graubard 1998): judgements of one prompt are not independent.

    At most all trials. At most the prompts, where these are fewer than 20 or all trials agree, since v is then not known.
    """
    cells = [cell for cell in outcomes if cell[1]]
    if not cells:
        return no_figure(name, why)
    successes, trials = (math.fsum(column) for column in zip(*cells, strict=True))
    value, prompts = successes / trials, len(cells)
    effective = trials
    if prompts < FEW or value in (0.0, 1.0):
        effective = min(trials, prompts)
    else:
        squares = math.fsum((wins - value * count) ** 2 for wins, count in cells)
        variance = prompts / (prompts - 1) * squares / trials**2
        effective = min(trials, value * (1 - value) / variance) if variance > 0 else trials
    bounds = wilson(value * effective, effective, looks=looks)
    return AgreementFigure(
        name=name,
        value=value,
        low=bounds.low,
        high=bounds.high,
        prompts=prompts,
        cases=round(trials),
        detectable=detectable(bounds.low, bounds.high),
    )


def reading_seconds(texts: Iterable[str]) -> float:
    """How long the texts' words take at 1,000 words a minute; a Chinese or Japanese character counts as a word."""
    return sum(len(WORD.findall(text)) for text in texts) / WORDS_PER_SECOND


def profiles(
    rated_items: Sequence[RatedItem],
    judgements: Sequence[JudgedVote],
    counts: Mapping[PromptKey, Mapping[tuple[int, int], Tally]],
) -> tuple[RaterProfile, ...]:
    """A profile of every rater, in the order of their ids. `judgements` and `counts` are those of `rated_items`."""
    votes: dict[int, list[StoredVote]] = {}
    for vote in (vote for item in rated_items for vote in item.votes if vote.assignment.pick != "adjudication"):
        votes.setdefault(vote.assignment.rater.id, []).append(vote)
    by_rater: dict[int, list[JudgedVote]] = {}
    for one in judgements:
        by_rater.setdefault(one.rater, []).append(one)
    longer = {rater: _longer_outcomes(votes_of) for rater, votes_of in by_rater.items()}
    looks, orders = FLAGS * max(1, len(votes)), _Orders(counts)
    result = []
    for rater in sorted(votes):
        others_longer = [cell for other, cells in longer.items() if other != rater for cell in cells]
        with_others, among_others = orders.of(rater)
        outcomes = _RaterOutcomes(votes[rater], by_rater.get(rater, []), longer.get(rater, []), with_others)
        result.append(outcomes.profile(looks, others_longer, among_others))
    return tuple(result)


class _Orders:
    """Pairs of judgements by different raters that both prefer one answer: (the same order, all) of each prompt."""

    def __init__(self, counts: Mapping[PromptKey, Mapping[tuple[int, int], Tally]]) -> None:
        self.totals: list[tuple[int, int]] = []
        self.by_rater: dict[int, dict[int, list[int]]] = {}  # rater -> number of the prompt -> the same of this rater's pairs
        for number, pairs in enumerate(counts.values()):
            between = [(pair, tally) for pair, tally in pairs.items() if pair[0] != pair[1]]
            self.totals.append((sum(t.same_order for _, t in between), sum(t.orders for _, t in between)))
            for pair, tally in between:
                for rater in pair:
                    cell = self.by_rater.setdefault(rater, {}).setdefault(number, [0, 0])
                    cell[0], cell[1] = cell[0] + tally.same_order, cell[1] + tally.orders

    def of(self, rater: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """(with the others, of the others among themselves) for a rater."""
        cells = self.by_rater.get(rater, {})
        among = [
            (float(same - cells.get(number, (0, 0))[0]), float(orders - cells.get(number, (0, 0))[1]))
            for number, (same, orders) in enumerate(self.totals)
        ]
        return [(float(same), float(orders)) for same, orders in cells.values()], among


def _by_prompt(cases: Iterable[tuple[PromptKey, bool]]) -> list[tuple[float, float]]:
    """(prompt, success) of each case -> (successes, trials) of each prompt."""
    cells: dict[PromptKey, list[float]] = {}
    for prompt, success in cases:
        cell = cells.setdefault(prompt, [0.0, 0.0])
        cell[0] += success
        cell[1] += 1
    return [(wins, count) for wins, count in cells.values()]


def _longer_outcomes(judgements: Sequence[JudgedVote]) -> list[tuple[float, float]]:
    return _by_prompt(
        (one.prompt, (comparison.lead > 0) == (len(comparison.first) > len(comparison.second)))
        for one in judgements
        for comparison in comparisons_of(one)
        if comparison.lead != 0 and len(comparison.first) != len(comparison.second)
    )


class _RaterOutcomes:
    """All outcomes of one rater, each with the name and the words of its figure."""

    def __init__(
        self, votes: Sequence[StoredVote], judgements: Sequence[JudgedVote], longer: Outcomes, with_others: Outcomes
    ) -> None:
        self.votes, self.judgements, self.longer, self.with_others = votes, judgements, longer, with_others
        self.rater: Rater = votes[0].assignment.rater
        self.left = _by_prompt(
            (one.prompt, comparison.lead > 0)
            for one in judgements
            for comparison in comparisons_of(one)
            if comparison.lead != 0
        )
        self.ties = _by_prompt((one.prompt, is_tie(one.judgement)) for one in judgements)
        # A later revision was read before, and imported votes have no time.
        self.first_votes = [vote for vote in votes if vote.revision == 1 and not last_choice(vote).skip and _seconds(vote) > 0]
        self.fast = _by_prompt(
            (vote.assignment.item.prompt.messages, _seconds(vote) < _least_seconds(vote))
            for vote in self.first_votes
            if self.rater.kind != "model"
        )
        self.repeats, self.same_side_left, self.same_side_right = _repeats(judgements)
        scores = [(one.prompt, s) for one in judgements for s in one.judgement.scores if s is not None and _is_score(one)]
        commonest = max(Counter(score for _, score in scores).items(), key=lambda item: item[1], default=(None, 0))[0]
        self.commonest_score = commonest
        self.same_score = _by_prompt((prompt, score == commonest) for prompt, score in scores)

    def figures(self, looks: int = 1) -> dict[str, AgreementFigure]:
        """Every share, at 95 % for `looks` of them together."""

        def share(name: str, outcomes: Outcomes, why: str) -> AgreementFigure:
            return share_by_prompt(name, outcomes, why, looks=looks)

        return {
            "left_share": share("left answer preferred", self.left, "nothing was preferred"),
            "longer_share": share("longer answer preferred", self.longer, "no answers of different lengths were compared"),
            "tie_share": share("ties", self.ties, "there is no judgement"),
            "too_fast_share": share("faster than can be read", self.fast, "no vote's time is known"),
            "self_consistency": share("the same answer again", self.repeats, "no repeat was decided twice"),
            "agreement": share("agreement with the others", self.with_others, "nobody else judged the same answers"),
            "commonest_score": share("the commonest score", self.same_score, "nothing was scored 0 to 10"),
        }

    def profile(self, looks: int, others_longer: Outcomes, among_others: Outcomes) -> RaterProfile:
        """The profile with its flags; `looks` is the number of flags over all raters."""
        judgements = [one.judgement for one in self.judgements]
        return RaterProfile(
            name=self.rater.name,
            kind=self.rater.kind,
            items=len({vote.assignment.item.id for vote in self.votes}),
            votes=len(self.votes),
            skips=len(self.votes) - len(self.judgements),
            ties=sum(map(is_tie, judgements)),
            both_bad=sum(judgement.both_bad for judgement in judgements),
            rewrites=sum(bool(vote.assignment.vote and vote.assignment.vote.rewrite.strip()) for vote in self.votes),
            median_seconds=median(map(_seconds, self.first_votes)) if self.first_votes else None,
            same_side_left=self.same_side_left,
            same_side_right=self.same_side_right,
            flags=tuple(self._flags(looks, others_longer, among_others)),
            **self.figures(),
        )

    def _flags(self, looks: int, others_longer: Outcomes, among_others: Outcomes) -> Iterable[str]:
        """What the intervals exclude chance or honest work for, in words."""
        figures, strict = self.figures(), self.figures(looks)

        def low(name: str) -> float:
            bound = strict[name].low
            return -1.0 if bound is None else bound

        def high(name: str) -> float:
            bound = strict[name].high
            return 2.0 if bound is None else bound

        def words(name: str) -> str:
            return f"{interval_words(figures[name])} of {figures[name].cases:,}"

        yield from _side_flags(low("left_share"), high("left_share"), words("left_share"))
        yield from _length_flags(low("longer_share"), high("longer_share"), words("longer_share"), others_longer, looks)
        if low("commonest_score") > ALMOST_ALWAYS:
            yield f"the same score for everything: {self.commonest_score:g} for {words('commonest_score')} answers"
        elif low("tie_share") > ALMOST_ALWAYS:
            yield f"ties nearly everything: {words('tie_share')} judgements"
        if low("too_fast_share") > 0.25:
            yield f"faster than can be read: {words('too_fast_share')} votes, at 1,000 words a minute"
        if high("self_consistency") < 0.7:
            yield f"contradicts itself: the same answer again in {words('self_consistency')} repeats; guessing gives 50 %"
        others = share_by_prompt("among the others", among_others, "there are not two others", looks=looks)
        if others.low is not None and high("agreement") < others.low:
            yield (
                f"disagrees with the others: the same order in {words('agreement')} pairs of judgements, the others among "
                f"themselves in {interval_words(share_by_prompt('', among_others, ''))}"
            )


def _side_flags(low: float, high: float, words: str) -> Iterable[str]:
    """Sides are drawn by lot for every item and rater: an honest rater's share is one half."""
    chance = f"{words} choices; sides are drawn by lot, so 50 % is chance"
    if low > ALMOST_ALWAYS or 0 <= high < 1 - ALMOST_ALWAYS:
        yield f"always {'left' if low > 0.5 else 'right'}: left in {chance}"
    elif low > 0.5 or high < 0.5:
        yield f"{'left' if low > 0.5 else 'right'} more often than chance: left in {chance}"


def _length_flags(low: float, high: float, words: str, others: Outcomes, looks: int) -> Iterable[str]:
    """Longer answers may be better: only a share that no such world explains is a flag, or one beyond the other raters'."""
    if low > ALMOST_ALWAYS:
        yield f"always the longer answer: {words} choices between different lengths"
    elif high < 1 - ALMOST_ALWAYS:
        yield f"always the shorter answer: the longer in {words} choices between different lengths"
    else:
        theirs = share_by_prompt("", others, "", looks=looks)
        if theirs.low is None or theirs.high is None or theirs.prompts < FEW:
            return
        if low > max(theirs.high, 0.5):
            yield f"the longer answer more often than the others: {words} choices, theirs {interval_words(theirs)}"
        elif high < min(theirs.low, 0.5):
            longer = f"the longer in {words} choices, theirs {interval_words(theirs)}"
            yield f"the shorter answer more often than the others: {longer}"


def _repeats(judgements: Sequence[JudgedVote]) -> tuple[list[tuple[float, float]], int, int]:
    """((the same answer again, both decided) of each prompt, left both times though swapped, right both times)."""
    by_item: dict[str, list[JudgedVote]] = {}
    for one in judgements:
        by_item.setdefault(one.vote.assignment.item.id, []).append(one)
    cases: list[tuple[PromptKey, bool]] = []
    left = right = 0
    for same in by_item.values():
        for one, other in combinations(same, 2):
            again = {frozenset((v.first, v.second)): v for v in comparisons_of(other)}
            for comparison in comparisons_of(one):
                repeat = again.get(frozenset((comparison.first, comparison.second)))
                if repeat is None or not comparison.lead or not repeat.lead:
                    continue
                order_changed = repeat.first != comparison.first
                is_same = (sign(comparison.lead) == sign(repeat.lead)) != order_changed
                cases.append((one.prompt, is_same))
                if order_changed and not is_same:
                    left, right = left + (comparison.lead > 0), right + (comparison.lead < 0)
    return _by_prompt(cases), left, right


def _is_score(judged_vote: JudgedVote) -> bool:
    return judged_vote.vote.assignment.method == "score"


def _seconds(vote: StoredVote) -> float:
    return vote.assignment.vote.seconds if vote.assignment.vote is not None else 0.0


def _least_seconds(vote: StoredVote) -> float:
    return reading_seconds(answer.response for answer in vote.assignment.item.answers)
