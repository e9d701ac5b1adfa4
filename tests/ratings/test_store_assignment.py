"""Who is handed what: shares, leases, repeats and order, by hand-made cases and by a long simulation of many raters."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from stores import NOW, cast, judge_all, make_items, open_store

from sawyer.ratings import Assignment, Choice, Rater, RatingSettings, RatingStore
from sawyer.ratings import assignment as rules
from sawyer.ratings.assignment import ItemState, Pool

# Leases


def test_what_is_in_hand_comes_first_and_again(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(10)) as store:
        anna = store.rater("anna")
        first = store.assign(anna, 3, NOW)
        assert store.assign(anna, 3, NOW + 1) == first  # a page that is loaded again
        assert store.assign(anna, 2, NOW + 1) == first[:2]
        cast(store, anna, first[0], "v")
        more = store.assign(anna, 4, NOW + 2)
        assert more[:2] == first[1:] and len(more) == 4
        assert store.assign(anna, 0, NOW) == [] and store.assign(anna, -5, NOW) == []


def test_a_closed_browser_s_items_go_to_others(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(4), overlap=0.0, lease_seconds=100) as store:
        anna, bob = store.rater("anna"), store.rater("bob")
        handed = store.assign(anna, 4, NOW)
        assert len(handed) == 4 and store.assign(bob, 4, NOW + 99) == []
        assert {a.item.id for a in store.assign(bob, 3, NOW + 100)} < {a.item.id for a in handed}
        # Anna returns: what nobody took is hers again, as it was; what Bob has is not.
        (mine,) = store.assign(anna, 4, NOW + 101)
        assert mine in handed
        # What she judged meanwhile without a connection counts all the same, and Bob's vote on the same item as well.
        taken = next(a for a in handed if a != mine)
        cast(store, anna, taken, "late", now=NOW + 102)
        twin = next(a for a in store.assign(bob, 3, NOW + 103) if a.item == taken.item)
        cast(store, bob, twin, "bob's", now=NOW + 104)
        assert len(store.rated_items()[0].votes) == 2


def test_whoever_votes_keeps_what_is_in_hand(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(20), overlap=0.0, lease_seconds=100) as store:
        anna, bob = store.rater("anna"), store.rater("bob")
        handed = store.assign(anna, 20, NOW)
        for i, assignment in enumerate(handed[:15]):  # a minute each, a quarter of an hour in all
            cast(store, anna, assignment, f"v{i}", now=NOW + 60 * (i + 1))
            assert store.assign(bob, 20, NOW + 60 * (i + 1)) == []


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps(tmp_path: Path, jump: float) -> None:
    """A lease does not last until a future that was corrected; votes keep their order."""
    with open_store(tmp_path, make_items(4), overlap=0.0, repeat_rate=0.0) as store:
        anna, bob = store.rater("anna"), store.rater("bob")
        handed = store.assign(anna, 3, NOW)
        cast(store, anna, handed[0], "v0", now=NOW)
        assert len(store.assign(bob, 4, NOW + jump)) == 3
        cast(store, anna, handed[1], "v1", now=NOW + jump)
        assert [vote.assignment.id for vote in store.history(anna)] == [handed[0].id, handed[1].id]


def test_a_time_that_is_none(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(1)) as store:
        anna = store.rater("anna")
        for now in (math.nan, math.inf):
            with pytest.raises(Exception, match="the time is"):
                store.assign(anna, 1, now)


def test_fewer_items_than_raters(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(5)) as store:  # one of the five is judged by two
        raters = [store.rater(f"rater {i}") for i in range(20)]
        handed = [store.assign(rater, 25, NOW) for rater in raters]
        assert [len(some) for some in handed[:3]] == [5, 1, 0]
        assert sum(map(len, handed)) == 6


def test_a_skipped_item_goes_to_another(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(1), overlap=0.0) as store:
        raters = [store.rater(f"rater {i}") for i in range(3)]
        for i, rater in enumerate(raters[:2]):
            (assignment,) = store.assign(rater, 5, NOW)
            assert store.assign(raters[2], 5, NOW) == []
            cast(store, rater, assignment, f"v{i}", Choice(skip=True))
            assert store.assign(rater, 5, NOW) == []  # but not to the same
        assert store.progress(NOW).judged_items == 0
        (assignment,) = store.assign(raters[2], 5, NOW)
        cast(store, raters[2], assignment, "v2")
        assert store.progress(NOW).judged_items == 1
        # A judgement that is taken back opens the item again, for those who have not seen it.
        cast(store, raters[2], assignment, "v3", Choice(skip=True))
        assert len(store.assign(store.rater("rater 3"), 5, NOW)) == 1


# What comes next


def test_the_most_uncertain_first(tmp_path: Path) -> None:
    items = make_items(50, uncertainty=[i / 50 for i in range(50)])
    with open_store(tmp_path, items, random_rate=0.0, repeat_rate=0.0) as store:
        handed = judge_all(store, store.rater("anna"))
        assert [a.item.uncertainty for a in handed] == [(49 - i) / 50 for i in range(50)]
        assert {a.pick for a in handed} == {"uncertain"}


def test_the_newest_round_first_and_what_is_unknown_last(tmp_path: Path) -> None:
    items = [*make_items(10, uncertainty=[0.9]), *make_items(10, uncertainty=[0.1, None], round=2)]
    with open_store(tmp_path, items, random_rate=0.0, repeat_rate=0.0) as store:
        handed = judge_all(store, store.rater("anna"))
        assert [(a.item.round, a.item.uncertainty) for a in handed] == [(2, 0.1)] * 5 + [(2, None)] * 5 + [(1, 0.9)] * 10


def test_a_fifth_by_chance(tmp_path: Path) -> None:
    """Of any rater's first n items floor or ceil of n/5 come by chance, and those are a random sample of all items."""
    items = make_items(2000, uncertainty=[i / 2000 for i in range(2000)])
    with open_store(tmp_path, items, repeat_rate=0.0, overlap=0.0) as store:
        for name in ("anna", "bob", "carol"):
            picks = [a.pick for a in judge_all(store, store.rater(name), 333)]
            for n in range(1, 334):
                assert math.floor(n / 5) <= picks[:n].count("random") <= math.ceil(n / 5)
        by_pick = defaultdict(list)
        for vote in store.stored_votes():
            by_pick[vote.assignment.pick].append(vote.assignment.item.uncertainty or 0.0)
        # Uniform on [0, 1): the mean of 200 has a standard error of 0.289 / sqrt(200) = 0.0204.
        assert len(by_pick["random"]) == 200 and abs(sum(by_pick["random"]) / 200 - 0.5) < 4 * 0.0204
        assert min(by_pick["uncertain"]) > 0.4  # the most uncertain 800 of the 1,600 that are not set aside


