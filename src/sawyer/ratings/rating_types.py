"""What people judge and what they say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sawyer.records import Answer, Prompt

Method = Literal["pair", "graded", "rank", "score"]
METHODS: tuple[Method, ...] = get_args(Method)
# How an item came to its rater: for its uncertainty, or by chance, so that estimates from the chance part are unbiased; a
# repeat comes a second time in the opposite order; an adjudication is the owner's own judgement of a conflict.
Pick = Literal["uncertain", "random", "repeat", "adjudication"]
RaterKind = Literal["person", "model", "simulated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Answers to one prompt that are judged together: two for `pair` and `graded`, 2 to 8 for `rank` and `score`."""

    id: str  # a hash of the conversation and the responses; the same wherever they come from
    prompt: Prompt
    answers: tuple[Answer, ...]  # different texts; their scores are not shown
    round: int = 1  # of collection
    uncertainty: float | None = None  # of the reward model on these answers, higher is less sure; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A rater's judgement, in terms of the answers as they were shown, first to last. One of the fields is set."""

    grade: int | None = None  # pair: -1, 0 or 1; graded: -3 to 3; above 0: the second answer is better
    both_bad: bool = False  # with grade 0: a tie of two bad answers
    ranks: tuple[int, ...] = ()  # rank: each answer's, 1 is best, equals share one: (1, 3, 2, 2)
    scores: tuple[int | None, ...] = ()  # score: each answer's, 0 to 10; None: not judged; at least one is given
    skip: bool = False  # no judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What the page sends."""

    id: str  # a UUID made in the page: sent again it is the same vote
    assignment: int
    choice: Choice
    seconds: float  # from the item's first sight to the choice
    rewrite: str = ""  # a better answer in the rater's words: a demonstration
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rater:
    """Somebody who judges: a person, a model (`judges`) or a simulated person."""

    id: int
    name: str
    kind: RaterKind = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """An item on its way to a rater, in the order in which it is shown."""

    id: int
    item: Item
    rater: Rater
    method: Method
    order: tuple[int, ...]  # the i-th answer shown is item.answers[order[i]]
    pick: Pick
    vote: Vote | None = None  # the last one, once there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVote:
    """A vote with its assignment: all that is known of a judgement."""

    assignment: Assignment  # its `vote` is this vote
    timestamp: float  # seconds since the epoch
    revision: int  # 1: the first vote of the assignment; the last one counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A vote in terms of its item's answers, in the item's order: the one translation that training and agreement use."""

    scores: tuple[float | None, ...]  # higher is better; None: not judged. Of a pair only the difference means something
    both_bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedItem:
    """An item with the last vote of everyone who judged it."""

    item: Item
    votes: tuple[StoredVote, ...]
