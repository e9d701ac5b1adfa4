"""Guards and gates of RL: each at its threshold, after its streak, and not before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sawyer.stages.rl.gates import TOLERANCE, final_gates, step_zero_gates
from sawyer.stages.rl.guards import STREAK, Guards, same_answer

GOOD = {"kl": 1.0, "eos_share": 0.8, "distinct_2": 0.6, "length": 20.0, "same_answer": 0.0}
# name: (the metric, just beyond its threshold, exactly at it); thresholds follow GOOD, the first updates' figures
LIMITS = {
    "kl_budget": ("kl", 6.01, 6.0),
    "eos_share": ("eos_share", 0.399, 0.4),
    "distinct_2": ("distinct_2", 0.35 * 0.6 - 0.001, 0.35 * 0.6),
    "length": ("length", 3.99, 4.0),
    "same_answer": ("same_answer", 0.251, 0.25),
}


def guards() -> Guards:
    found = Guards(6.0)
    assert [found.look(GOOD) for _ in range(STREAK)] == [None] * STREAK
    return found


def test_every_guard_is_tried_here() -> None:
    watch = guards()
    assert set(watch.streaks) == set(LIMITS)


@pytest.mark.parametrize("name", LIMITS)
def test_a_guard_trips_after_exactly_its_streak(name: str) -> None:
    metric, beyond, _ = LIMITS[name]
    watch = guards()
    told = [watch.look({**GOOD, metric: beyond}) for _ in range(STREAK)]
    assert told[:-1] == [None] * (STREAK - 1)
    assert told[-1] is not None
    assert (told[-1].guard, told[-1].value) == (name, beyond)
    assert told[-1].threshold == pytest.approx(LIMITS[name][2])


@pytest.mark.parametrize("name", LIMITS)
def test_one_good_update_begins_the_streak_anew(name: str) -> None:
    metric, beyond, _ = LIMITS[name]
    watch = guards()
    for _ in range(4):
        assert [watch.look({**GOOD, metric: beyond}) for _ in range(STREAK - 1)] == [None] * (STREAK - 1)
        assert watch.look(GOOD) is None
        assert watch.streaks[name] == 0


@pytest.mark.parametrize("name", LIMITS)
def test_the_threshold_itself_is_allowed(name: str) -> None:
    metric, _, at = LIMITS[name]
    watch = guards()
    assert [watch.look({**GOOD, metric: at}) for _ in range(9)] == [None] * 9


def test_the_first_updates_set_what_the_others_are_held_to() -> None:
    watch = Guards(6.0)
    for length in (10.0, 30.0, 35.0):
        watch.look({**GOOD, "length": length})
    watch.look({**GOOD, "eos_share": 0.1, "length": 1.0})
    assert watch.first == pytest.approx({"eos_share": 0.8, "distinct_2": 0.6, "length": 25.0})
    # Where no answer ended in the first updates, none need end later.
    never = Guards(6.0)
    assert [never.look({**GOOD, "eos_share": 0.0}) for _ in range(9)] == [None] * 9


def test_a_lucky_first_batch_trips_nothing() -> None:
    """Of two answers both ended at first, then one or none: chance, that the mean of the first updates knows."""
    watch = Guards(6.0)
    shares = (1.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 0.5)
    assert [watch.look({**GOOD, "eos_share": share}) for share in shares] == [None] * len(shares)


def test_what_does_not_compare_trips_from_the_first_update_on() -> None:
    watch = Guards(6.0)
    told = [watch.look({**GOOD, "kl": 7.0}) for _ in range(STREAK)]
    assert [one is not None for one in told] == [False, False, True]


@pytest.mark.parametrize("seen", range(STREAK + 1))
def test_a_state_taken_among_the_first_updates_goes_on_where_it_was(seen: int) -> None:
    rows = [{**GOOD, "length": length} for length in (10.0, 30.0, 35.0, *[4.9] * STREAK)]
    straight, watch, other = Guards(6.0), Guards(6.0), Guards(6.0)
    expected = [straight.look(row) for row in rows]
    found = [watch.look(row) for row in rows[:seen]]
    other.load(json.loads(json.dumps(watch.state())))
    assert found + [other.look(row) for row in rows[seen:]] == expected
    assert expected[-1] is not None and expected[-2] is None


def test_streaks_of_different_guards_do_not_add_up() -> None:
    watch = guards()
    assert [watch.look({**GOOD, LIMITS[name][0]: LIMITS[name][1]}) for name in LIMITS] == [None] * len(LIMITS)


@pytest.mark.parametrize("seen", range(STREAK))
def test_a_state_taken_and_loaded_goes_on_where_it_was(seen: int) -> None:
    bad = {**GOOD, "length": 1.0}
    watch, other = guards(), Guards(6.0)
    for _ in range(seen):
        watch.look(bad)
    other.load(json.loads(json.dumps(watch.state())))
    assert (other.first, other.streaks) == (watch.first, watch.streaks)
    told = [other.look(bad) is not None for _ in range(STREAK - seen)]
    assert told == [*[False] * (STREAK - seen - 1), True]


@pytest.mark.parametrize(
    ("prompts", "responses", "share"),
    [
        ("abcdefgh", ["x"] * 8, 1.0),
        ("abcdefgh", [*["x"] * 4, *"1234"], 0.5),
        ("abcdefgh", [*["x"] * 3, *"12345"], 0.0),  # three prompts with one answer: "Yes." may be right for them
        ("aaaaaaaa", ["x"] * 8, 0.0),  # one prompt, however often it comes
        ("aaaabcde", ["x"] * 8, 1.0),
        ("aabbccdd", [*"xxxxxxx", "y"], 1.0),
        ("ab", ["x", "y"], 0.0),  # a batch so small that each answer is half of it
        ("", [], 0.0),
    ],
)
def test_the_same_answer_is_counted_over_different_prompts(prompts: str, responses: list[str], share: float) -> None:
    assert same_answer(list(prompts), responses) == share


# Gates


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["step0_kl", "step0_ratio", "step0_sampler"])
def test_step_zero_gates(precision: str, name: str) -> None:
    allowed = TOLERANCE[precision]
    keys = dict(zip(("step0_kl", "step0_ratio", "step0_sampler"), ("kl", "ratio_error", "sampler_error"), strict=True))
    good: dict[str, Any] = dict.fromkeys(keys.values(), allowed)
    assert [gate.verdict for gate in step_zero_gates(**good, precision=precision)] == ["ok"] * 3
    for beyond in (allowed * 1.01, float("nan")):
        found = step_zero_gates(**{**good, keys[name]: beyond}, precision=precision)
        assert [gate.name for gate in found if gate.verdict == "fail"] == [name]


def test_a_kl_below_zero_counts_as_much_as_one_above() -> None:
    found = step_zero_gates(kl=-0.5, ratio_error=0.0, sampler_error=0.0, precision="fp32")
    assert [gate.verdict for gate in found] == ["fail", "ok", "ok"]


FIGURES = {"reward_sft": 0.1, "reward_best": 0.5, "best_step": 4, "updates": 9, "kl": 3.0, "stopped": ""}


@pytest.mark.parametrize(
    ("changed", "verdicts"),
    [
        ({}, ["ok", "ok", "ok"]),
        ({"reward_best": 0.1}, ["warn", "ok", "ok"]),
        ({"kl": 6.0}, ["ok", "ok", "ok"]),
        ({"kl": 6.1}, ["ok", "fail", "ok"]),
        ({"stopped": "length is 1"}, ["ok", "ok", "warn"]),
    ],
)
def test_final_gates(changed: dict[str, Any], verdicts: list[str]) -> None:
    found = final_gates({**FIGURES, **changed}, 6.0)
    assert [gate.name for gate in found] == ["rl_improves", "rl_kl_budget", "rl_unstopped"]
    assert [gate.verdict for gate in found] == verdicts
