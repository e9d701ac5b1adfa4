"""Who judges what next: the rules, over an in-memory picture of the store's items, leases and votes."""

from __future__ import annotations

import hashlib
import json
import math
import random
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sawyer.errors import RatingError
from sawyer.ratings.choices import GRADES, fits_method
from sawyer.ratings.rating_types import METHODS, Method, Pick

OTHER_VOTES = 10  # between a vote and its repeat: fewer, and the rater remembers
STALE_ITEMS = 500  # full items that are passed over before a queue is built again without them


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingSettings:
    """How items are handed out. Kept in the store's file."""

    method: Method
    overlap: float = 0.2  # share of the items that two raters judge
    repeat_rate: float = 0.05  # share of a rater's items that come a second time, in the opposite order
    random_rate: float = 0.2  # share of the items that come by chance, not for their uncertainty
    lease_seconds: float = 900  # an item that its rater has not judged for so long goes to another
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RatingError(f"the method is {self.method!r}", expected=f"one of {', '.join(METHODS)}")
        for name in ("overlap", "repeat_rate", "random_rate"):
            value = getattr(self, name)
            if not 0 <= value <= 1:  # nan as well
                raise RatingError(f"`{name}` is {value:g}", expected="a share from 0 to 1")
        if not 0 < self.lease_seconds < math.inf:
            raise RatingError(f"`lease_seconds` is {self.lease_seconds:g}", expected="seconds above 0")


@dataclass(slots=True, eq=False)
class ItemState:
    """What assignment must know of an item. `number` is its row in the file."""

    number: int
    id: str
    prompt: int
    answers: str  # its answers' numbers, as JSON
    round: int
    uncertainty: float | None
    tier: int = 0  # how many items of its prompt come before it
    draw: int = 0  # random, from seed and id: the order of chance
    by_chance: bool = False  # one of those set aside for chance
    raters_wanted: int = 1
    judges: set[int] = field(default_factory=set)  # people who judged it
    non_judges: set[int] = field(default_factory=set)  # who skipped it, and models: people are wanted all the same
    leases: dict[int, float] = field(default_factory=dict)  # rater -> when it was handed out; not judged yet
    is_adjudicated: bool = False

    @property
    def answer_count(self) -> int:
        return self.answers.count(",") + 1

    @property
    def is_judged(self) -> bool:
        """By people, or by the owner."""
        return self.is_adjudicated or bool(self.judges)

    def is_full(self) -> bool:
        """Whether no further judgement is wanted."""
        return self.is_adjudicated or len(self.judges) >= self.raters_wanted

    def has_room(self, rater: int, now: float, lease_seconds: float) -> bool:
        """Whether a judgement is wanted beside those that other raters gave or are about to give, unless it is adjudicated."""
        others = sum(1 for holder, at in self.leases.items() if holder != rater and is_live(at, now, lease_seconds))
        return len(self.judges - {rater}) + others < self.raters_wanted

    def was_shown_to(self, rater: int) -> bool:
        return rater in self.judges or rater in self.non_judges or rater in self.leases


@dataclass(slots=True, eq=False)
class OpenAssignment:
    """An item in a rater's hands."""

    number: int
    item: ItemState
    leased_at: float


@dataclass(slots=True, eq=False)
class VotedAssignment:
    """An assignment with a vote, as far as repeats need it."""

    number: int
    item: ItemState
    method: Method
    order: tuple[int, ...]
    is_skip: bool
    events: int  # votes of the rater up to its last one


@dataclass(slots=True, eq=False)
class RaterState:
    """What assignment must know of a rater."""

    name: str
    is_model: bool = False
    open: dict[int, OpenAssignment] = field(default_factory=dict)
    repeats: dict[int, OpenAssignment] = field(default_factory=dict)  # open ones
    votes: dict[int, VotedAssignment] = field(default_factory=dict)  # none of them a repeat
    repeated_items: set[int] = field(default_factory=set)
    handed_out: int = 0  # all assignments but adjudications
    repeats_handed_out: int = 0
    events: int = 0  # votes, revisions included


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAssignment:
    """What is to be written."""

    item: ItemState
    order: tuple[int, ...]
    pick: Pick


def is_live(leased_at: float, now: float, lease_seconds: float) -> bool:
    """Whether a lease still counts. One from a future that a corrected clock took back does not last until then."""
    return abs(now - leased_at) < lease_seconds