def test_without_an_uncertainty_all_comes_by_chance(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(30), repeat_rate=0.0) as store:
        handed = judge_all(store, store.rater("anna"))
        assert {a.pick for a in handed} == {"random"} and len(handed) == 30
        assert [a.item.id for a in handed] != [item.id for item in make_items(30)]


@pytest.mark.parametrize("random_rate", [0.0, 1.0])
def test_every_prompt_once_before_any_twice(tmp_path: Path, random_rate: float) -> None:
    from sawyer.ratings import item_of
    from sawyer.records import Answer, prompt_of

    items = []
    for i in range(20):
        answers = [Answer(response=f"{i}.{j}", score=None) for j in range(3)]
        items += [item_of(prompt_of(f"p{i}"), pair) for pair in (answers[:2], answers[1:], answers[::2])]
    with open_store(tmp_path, items, repeat_rate=0.0, random_rate=random_rate) as store:
        prompts = [a.item.prompt.text for a in judge_all(store, store.rater("anna"))]
        assert [len(set(prompts[i : i + 20])) for i in (0, 20, 40)] == [20, 20, 20]


def test_only_items_that_the_method_can_judge(tmp_path: Path) -> None:
    from sawyer.ratings import item_of
    from sawyer.records import Answer, prompt_of

    answers = [Answer(response=f"{j}", score=None) for j in range(3)]
    pair, triple = item_of(prompt_of("p"), answers[:2]), item_of(prompt_of("p"), answers)
    other = item_of(prompt_of("q"), answers[:2])
    path = tmp_path / "votes.sqlite"
    expected = {"pair": {pair.id, other.id}, "graded": {pair.id, other.id}, "rank": {triple.id, other.id}}
    for method, ids in expected.items():  # by rank, the triple says all that its pairs say
        with open_store(path, [pair, triple, other], method) as store:  # type: ignore[arg-type]
            handed = store.assign(store.rater(f"rater by {method}"), 9, NOW)
            assert {a.item.id for a in handed} <= ids
            if method != "graded":  # by then one rater has the pairs in hand, by another method
                assert {a.item.id for a in handed} == ids


def test_a_changed_method_takes_back_what_was_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    with open_store(path, make_items(3), "pair") as store:
        anna = store.rater("anna")
        old = store.assign(anna, 3, NOW)
        cast(store, anna, old[0], "v0")
    with open_store(path, make_items(3), "graded") as store:
        new = store.assign(anna, 3, NOW)
        assert {a.item.id for a in new} == {a.item.id for a in old[1:]} and {a.method for a in new} == {"graded"}
        cast(store, anna, old[1], "v1", Choice(grade=1))  # from the page of before: it counts, by its own method
        assert store.history(anna)[-1].assignment.method == "pair"
        assert len(store.assign(anna, 3, NOW)) == 1


