"""Guards and gates of RL: each at its threshold, after its streak, and not before."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from sawyer.stages.rl.gates import TOLERANCE, final_gates, step_zero_gates
from sawyer.stages.rl.guards import EVALUATIONS, STREAK, Guards, same_answer

GOOD = {"kl": 1.0, "eos_share": 0.8, "distinct_2": 0.6, "length": 20.0, "same_answer": 0.0, "score": 0.0}
# name: (the metric, just beyond its threshold, exactly at it); thresholds follow GOOD, the first updates' figures
LIMITS = {
    "kl_budget": ("kl", 6.01, 6.0),
    "eos_share": ("eos_share", 0.399, 0.4),
    "distinct_2": ("distinct_2", 0.35 * 0.6 - 0.001, 0.35 * 0.6),
    "length": ("length", 3.99, 4.0),
    "length_limit": ("length", 47.01, 47.0),
    "same_answer": ("same_answer", 0.251, 0.25),
}


def guards() -> Guards:
    found = Guards(6.0, 50)
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
    watch = Guards(6.0, 50)
    for length in (10.0, 30.0, 35.0):
        watch.look({**GOOD, "length": length})
    watch.look({**GOOD, "eos_share": 0.1, "length": 1.0})
    assert watch.first == pytest.approx({"eos_share": 0.8, "distinct_2": 0.6, "length": 25.0})
    # Where no answer ended in the first updates, none need end later.
    never = Guards(6.0, 50)
    assert [never.look({**GOOD, "eos_share": 0.0}) for _ in range(9)] == [None] * 9


def test_a_lucky_first_batch_trips_nothing() -> None:
    """Of two answers both ended at first, then one or none: chance, that the mean of the first updates knows."""
    watch = Guards(6.0, 50)
    shares = (1.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 0.5)
    assert [watch.look({**GOOD, "eos_share": share}) for share in shares] == [None] * len(shares)


def test_what_does_not_compare_trips_from_the_first_update_on() -> None:
    watch = Guards(6.0, 50)
    told = [watch.look({**GOOD, "kl": 7.0}) for _ in range(STREAK)]
    assert [one is not None for one in told] == [False, False, True]


@pytest.mark.parametrize("seen", range(STREAK + 1))
def test_a_state_taken_among_the_first_updates_goes_on_where_it_was(seen: int) -> None:
    rows = [{**GOOD, "length": length} for length in (10.0, 30.0, 35.0, *[4.9] * STREAK)]
    straight, watch, other = Guards(6.0, 50), Guards(6.0, 50), Guards(6.0, 50)
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
    watch, other = guards(), Guards(6.0, 50)
    for _ in range(seen):
        watch.look(bad)
    other.load(json.loads(json.dumps(watch.state())))
    assert (other.first, other.streaks) == (watch.first, watch.streaks)
    told = [other.look(bad) is not None for _ in range(STREAK - seen)]
    assert told == [*[False] * (STREAK - seen - 1), True]


# What evaluations tell


def look_and_evaluate(watch: Guards, paid: float, /, **measures: list[float]) -> Any:
    """Two updates of that score, then an evaluation."""
    assert [watch.look({**GOOD, "score": paid}) for _ in range(2)] == [None] * 2
    return watch.evaluated(measures)


def around(mean: float, spread: float = 0.0, count: int = 64, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    found = [rng.gauss(0.0, spread) for _ in range(count)]
    return [mean + value - sum(found) / count for value in found]


@pytest.mark.parametrize(("measure", "low"), [("score", 0.3), ("gold", 5.0)])
def test_a_reward_that_rises_in_training_and_falls_on_held_out_prompts_stops_the_run(measure: str, low: float) -> None:
    watch = Guards(6.0, 50)
    fine = {"score": around(1.0), "gold": around(6.0)}
    assert watch.evaluated(fine) is None
    told = [look_and_evaluate(watch, 0.5 + 0.1 * i, **{**fine, measure: around(low)}) for i in range(EVALUATIONS + 1)]
    assert told[:-1] == [None] * EVALUATIONS  # the first only tells what the batches' score was at the start
    assert told[-1].guard == f"held_out_{measure}"
    assert told[-1].value == pytest.approx(low - {"score": 1.0, "gold": 6.0}[measure])


@pytest.mark.parametrize(
    ("scores", "golds"),
    [
        ((0.5, 0.5, 0.4, 0.3, 0.2), (6, 5, 4, 3, 2)),  # all falls: nothing is being gamed
        ((0.5, 0.6, 0.7, 0.8, 0.9), (6, 6.4, 6.8, 7, 7.1)),  # all rises
        ((0.5, 0.6, 0.7, 0.8, 0.9), (6, 5, 6, 5, 6)),  # one evaluation alone is chance
        ((0.5, 0.6, 0.7, 0.8, 0.9), (6, 5.6, 5.6, 5.6, 5.6)),  # less than the margin
    ],
)
def test_what_evaluations_of_a_run_may_do(scores: tuple[float, ...], golds: tuple[float, ...]) -> None:
    watch = Guards(6.0, 50)
    found = [look_and_evaluate(watch, score, gold=around(gold)) for score, gold in zip(scores, golds, strict=True)]
    assert found == [None] * len(found)


def test_a_fall_within_the_noise_of_the_prompts_is_none() -> None:
    for spread, trips in ((1.0, True), (4.0, False)):  # standard errors of the difference: about 0.18 and 0.7
        watch = Guards(6.0, 50)
        told = [look_and_evaluate(watch, 0.1, gold=around(6.0, spread, seed=9))]
        told += [look_and_evaluate(watch, 0.2 + i, gold=around(5.0, spread, seed=i)) for i in range(4)]
        assert any(told) == trips


def test_healthy_runs_of_noise_alone_go_on() -> None:
    """200 runs of 30 evaluations of a policy whose answers stay as they are, with a training reward that rises."""
    for run in range(200):
        watch, level = Guards(6.0, 50), around(6.0, 2.0, seed=-run - 1)
        for index in range(30):
            noise = around(0.0, 2.0, seed=1000 * run + index)
            rng = random.Random(index + 1000 * run)
            golds = [a + b + rng.gauss(0.0, 2.0 / 8) for a, b in zip(level, noise, strict=True)]
            assert look_and_evaluate(watch, 0.1 * index, gold=golds) is None


def test_what_is_not_finite_is_compared_with_nothing() -> None:
    watch = Guards(6.0, 50)
    assert watch.evaluated({"score": [float("nan"), 1.0]}) is None
    assert watch.best == {}


@pytest.mark.parametrize("seen", range(5))
def test_a_state_taken_between_evaluations_goes_on_where_it_was(seen: int) -> None:
    steps = [(0.1 * i, around(6.0 - i, 0.5, seed=i)) for i in range(5)]
    straight, watch, other = Guards(6.0, 50), Guards(6.0, 50), Guards(6.0, 50)
    expected = [look_and_evaluate(straight, score, gold=golds) for score, golds in steps]
    found = [look_and_evaluate(watch, score, gold=golds) for score, golds in steps[:seen]]
    watch.look({**GOOD, "score": 0.7})
    other.load(json.loads(json.dumps(watch.state())))
    assert other.state() == watch.state()
    other.scores.pop()
    assert found + [look_and_evaluate(other, score, gold=golds) for score, golds in steps[seen:]] == expected
    assert any(expected)


def test_answers_that_were_long_from_the_start_may_stay_so() -> None:
    watch = Guards(6.0, 50)
    assert [watch.look({**GOOD, "length": length}) for length in (26.0, 26.0, 26.0, *[50.0] * 5)] == [None] * 8


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
    keys = dict(zip(("step0_kl", "step0_ratio", "step0_sampler"), ("kl", "ratio_error", "sampler_error"), strict=True))
    good: dict[str, Any] = {**dict.fromkeys(keys.values(), TOLERANCE[precision]), "kl": 1e-3}
    assert [gate.verdict for gate in step_zero_gates(**good, precision=precision)] == ["ok"] * 3
    for beyond in (good[keys[name]] * 1.01, float("nan")):
        found = step_zero_gates(**{**good, keys[name]: beyond}, precision=precision)
        assert [gate.name for gate in found if gate.verdict == "fail"] == [name]


FIGURES = {"reward_sft": 0.1, "reward_best": 0.5, "best_step": 4, "updates": 9, "kl": 3.0, "kl_last": 3.5, "stopped": ""}


@pytest.mark.parametrize(
    ("changed", "verdicts"),
    [
        ({}, ["ok", "ok", "ok"]),
        ({"reward_best": 0.1}, ["warn", "ok", "ok"]),
        ({"kl_last": 6.0}, ["ok", "ok", "ok"]),
        ({"kl_last": 6.1}, ["ok", "warn", "ok"]),
        ({"kl_last": float("nan")}, ["ok", "warn", "ok"]),
        ({"stopped": "length is 1"}, ["ok", "ok", "warn"]),
    ],
)
def test_final_gates(changed: dict[str, Any], verdicts: list[str]) -> None:
    found = final_gates({**FIGURES, **changed}, 6.0)
    assert [gate.name for gate in found] == ["rl_improves", "rl_kl_budget", "rl_unstopped"]
    assert [gate.verdict for gate in found] == verdicts
