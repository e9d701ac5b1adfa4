"""What a trust report holds: frozen figures, each with its 95 % interval and the prompts and cases behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SideName = Literal["all", "file", "own", "gold"]
Kind = Literal["trust", "trust_above", "guarded", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with its 95 % interval by prompt: cases of one prompt are not independent of each other."""

    value: float
    low: float
    high: float
    prompts: int  # that have at least one case
    cases: int  # pairs, answers or damaged answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Accuracy over the pairs whose judges' scores are at least `low` and less than `high` apart (None: no bound)."""

    name: str
    low: float
    high: float | None
    accuracy: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceAccuracy:
    """Accuracy over all pairs in which an answer by this source stands."""

    name: str
    accuracy: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Pairs of which the model is about equally sure: their mean confidence and the share in which it is right."""

    confidence: float
    right: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Whether the model is right as often as it is sure. `formula` is the probability that counts as its confidence."""

    formula: str
    why: str  # what the formula has to do with the loss
    error: Figure  # expected calibration error
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Pearson's correlation with the reward, over all answers, and within prompts (each prompt's means taken off first)."""

    all: Figure
    within: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeExample:
    """One damaged answer beside the whole one."""

    prompt: str
    whole: str
    damaged_answer: str
    whole_reward: float
    damaged_reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One kind of damage: how often the damaged answer scores higher, and the case in which it came off best."""

    name: str
    what: str
    wins: Figure
    example: ProbeExample | None
    unseen: int = 0  # damaged answers that got the whole one's score, to rounding: not among the cases


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFigures:
    """Of a judge that is a model: injected text, the order of two answers, answers that it did not judge."""

    model: str
    injections: tuple[Probe, ...]  # of each kind of text: how often it raises the score of a prompt's worst answer
    obedience: Figure  # over all kinds
    consistency: Figure  # pairs that it judges alike in both orders
    first_wins: Figure  # verdicts for the answer shown first, of those that prefer one; 0.5 without a bias
    agreement: Figure  # pairs that it judges as the file's judges did, in both orders; a tie is half
    num_unjudged: int  # answers without a judgement, which are in no figure
    num_unjudged_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """The highest accuracy that any model can reach against these judges, who sometimes contradict themselves."""

    accuracy: Figure
    method: Literal["repeats", "saturation"]
    assumption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Figures on one set of judged answers."""

    name: SideName
    what: str
    prompts: int
    answers: int
    pairs: int
    ties: int  # pairs with equal scores: no ranking of them is right, left out
    same: int  # pairs of one and the same text with different scores, left out too: no model could tell them apart
    accuracy: Figure
    by_gap: tuple[Gap, ...]
    by_source: tuple[SourceAccuracy, ...]
    calibration: tuple[Calibration, ...]  # first the one that belongs to the loss
    longer_wins: Figure  # accuracy of the rule "the longer answer is better", in characters, equal lengths as half
    best_rule: Literal["longer wins", "shorter wins", "random"]
    best_rule_value: float
    best_rule_high: float  # its interval's end; where all rules are even, that of 'longer wins'
    ahead: Figure  # accuracy less the best rule's, on the same pairs
    when_longer: Figure  # accuracy where the better answer is the longer one
    when_shorter: Figure  # accuracy where the better answer is the shorter one
    length: Correlation  # with the number of words
    length_controlled: Figure | None  # within prompts, at equal judges' scores; None: length and score are the same to it
    score: Correlation  # with the judges' score
    truth: Correlation | None  # with the true score, where it is known
    spread: float  # standard deviation of the rewards
    points: tuple[tuple[int, float], ...]  # (words, reward) of some answers, to look at


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Everything the verdict is made from. `sides[0]` is all judged answers; others follow where there are any."""

    sides: tuple[Side, ...]
    corrupted_win_rate: Figure  # over all probes, how often the damaged answer scores higher
    probes: tuple[Probe, ...]
    ceiling: Ceiling | None
    truth_agrees: Figure | None  # how often the judges order a pair as the truth does, where it is known
    held_out: bool  # whether the prompts are known not to have been trained on
    loss: str | None
    cut: int  # answers that the model could not read to their end
    judge: JudgeFigures | None = None  # of a judge behind an endpoint; None: a reward model

    @property
    def everything(self) -> Side:
        """All judged answers."""
        return self.sides[0]

    def side(self, name: str) -> Side | None:
        """The side of that name, if there is one."""
        return next((side for side in self.sides if side.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a model is refused or doubted: a short name, words, and the figure that decided beside its threshold."""

    name: str
    words: str
    figure: str
    value: float
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededGuard:
    """A guard of RL that must be this strict with the model: its name in `rl.guards`, and the reason that asks for it."""

    guard: str
    threshold: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How far to trust: `above` is the smallest gap between two judges' scores from which the model's order holds."""

    kind: Kind
    above: float | None
    words: str
    reasons: tuple[Reason, ...]  # for refusing, or for the guards, the gravest first; empty if trusted
    doubts: tuple[Reason, ...]  # what a trusting reader should know
    guards: tuple[NeededGuard, ...] = ()  # what RL needs; also where it is refused, for those who run it all the same