def test_a_changed_method_takes_back_open_repeats(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    with open_store(path, make_items(60), "pair", repeat_rate=1.0) as store:
        anna = store.rater("anna")
        judge_all(store, anna, 11)
        repeats = [a for a in store.assign(anna, 3, NOW) if a.pick == "repeat"]
        assert repeats
    with open_store(path, [], "graded", repeat_rate=1.0) as store:
        assert {(a.method, a.pick) for a in store.assign(anna, 3, NOW)} == {("graded", "random")}
        cast(store, anna, repeats[0], "late", Choice(grade=1))


# Overlap


@pytest.mark.parametrize(("count", "overlap"), [(10, 0.2), (7, 0.2), (200, 0.37), (50, 0.0), (50, 1.0), (1, 0.2)])
def test_the_overlap_is_the_share_of_the_items(tmp_path: Path, count: int, overlap: float) -> None:
    with open_store(tmp_path, make_items(count), overlap=overlap, repeat_rate=0.0) as store:
        for i in range(4):
            judge_all(store, store.rater(f"rater {i}"))
        raters = Counter(len({vote.assignment.rater.id for vote in item.votes}) for item in store.rated_items())
        assert raters[2] == math.floor(overlap * count + 0.5) and raters[1] == count - raters[2]


def test_which_items_overlap_does_not_depend_on_their_order() -> None:
    def pool(ids: list[str], seed: int = 0) -> dict[str, int]:
        states = [ItemState(number=i, id=id, prompt=i, answers="[1, 2]", round=1, uncertainty=None) for i, id in enumerate(ids)]
        pool = Pool(RatingSettings(method="pair", overlap=0.3, seed=seed), states)
        return {item.id: item.raters_wanted for item in pool.items.values()}

    ids = [f"item {i}" for i in range(100)]
    assert pool(ids) == pool(ids[::-1]) != pool(ids, seed=1)
    assert sum(pool(ids).values()) == 130


def test_two_raters_overlap_from_the_start(tmp_path: Path) -> None:
    """Of 10,000 items two raters judge 100 each: without a common order they would share one or none."""
    with open_store(tmp_path, make_items(10_000), repeat_rate=0.0) as store:
        seen = [{a.item.id for a in judge_all(store, store.rater(name), 100)} for name in ("anna", "bob")]
        assert 10 <= len(seen[0] & seen[1]) <= 30


# Repeats


def test_repeats_come_late_turned_round_and_once(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(400), repeat_rate=0.05) as store:
        anna = store.rater("anna")
        handed = judge_all(store, anna)
        repeats = [i for i, assignment in enumerate(handed) if assignment.pick == "repeat"]
        assert len(handed) - len(repeats) == 400
        assert len(repeats) in (len(handed) // 20, len(handed) // 20 + 1)
        first = {assignment.item.id: i for i, assignment in reversed(list(enumerate(handed)))}
        for i in repeats:
            earlier = handed[first[handed[i].item.id]]
            assert earlier.pick != "repeat" and handed[i].order == earlier.order[::-1] and handed[i].method == earlier.method
            assert i - first[handed[i].item.id] > 10
        assert len({handed[i].item.id for i in repeats}) == len(repeats)


@pytest.mark.parametrize("method", ["rank", "score"])
def test_repeats_of_many_answers_are_turned_round_as_well(tmp_path: Path, method: str) -> None:
    with open_store(tmp_path, make_items(40, answers=5), method, repeat_rate=0.3) as store:  # type: ignore[arg-type]
        handed = judge_all(store, store.rater("anna"))
        orders = defaultdict(list)
        for assignment in handed:
            orders[assignment.item.id].append(assignment.order)
        twice = [both for both in orders.values() if len(both) == 2]
        assert len(twice) >= 10 and all(one == other[::-1] for one, other in twice)


def test_no_repeat_of_a_skipped_item(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(60), repeat_rate=1.0) as store:
        anna = store.rater("anna")
        for i, assignment in enumerate(store.assign(anna, 30, NOW)):
            cast(store, anna, assignment, f"v{i}", Choice(skip=True))
        assert "repeat" not in {a.pick for a in store.assign(anna, 30, NOW)}


# The answers' order


def test_the_order_is_random_by_item_and_rater_and_stays(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(400), overlap=1.0, repeat_rate=0.0) as store:
        anna, bob = store.rater("anna"), store.rater("bob")
        orders = [{a.item.id: a.order for a in judge_all(store, rater)} for rater in (anna, bob)]
        for of_rater in orders:  # of 400 fair coins: 200, standard deviation 10
            assert abs(sum(order == (0, 1) for order in of_rater.values()) - 200) < 40
        assert abs(sum(orders[0][id] == orders[1][id] for id in orders[0]) - 200) < 40


# Many raters at once


def simulate(store: RatingStore, people: int, steps: int, seed: int) -> list[tuple[Rater, Assignment]]:
    """Raters who come and go, prefetch, forget, skip, undo, vote late; a clock with jumps. Returns what was handed out."""
    rng, now = random.Random(seed), NOW
    raters = [store.rater(f"rater {i}") for i in range(people)]
    hands: dict[int, list[Assignment]] = {rater.id: [] for rater in raters}
    handed: dict[int, tuple[Rater, Assignment]] = {}
    for step in range(steps):
        rater = rng.choice(raters)
        now += rng.choice([1, 5, 20, 60, -30] + [1000, -5000] * (rng.random() < 0.02))
        if rng.random() < 0.3 or not hands[rater.id]:
            hands[rater.id] = store.assign(rater, rng.randint(1, 8), now)
            handed |= {a.id: (rater, a) for a in hands[rater.id] if a.id not in handed}
        elif rng.random() < 0.1 and (last := store.previous(rater, None)) is not None:
            cast(store, rater, last.assignment, f"undo{step}", now=now)
        elif rng.random() < 0.03:
            hands[rater.id].clear()  # a closed browser
        else:
            assignment = hands[rater.id].pop(rng.randrange(len(hands[rater.id])))
            choice = Choice(skip=True) if rng.random() < 0.05 else None
            cast(store, rater, assignment, f"vote{step}", choice, now=now)
            if rng.random() < 0.2:
                cast(store, rater, assignment, f"vote{step}", choice, now=now)  # sent again
    return list(handed.values())


def check_handed_out(store: RatingStore, handed: list[tuple[Rater, Assignment]]) -> None:
    """What holds whatever happens, from the votes and assignments alone."""
    times: Counter[tuple[int, str]] = Counter()
    orders: dict[tuple[int, str], tuple[int, ...]] = {}
    for rater, assignment in sorted(handed, key=lambda pair: pair[1].id):
        key = rater.id, assignment.item.id
        times[key] += 1
        if assignment.pick == "repeat":
            assert assignment.order == orders[key][::-1]
        else:
            assert times[key] == 1, "an item came twice to a rater, not as a repeat"
            orders[key] = assignment.order
    assert max(times.values()) <= 2
    votes = store.stored_votes()
    assert len({vote.assignment.vote.id for vote in votes if vote.assignment.vote}) == len(votes)
    revisions = defaultdict(list)
    for vote in votes:
        revisions[vote.assignment.id].append(vote.revision)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in revisions.values())
    with RatingStore.open(store.path) as again:  # memory and file say the same
        assert again.progress(NOW) == store.progress(NOW) and again.digest() == store.digest()
        for rater in store.raters():
            assert again.done_and_left(rater, NOW) == store.done_and_left(rater, NOW)
            assert again.history(rater) == store.history(rater)
            left = len(
                {a.item.id for a in again.assign(rater, 200, NOW)} - {v.assignment.item.id for v in again.history(rater)}
            )
            assert left <= again.done_and_left(rater, NOW)[1]


@pytest.mark.parametrize("seed", range(2))
def test_many_raters(tmp_path: Path, seed: int) -> None:
    items = make_items(120, uncertainty=[0.1, 0.7, None, 0.3])
    with open_store(tmp_path, items, repeat_rate=0.1, lease_seconds=600, seed=seed) as store:
        check_handed_out(store, simulate(store, 7, 700, seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 22))
def test_many_raters_for_long(tmp_path: Path, seed: int) -> None:
    items = make_items(400, uncertainty=[0.1, 0.7, None, 0.3])
    with open_store(tmp_path, items, repeat_rate=0.1, lease_seconds=600, seed=seed) as store:
        check_handed_out(store, simulate(store, 12, 3000, seed))


def _forget_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ItemState, "was_shown_to", lambda self, rater: rater in self.leases)


def _same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pool._next_repeat

    def turned_back(self: Pool, state: rules.RaterState) -> rules.NewAssignment | None:
        new = original(self, state)
        return new and rules.NewAssignment(item=new.item, order=new.order[::-1], pick="repeat")

    monkeypatch.setattr(Pool, "_next_repeat", turned_back)


def _skips_are_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ItemState, "was_shown_to", lambda self, rater: rater in self.judges or rater in self.leases)


@pytest.mark.parametrize("plant", [_forget_repeats, _same_order, _skips_are_shown_again])
def test_the_simulation_finds_wrong_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: object) -> None:
    plant(monkeypatch)  # type: ignore[operator]
    items = make_items(60, uncertainty=[0.1, 0.7, None, 0.3])
    with open_store(tmp_path, items, overlap=1.0, repeat_rate=0.2, lease_seconds=600) as store, pytest.raises(AssertionError):
        check_handed_out(store, simulate(store, 3, 700, 0))