class Pool:
    """All items with who has them, and the order in which they are handed out.

    A share `random_rate` of the items, drawn by seed and id, is set aside and comes in random order; the others come by
    uncertainty. Thus the first part stays a random sample of all items, however long people judge. The newest round comes
    first; where no uncertainty is known, the order is random, a prompt's second item after the first of every prompt.
    """

    def __init__(self, settings: RatingSettings, items: Iterable[ItemState]) -> None:
        self.settings = settings
        self.items = {item.number: item for item in items}
        self.raters: dict[int, RaterState] = {}
        self._draw_items()
        fit = self._fit_items()
        rounds = {item.round for item in fit if item.uncertainty is not None}
        self._rounds_with_uncertainty = rounds
        self._queues: dict[bool, list[ItemState]] = {}
        self._fit = {item.number: item for item in fit}
        # Of the items that fit: those that are not full, and of these the ones that are not free for everybody.
        self._open, self._partial = set(self._fit), set[int]()

    def _draw_items(self) -> None:
        """Each item's random numbers, and which of them two raters judge: exactly the share `overlap` of those there are."""
        key, numbers = str(self.settings.seed).encode()[:64], dict[int, int]()
        for item in self.items.values():
            digest = hashlib.blake2b(item.id.encode(), digest_size=24, key=key).digest()
            draw, numbers[item.number], chance = struct.unpack(">QQQ", digest)
            item.draw, item.by_chance = draw, chance < self.settings.random_rate * 2**64
        two = math.floor(self.settings.overlap * len(self.items) + 0.5)
        for position, number in enumerate(sorted(numbers, key=lambda number: (numbers[number], number))):
            self.items[number].raters_wanted = 2 if position < two else 1
        by_prompt: dict[tuple[int, int], int] = {}
        for item in self.items.values():
            item.tier = by_prompt.get((item.prompt, item.round), 0)
            by_prompt[item.prompt, item.round] = item.tier + 1

    def _fit_items(self) -> list[ItemState]:
        """The items that the method can judge. By rank and score an item of which another has all answers and more is left out:
        pairs that were made for another method."""
        method = self.settings.method
        fit = [item for item in self.items.values() if fits_method(method, item.answer_count)]
        if method in GRADES:
            return fit
        larger: dict[int, list[frozenset[int]]] = {}
        for item in fit:
            if item.answer_count > 2:
                larger.setdefault(item.prompt, []).append(frozenset(json.loads(item.answers)))
        return [item for item in fit if not any(set(json.loads(item.answers)) < s for s in larger.get(item.prompt, ()))]

    def sort(self) -> None:
        """Build the queues: what is full is in none of them."""
        items = [self._fit[number] for number in sorted(self._open)]
        chance = sorted((item for item in items if item.by_chance), key=lambda item: (-item.round, item.tier, item.draw))
        unsure = sorted(
            (item for item in items if not item.by_chance),
            key=lambda item: (
                -item.round,
                math.inf if item.uncertainty is None else -item.uncertainty,
                item.tier,
                item.draw,
            ),
        )
        self._queues = {True: chance, False: unsure}

    def pick_of(self, item: ItemState) -> Pick:
        """Why an item comes: for its uncertainty, or by chance."""
        return "random" if item.by_chance or item.round not in self._rounds_with_uncertainty else "uncertain"

    def open_assignments(self, rater: int, now: float) -> list[OpenAssignment]:
        """What a rater has in hand and is still wanted, oldest first. An expired lease that nobody took is one of them."""
        state, seconds = self.raters[rater], self.settings.lease_seconds
        assignments = [
            assignment
            for assignment in state.open.values()
            if not assignment.item.is_adjudicated
            and rater not in assignment.item.judges
            and (is_live(assignment.leased_at, now, seconds) or assignment.item.has_room(rater, now, seconds))
        ]
        repeats = [assignment for assignment in state.repeats.values() if not assignment.item.is_adjudicated]
        return sorted((*assignments, *repeats), key=lambda assignment: assignment.number)

    def next_assignment(self, rater: int, now: float) -> NewAssignment | None:
        """The next item for a rater; None where nothing is left."""
        state = self.raters[rater]
        if (repeat := self._next_repeat(state)) is not None:
            return repeat
        n = state.handed_out - state.repeats_handed_out
        by_chance = _is_due(self.settings.random_rate, n, self._phase(state, "chance"))
        item = self._first_free(by_chance, rater, now) or self._first_free(not by_chance, rater, now)
        if item is None:
            return None
        order = list(range(item.answer_count))
        random.Random(f"{self.settings.seed}:{item.id}:{state.name}").shuffle(order)
        return NewAssignment(item=item, order=tuple(order), pick=self.pick_of(item))

    def _next_repeat(self, state: RaterState) -> NewAssignment | None:
        rate = self.settings.repeat_rate
        owed = math.floor((state.handed_out + 1) * rate + self._phase(state, "repeat")) - state.repeats_handed_out
        if owed < 1:
            return None
        votes = [
            vote
            for vote in state.votes.values()
            if state.events - vote.events >= OTHER_VOTES
            and not vote.is_skip
            and not vote.item.is_adjudicated
            and vote.method == self.settings.method
            and vote.item.number not in state.repeated_items
        ]
        if not votes:
            return None
        rng = random.Random(f"{self.settings.seed}:repeat:{state.name}:{state.handed_out}")
        vote = rng.choice(sorted(votes, key=lambda vote: vote.number))
        return NewAssignment(item=vote.item, order=vote.order[::-1], pick="repeat")

    def _phase(self, state: RaterState, what: str) -> float:
        """In [0, 1): so that not every rater's repeats and chance items come at the same counts."""
        return random.Random(f"{self.settings.seed}:{what}:{state.name}").random()

    def _first_free(self, by_chance: bool, rater: int, now: float) -> ItemState | None:
        full, free = 0, None
        for item in self._queues[by_chance]:
            if item.is_full():
                full += 1
                continue
            if not item.was_shown_to(rater) and item.has_room(rater, now, self.settings.lease_seconds):
                free = item
                break
        if full > STALE_ITEMS:
            self.sort()
        return free

    def count_left(self, rater: int, now: float) -> int:
        """How many items a rater would still be handed, those in hand included; repeats that may come are not counted."""
        seconds = self.settings.lease_seconds
        partial = [self._fit[number] for number in self._partial]
        free = sum(1 for item in partial if not item.was_shown_to(rater) and item.has_room(rater, now, seconds))
        return len(self._open) - len(partial) + free + len(self.open_assignments(rater, now))

    def count_items(self) -> int:
        """Items that the method can judge, and those that were judged by another."""
        return sum(1 for item in self.items.values() if item.number in self._fit or item.is_judged)

    def count_leases(self, now: float) -> int:
        """Items that are in somebody's hands."""
        return sum(1 for _ in self._live_leases(now))

    def _live_leases(self, now: float) -> Iterator[OpenAssignment]:
        for state in self.raters.values():
            for assignment in (*state.open.values(), *state.repeats.values()):
                if is_live(assignment.leased_at, now, self.settings.lease_seconds):
                    yield assignment

    # What happened, told in the order of the file.

    def add_rater(self, rater: int, name: str, *, is_model: bool = False) -> None:
        """Know a rater."""
        self.raters.setdefault(rater, RaterState(name=name, is_model=is_model))

    def add_assignment(self, number: int, rater: int, item_number: int, method: Method, pick: Pick, leased_at: float) -> None:
        """Note that an item was handed out. One for another method than today's is not asked for again, but may be judged."""
        state, item = self.raters[rater], self.items[item_number]
        if pick == "adjudication":
            return
        if leased_at:  # not one that was made for a vote from elsewhere
            state.handed_out += 1
            state.repeats_handed_out += pick == "repeat"
        if pick == "repeat":
            state.repeated_items.add(item_number)
        if state.is_model:
            item.non_judges.add(rater)
        assignment = OpenAssignment(number=number, item=item, leased_at=leased_at)
        if method == self.settings.method and pick == "repeat":
            state.repeats[number] = assignment
        elif method == self.settings.method:
            state.open[number] = assignment
            if not state.is_model:
                item.leases[rater] = leased_at
        self._note_change(item)

    def _note_change(self, item: ItemState) -> None:
        """Keep the counts of items that are open."""
        if item.number not in self._fit:
            return
        (self._open.discard if item.is_full() else self._open.add)(item.number)
        is_partial = bool(item.judges or item.non_judges or item.leases) and not item.is_full()
        (self._partial.add if is_partial else self._partial.discard)(item.number)

    def renew(self, rater: int, numbers: Iterable[int], now: float) -> None:
        """Note that leases begin anew."""
        state = self.raters[rater]
        for number in numbers:
            assignment = state.open.get(number) or state.repeats[number]
            assignment.leased_at = now
            if number in state.open and not state.is_model:
                assignment.item.leases[rater] = now

    def add_vote(
        self, number: int, rater: int, item_number: int, method: Method, pick: Pick, order: tuple[int, ...], is_skip: bool
    ) -> None:
        """Note a vote, the first one of its assignment or a revision."""
        state, item = self.raters[rater], self.items[item_number]
        if pick == "adjudication":
            item.is_adjudicated = True
            self._note_change(item)
            return
        state.events += 1
        state.repeats.pop(number, None)
        if pick == "repeat":
            return
        if state.open.pop(number, None) is not None:
            item.leases.pop(rater, None)
        was_full = item.is_full()
        item.judges.discard(rater)
        item.non_judges.discard(rater)
        (item.non_judges if is_skip or state.is_model else item.judges).add(rater)
        self._note_change(item)
        if was_full and not item.is_full():  # taken back by undo: the item goes to another
            self.sort()
        state.votes[number] = VotedAssignment(
            number=number, item=item, method=method, order=order, is_skip=is_skip, events=state.events
        )


def _is_due(rate: float, n: int, phase: float) -> bool:
    """Whether the n-th turn, counted from 0, is one of the share `rate`: of any n turns floor or ceil of n rate are."""
    return math.floor((n + 1) * rate + phase) > math.floor(n * rate + phase)
