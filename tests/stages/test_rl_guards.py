"""Guards and gates of RL: each at its threshold, after its streak, and not before."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from sawyer.config import GuardName, Rl, parse_config
from sawyer.stages.rl.guards import (
    BEGINNING,
    GUARDS,
    RELATIVE_GUARDS,
    GuardEvent,
    Guards,
    Rule,
    guard_advice,
    guard_rules,
    kl_budget,
    mode_response_rate,
    noise_margin,
    raised_coefficient,
    significant_correlation,
    stop_summary,
)
from sawyer.stages.rl.rl_gates import (
    MEAN_TIMES,
    MOST_TIMES,
    SMALL,
    Drift,
    RlOutcome,
    StepZero,
    final_gates,
    step_zero_gates,
)
from sawyer.trust import NeededGuard
from sawyer.trust.verdict import GUARDS_FOR

GOOD = {
    "kl": 1.0,
    "eos_rate": 0.8,
    "distinct_2": 0.6,
    "length": 20.0,
    "mode_response_rate": 0.0,
    "score": 0.0,
    "length_correlation": 0.1,
    "disagreement": 0.2,
    "zero_variance_groups": 0.1,
}
# Of 100 answers 3 standard errors are 3 / sqrt(97) = 0.30461 on Fisher's scale: atanh(0.6) + that = atanh(0.76011).
SURE = 0.7601
# name: (the metric, just beyond its threshold, exactly at it); thresholds follow GOOD, the first batches' figures
LIMITS = {
    "kl_budget": ("kl", 6.01, 6.0),
    "eos_rate": ("eos_rate", 0.399, 0.4),
    "distinct_2": ("distinct_2", 0.35 * 0.6 - 0.001, 0.35 * 0.6),
    "length": ("length", 3.99, 4.0),
    "length_limit": ("length", 47.01, 47.0),
    "mode_response_rate": ("mode_response_rate", 0.251, 0.25),
    "score_length_correlation": ("length_correlation", SURE + 0.001, SURE - 0.001),
    "disagreement": ("disagreement", 0.601, 0.6),
    "zero_variance_groups": ("zero_variance_groups", 0.91, 0.9),
}
OF_EVALUATIONS = ("eval_score", "eval_gold")


def asked(**rl: Any) -> Rl:
    tree = {"model": "m", "sft": {"data": ["a"]}, "reward": {"data": ["b"]}}
    found = parse_config({**tree, "rl": {"prompts": ["c"], "kl": {"budget": 6.0}, **rl}}).rl
    assert found is not None
    return found


ADVICE = guard_advice(asked())


def fresh(**rl: Any) -> Guards:
    required_section = asked(**rl)
    return Guards(
        guard_rules(required_section),
        max_new_tokens=50,
        batch_size=100,
        advice=guard_advice(required_section),
        disagreement=0.3,
    )


def guards(**rl: Any) -> Guards:
    found = fresh(**rl)
    assert [found.check_batch(GOOD) for _ in range(BEGINNING)] == [[]] * BEGINNING
    return found


def beyond(name: str) -> dict[str, float]:
    metric, value, _ = LIMITS[name]
    return {**GOOD, metric: value}


def names(told: list[GuardEvent]) -> list[str]:
    return [one.guard for one in told]


def test_every_guard_is_tried_here_and_has_words() -> None:
    watch = guards()
    assert {*watch.streaks} == {*LIMITS, "non_finite"}
    assert {*LIMITS, *OF_EVALUATIONS, "non_finite"} == {*GUARDS} == {*get_args(GuardName)}
    assert all(meaning and advice for meaning, advice in ((kind.explanation, kind.advice) for kind in GUARDS.values()))


@pytest.mark.parametrize("name", LIMITS)
def test_a_guard_trips_after_exactly_its_streak(name: str) -> None:
    watch, streak = guards(), GUARDS[name].rule.patience
    told = [watch.check_batch(beyond(name)) for _ in range(streak)]
    assert told[:-1] == [[]] * (streak - 1)
    (last,) = told[-1]
    assert (last.guard, last.value, last.action) == (name, LIMITS[name][1], GUARDS[name].rule.action)
    assert last.threshold == pytest.approx(0.6 if name == "score_length_correlation" else LIMITS[name][2])
    assert GUARDS[name].explanation in last.message(7) and "after 7 updates" in last.message(7)


@pytest.mark.parametrize("name", LIMITS)
def test_one_good_update_begins_the_streak_anew(name: str) -> None:
    watch, streak = guards(), GUARDS[name].rule.patience
    for _ in range(4):
        assert [watch.check_batch(beyond(name)) for _ in range(streak - 1)] == [[]] * (streak - 1)
        assert watch.check_batch(GOOD) == []
        assert watch.streaks[name] == 0


@pytest.mark.parametrize("name", LIMITS)
def test_the_threshold_itself_is_allowed(name: str) -> None:
    metric, _, at = LIMITS[name]
    watch = guards()
    assert [watch.check_batch({**GOOD, metric: at}) for _ in range(9)] == [[]] * 9


# What `rl.guards` changes


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("action", ["warn", "stop", "rollback", "off"])
def test_a_guard_does_what_it_is_asked_to(name: str, action: str) -> None:
    watch = guards(guards={name: {"action": action}})
    told = [watch.check_batch(beyond(name)) for _ in range(2 * GUARDS[name].rule.patience)]
    acted = [one.action for each in told for one in each]
    if action == "off":
        assert acted == []
    elif action == "warn":  # once, until it has been within bounds
        assert acted == ["warn"]
        watch.check_batch(GOOD)
        assert [one.action for _ in range(GUARDS[name].rule.patience) for one in watch.check_batch(beyond(name))] == ["warn"]
    else:
        assert acted[0] == action


@pytest.mark.parametrize("name", LIMITS)
def test_a_streak_of_one_is_at_once(name: str) -> None:
    assert names(guards(guards={name: {"patience": 1}}).check_batch(beyond(name))) == [name]


THRESHOLDS = {
    "kl_budget": (3.0, {"kl": 3.01}, {"kl": 3.0}),
    "eos_rate": (0.9, {"eos_rate": 0.719}, {"eos_rate": 0.721}),
    "distinct_2": (0.9, {"distinct_2": 0.539}, {"distinct_2": 0.541}),
    "length": (0.9, {"length": 17.9}, {"length": 18.1}),
    "length_limit": (0.5, {"length": 35.1}, {"length": 34.9}),
    "mode_response_rate": (0.5, {"mode_response_rate": 0.51}, {"mode_response_rate": 0.5}),
    "score_length_correlation": (
        0.2,
        {"length_correlation": -0.5},
        {"length_correlation": -0.4},
    ),  # 0.2447 and 0.1184 surely
    "disagreement": (4.0, {"disagreement": 1.21}, {"disagreement": 1.2}),
    "zero_variance_groups": (0.5, {"zero_variance_groups": 0.51}, {"zero_variance_groups": 0.5}),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_threshold_that_is_asked_for_is_the_one(name: str) -> None:
    threshold, over, at = THRESHOLDS[name]
    changed = {name: {"threshold": threshold}}
    streak = GUARDS[name].rule.patience
    watch = guards(guards=changed)
    assert names([watch.check_batch({**GOOD, **over}) for _ in range(streak)][-1]) == [name]
    watch = guards(guards=changed)
    assert [watch.check_batch({**GOOD, **at}) for _ in range(9)] == [[]] * 9


def test_one_action_for_all() -> None:
    for said in ("off", False):  # YAML reads a bare off as false
        assert {rule.action for rule in guard_rules(asked(guards=said)).values()} == {"off"}
    assert {rule.action for rule in guard_rules(asked(guards="warn")).values()} == {"warn"}
    only = guard_rules(asked(guards={"length": {"action": False, "patience": 9}}))
    assert only["length"] == Rule(threshold=0.2, patience=9, action="off")
    assert {name: rule for name, rule in only.items() if name not in ("length", "kl_budget")} == {
        name: kind.rule for name, kind in GUARDS.items() if name not in ("length", "kl_budget")
    }
    assert only["kl_budget"].threshold == 6.0


def test_a_rollback_makes_the_kl_dearer() -> None:
    assert [raised_coefficient(c) for c in (0.0, 0.01, 0.05, 0.4)] == pytest.approx([0.05, 0.05, 0.1, 0.8])
    watch = guards()
    for _ in range(2):
        watch.check_batch(beyond("length"))
    watch.reset_streaks()
    assert (watch.streaks, watch.scores) == ({}, [])
    assert watch.first["length"] == pytest.approx(20.0) and watch.batches == BEGINNING
    assert [names(watch.check_batch(beyond("length"))) for _ in range(3)] == [[], [], ["length"]]


def test_a_stop_says_what_happened_and_what_to_try() -> None:
    one = GuardEvent(guard="length", action="stop", value=3.21, threshold=4.0, advice="raise this")
    words = "length is 3.21 (threshold 4) after 1 update: answers have shrunk to a few tokens; saying nothing may pay"
    assert one.message(1).startswith(words)
    told = stop_summary(one.message(1), one, 0, "KL coefficient of 0.1")
    assert told.startswith(words) and told.endswith("what to try: raise this") and "rollback" not in told
    assert "2 rollbacks, the last with a KL coefficient of 0.2, did not help" in stop_summary(
        one.message(1), one, 2, "KL coefficient of 0.2"
    )


# What the reward model's trust report asks for


def test_what_the_verdict_asks_for_is_set_and_only_ever_stricter() -> None:
    asks = [NeededGuard(guard=name, threshold=value, reason=why) for why, told in GUARDS_FOR.items() for name, value in told]
    for one in asks:
        assert one.guard in get_args(GuardName)
        found = guard_rules(asked(kl={"budget": 20.0}), [one])
        default = guard_rules(asked(kl={"budget": 20.0}))[one.guard].threshold
        beyond = found[one.guard].threshold > default if one.guard in RELATIVE_GUARDS else found[one.guard].threshold < default
        assert found[one.guard].threshold == one.threshold and beyond, one
        assert {name: rule for name, rule in found.items() if name != one.guard} == {
            name: rule for name, rule in guard_rules(asked(kl={"budget": 20.0})).items() if name != one.guard
        }
    # A budget that is smaller already stays, and what the config says of a guard goes before what is asked.
    needed = [
        NeededGuard(guard=name, threshold=0.1 if name == "mode_response_rate" else 10.0, reason="x")
        for name in ("mode_response_rate", "kl_budget")
    ]
    rules = guard_rules(asked(guards={"mode_response_rate": {"threshold": 0.4}}), needed)
    assert (rules["kl_budget"].threshold, rules["mode_response_rate"].threshold) == (6.0, 0.4)
    assert guard_rules(asked(guards="off"), needed)["mode_response_rate"].action == "off"


# What is not finite


def test_what_is_not_finite_is_refused_at_once_and_counted_in_a_row() -> None:
    watch = guards()
    (told,) = watch.count_non_finite()
    assert (told.guard, told.action) == ("non_finite", "rollback")
    assert told.message(3) == f"non_finite after 3 updates: {GUARDS['non_finite'].explanation}"
    watch = guards(guards={"non_finite": {"patience": 2, "action": "warn"}})
    assert watch.count_non_finite() == []
    watch.check_batch(GOOD)
    assert watch.count_non_finite() == [] and names(watch.count_non_finite()) == ["non_finite"]


# Length that pays


@pytest.mark.parametrize(
    ("correlation", "count", "sure"),
    [
        (0.9, 100, 0.8235),  # atanh 1.47222 less 0.30461, tanh
        (-0.9, 100, 0.8235),
        (0.9, 12, 0.4400),  # 3 / sqrt(9) = 1: atanh 1.47222 - 1, tanh
        (0.9, 8, 0.1299),  # 3 / sqrt(5) = 1.34164
        (0.2, 100, 0.0),
        (1.0, 3, 0.0),
        (1.0, 4, 1.0),
    ],
)
def test_how_far_from_nothing_a_correlation_surely_is(correlation: float, count: int, sure: float) -> None:
    assert significant_correlation(correlation, count) == pytest.approx(sure, abs=2e-4)


def test_a_small_batch_says_nothing_of_length() -> None:
    watch = Guards(guard_rules(asked()), max_new_tokens=50, batch_size=8, advice=ADVICE)
    assert [watch.check_batch({**GOOD, "length_correlation": 0.95}) for _ in range(9)] == [[]] * 9


def test_short_answers_that_pay_are_seen_too() -> None:
    watch = guards()
    told = [watch.check_batch({**GOOD, "length_correlation": -0.9}) for _ in range(2)][-1]
    assert [(one.guard, one.value, one.threshold) for one in told] == [("score_length_correlation", -0.9, -0.6)]


def test_who_pays_for_length_by_a_function_knows_it() -> None:
    watch = Guards(guard_rules(asked()), max_new_tokens=50, batch_size=100, advice=ADVICE, learned_reward=False)
    assert [watch.check_batch({**GOOD, "length_correlation": 0.99}) for _ in range(9)] == [[]] * 9


# The first batches


def test_the_first_updates_set_what_the_others_are_held_to() -> None:
    watch = fresh()
    for length in (10.0, 30.0, 35.0):
        watch.check_batch({**GOOD, "length": length})
    watch.check_batch({**GOOD, "eos_rate": 0.1, "length": 1.0})
    assert watch.first == pytest.approx({"eos_rate": 0.8, "distinct_2": 0.6, "length": 25.0})
    # Where no answer ended in the first updates, none need end later.
    never = fresh()
    assert [never.check_batch({**GOOD, "eos_rate": 0.0}) for _ in range(9)] == [[]] * 9


def test_a_lucky_first_batch_trips_nothing() -> None:
    """Of two answers both ended at first, then one or none: chance, that the mean of the first updates knows."""
    watch = fresh()
    shares = (1.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0, 0.5)
    assert [watch.check_batch({**GOOD, "eos_rate": share}) for share in shares] == [[]] * len(shares)


def test_what_does_not_compare_trips_from_the_first_update_on() -> None:
    watch = fresh()
    assert [names(watch.check_batch({**GOOD, "kl": 7.0})) for _ in range(3)] == [[], [], ["kl_budget"]]


@pytest.mark.parametrize("seen", range(BEGINNING + 1))
def test_a_state_taken_among_the_first_updates_goes_on_where_it_was(seen: int) -> None:
    rows = [{**GOOD, "length": length} for length in (10.0, 30.0, 35.0, *[4.9] * 3)]
    straight, watch, other = fresh(), fresh(), fresh()
    expected = [straight.check_batch(row) for row in rows]
    found = [watch.check_batch(row) for row in rows[:seen]]
    other.load(json.loads(json.dumps(watch.state())))
    assert found + [other.check_batch(row) for row in rows[seen:]] == expected
    assert names(expected[-1]) == ["length"] and expected[-2] == []


def test_streaks_of_different_guards_do_not_add_up() -> None:
    watch = guards()
    assert [watch.check_batch(beyond(name)) for name in LIMITS] == [[]] * len(LIMITS)


@pytest.mark.parametrize("seen", range(3))
def test_a_state_taken_and_loaded_goes_on_where_it_was(seen: int) -> None:
    bad = {**GOOD, "length": 1.0}
    watch, other = guards(), fresh()
    for _ in range(seen):
        watch.check_batch(bad)
    other.load(json.loads(json.dumps(watch.state())))
    assert (other.first, other.streaks) == (watch.first, watch.streaks)
    told = [bool(other.check_batch(bad)) for _ in range(3 - seen)]
    assert told == [*[False] * (2 - seen), True]


# What evaluations tell


def look_and_evaluate(watch: Guards, paid: float, /, **measures: list[float]) -> Any:
    """Two updates of that score, then an evaluation."""
    assert [watch.check_batch({**GOOD, "score": paid}) for _ in range(2)] == [[]] * 2
    return watch.check_evaluation(measures)


def around(mean: float, spread: float = 0.0, count: int = 64, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    found = [rng.gauss(0.0, spread) for _ in range(count)]
    return [mean + value - sum(found) / count for value in found]


@pytest.mark.parametrize(("measure", "low"), [("score", 0.3), ("gold", 5.0)])
def test_a_reward_that_rises_in_training_and_falls_on_held_out_prompts_trips(measure: str, low: float) -> None:
    watch = fresh()
    fine = {"score": around(1.0), "gold": around(6.0)}
    assert watch.check_evaluation(fine) == []
    told = [look_and_evaluate(watch, 0.5 + 0.1 * i, **{**fine, measure: around(low)}) for i in range(3)]
    assert told[:-1] == [[]] * 2  # the first only tells what the batches' score was at the start
    (last,) = told[-1]
    assert last.guard == f"eval_{measure}"
    assert last.value == pytest.approx(low - {"score": 1.0, "gold": 6.0}[measure])


@pytest.mark.parametrize("measure", ["score", "gold"])
def test_evaluations_follow_what_is_asked(measure: str) -> None:
    fine = {"score": around(1.0), "gold": around(6.0)}
    worse = {**fine, measure: around(fine[measure][0] - 0.8)}
    guard = f"eval_{measure}"
    for changed, trips in (
        ({"threshold": 0.7}, [[], [], [guard]]),
        ({"threshold": 0.9}, [[]] * 3),
        ({"patience": 1}, [[], [guard], [guard]]),
        ({"action": "off"}, [[]] * 3),
    ):
        watch = fresh(guards={guard: changed})
        watch.check_evaluation(fine)
        assert [names(look_and_evaluate(watch, 0.5 + 0.1 * i, **worse)) for i in range(3)] == trips


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
    watch = fresh()
    found = [look_and_evaluate(watch, score, gold=around(gold)) for score, gold in zip(scores, golds, strict=True)]
    assert found == [[]] * len(found)


def test_a_fall_within_the_noise_of_the_prompts_is_none() -> None:
    for spread, trips in ((1.0, True), (4.0, False)):  # standard errors of the difference: about 0.18 and 0.7
        watch = fresh()
        told = [look_and_evaluate(watch, 0.1, gold=around(6.0, spread, seed=9))]
        told += [look_and_evaluate(watch, 0.2 + i, gold=around(5.0, spread, seed=i)) for i in range(4)]
        assert any(told) == trips


def test_a_few_prompts_must_fall_further_to_be_believed() -> None:
    """Three standard errors of many prompts are as sure as 19.2 of three, by a table of Student's t at 0.99865."""
    assert noise_margin([0.0, 1.0, 2.0]) == pytest.approx(19.207 / 3**0.5, rel=1e-3)
    assert noise_margin([0.5] * 10) == 0 and noise_margin([0.5]) == math.inf, "one prompt tells nothing"
    many = [float(i % 2) for i in range(4000)]
    assert noise_margin(many) == pytest.approx(3.0 * 0.5 / 4000**0.5, rel=2e-3)


@pytest.mark.slow
def test_healthy_runs_of_noise_alone_go_on() -> None:
    """200 runs of 30 evaluations of a policy whose answers stay as they are, with a training reward that rises."""
    for run in range(200):
        watch, level = fresh(), around(6.0, 2.0, seed=-run - 1)
        for index in range(30):
            noise = around(0.0, 2.0, seed=1000 * run + index)
            rng = random.Random(index + 1000 * run)
            golds = [a + b + rng.gauss(0.0, 2.0 / 8) for a, b in zip(level, noise, strict=True)]
            assert look_and_evaluate(watch, 0.1 * index, gold=golds) == []


def test_what_is_not_finite_is_compared_with_nothing() -> None:
    watch = fresh()
    assert watch.check_evaluation({"score": [float("nan"), 1.0]}) == []
    assert watch.best == {}


@pytest.mark.parametrize("seen", range(5))
def test_a_state_taken_between_evaluations_goes_on_where_it_was(seen: int) -> None:
    steps = [(0.1 * i, around(6.0 - i, 0.5, seed=i)) for i in range(5)]
    straight, watch, other = fresh(), fresh(), fresh()
    expected = [look_and_evaluate(straight, score, gold=golds) for score, golds in steps]
    found = [look_and_evaluate(watch, score, gold=golds) for score, golds in steps[:seen]]
    watch.check_batch({**GOOD, "score": 0.7})
    other.load(json.loads(json.dumps(watch.state())))
    assert other.state() == watch.state()
    other.scores.pop()
    assert found + [look_and_evaluate(other, score, gold=golds) for score, golds in steps[seen:]] == expected
    assert any(expected)


def test_answers_that_were_long_from_the_start_may_stay_so() -> None:
    watch = fresh()
    assert [watch.check_batch({**GOOD, "length": length}) for length in (26.0, 26.0, 26.0, *[50.0] * 5)] == [[]] * 8


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
    assert mode_response_rate(list(prompts), responses) == share


# Gates

EXACT = Drift(mean=0.0, most=0.0)
AT_ZERO = StepZero(kl=0.0, ratio_error=0.0, clip_fraction=0.0, clip_range=0.2, sampler=EXACT, rounding=EXACT, score=EXACT)
ROUNDED = Drift(mean=0.003, most=0.08)  # as measured of the packaged model in bf16: lab/learning.md#bf16-readings
MEAN, MOST = SMALL + MEAN_TIMES * ROUNDED.mean, SMALL + MOST_TIMES * ROUNDED.most


def failed(**changed: Any) -> list[str]:
    return [gate.name for gate in step_zero_gates(replace(AT_ZERO, **changed)) if gate.verdict == "fail"]


def test_gates_of_step_zero_are_these() -> None:
    found = step_zero_gates(AT_ZERO)
    assert [gate.name for gate in found] == ["step0_kl", "step0_ratio", "step0_clip", "step0_sampler", "step0_score"]
    assert {gate.verdict for gate in found} == {"ok"}
    assert all("stage at fault" in gate.advice for gate in found)
    assert [gate.name for gate in step_zero_gates(replace(AT_ZERO, score=None))][-1] == "step0_sampler"


@pytest.mark.parametrize("rounding", [EXACT, ROUNDED])
@pytest.mark.parametrize(
    ("name", "field"), [("kl", "kl"), ("ratio", "ratio_error"), ("sampler", "sampler"), ("score", "score")]
)
def test_each_gate_of_step_zero_at_its_limit(rounding: Drift, name: str, field: str) -> None:
    mean, most = (MEAN, MOST) if rounding is ROUNDED and name != "kl" else (SMALL, SMALL)
    also = {"rounding": rounding, "score_rounding": rounding}
    if name in ("kl", "ratio"):
        assert failed(**also, **{field: most}) == []
        for beyond in (most * 1.01, math.nan):
            assert failed(**also, **{field: beyond}) == [f"step0_{name}"]
        return
    assert failed(**also, **{field: Drift(mean=mean, most=most)}) == []
    for beyond in (
        Drift(mean=mean * 1.01, most=mean * 1.01),
        Drift(mean=0.0, most=most * 1.01),
        Drift(mean=0.0, most=math.nan),
    ):
        assert failed(**also, **{field: beyond}) == [f"step0_{name}"]


def test_a_clipped_token_before_any_step_fails() -> None:
    assert failed(clip_fraction=0.01) == ["step0_clip"]
    assert failed(clip_fraction=0.01, rounding=ROUNDED, clip_range=0.3) == ["step0_clip"]
    assert failed(clip_fraction=0.01, rounding=ROUNDED, clip_range=0.1) == [], "a clip within the rounding says nothing"


def test_how_far_apart_by_hand() -> None:
    found = Drift.between(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.25, -2.0, -0.5]))
    assert (found.mean, found.most) == (1.25 / 3, 1.0)
    assert Drift.between(torch.zeros(0), torch.zeros(0)) == EXACT


FIGURES = {
    "reward_sft": 0.1,
    "reward_best": 0.5,
    "best_step": 4,
    "updates": 9,
    "kl": 3.0,
    "kl_last": 3.5,
    "rollbacks": 0,
    "stopped": "",
}
START = tuple(around(0.1, 1.0))
GAINED = tuple(value + 0.4 + noise for value, noise in zip(START, around(0.0, 0.5, seed=1), strict=True))  # +0.4, 0.06 sure


def gates(changed: dict[str, Any] | None = None, /, rl: dict[str, Any] | None = None, **outcome: Any) -> list[Any]:
    found = {"start": START, "best": GAINED, "last": GAINED, "evaluations": 3, **outcome}
    required_section = asked(**(rl or {}))
    budget = kl_budget(guard_rules(required_section), required_section)
    return final_gates({**FIGURES, **(changed or {})}, required_section, RlOutcome(**found), budget)


@pytest.mark.parametrize(
    ("changed", "verdicts"),
    [
        ({}, ["ok", "ok", "ok"]),
        ({"kl_last": 6.0}, ["ok", "ok", "ok"]),
        ({"kl_last": 6.1}, ["ok", "warn", "ok"]),
        ({"kl_last": float("nan")}, ["ok", "warn", "ok"]),
        ({"stopped": "length is 1"}, ["ok", "ok", "warn"]),
        ({"rollbacks": 2}, ["ok", "ok", "warn"]),
    ],
)
def test_final_gates(changed: dict[str, Any], verdicts: list[str]) -> None:
    found = gates(changed)
    assert [gate.name for gate in found] == ["rl_improves", "rl_kl_budget", "rl_unstopped"]
    assert [gate.verdict for gate in found] == verdicts
    if changed.get("rollbacks"):
        assert "put the run back to its best model twice" in found[-1].message


@pytest.mark.parametrize(
    ("guard", "budget", "named"),
    [
        ({}, 6.0, "rl.kl.budget"),
        ({"threshold": 2.0}, 2.0, "rl.guards.kl_budget.threshold"),
        ({"threshold": 8.0}, 8.0, "rl.guards.kl_budget.threshold"),
        ({"threshold": 2.0, "action": "off"}, 6.0, "rl.kl.budget"),
    ],
)
def test_the_budget_is_the_guard_s_where_it_watches(guard: dict[str, Any], budget: float, named: str) -> None:
    rl = {"guards": {"kl_budget": guard}}
    within, beyond = (gates({"kl_last": kl}, rl=rl)[1] for kl in (budget, budget + 0.1))
    assert (within.verdict, beyond.verdict, beyond.threshold) == ("ok", "warn", budget)
    assert f"or {named} if" in beyond.advice


def test_a_gain_within_the_noise_is_none_and_a_loss_within_it_neither() -> None:
    """Two of 64 prompts lost their reward of 1: mean -0.031, 95 % from -0.07 to 0.01. The rate is not to blame."""
    lucky, lost = (1.0, 0.75, *[0.0] * 62), tuple([0.0] * 64)
    figures = {"reward_sft": 1.75 / 64, "reward_best": 1.75 / 64, "best_step": 0, "updates": 4}
    gate = gates(figures, start=lucky, best=lucky, last=lost)[0]
    assert gate.verdict == "warn" and "0.027 -> 0.000 after 4 updates" in gate.message
    assert "within noise" in gate.message and "would probably be seen" in gate.message
    assert "worse than it began" not in gate.advice and "rl.eval_prompts" in gate.advice
    # The same prompts as a gain: no more than chance either, however large the mean looks.
    assert gates(start=lost, best=lucky, last=lucky)[0].verdict == "warn"


def test_one_prompt_has_a_change_and_no_interval() -> None:
    """Infinite ends would come back from summary.json as text."""
    outcome = RlOutcome(start=(0.5,), best=(0.75,), last=(0.75,), evaluations=2)
    assert outcome.figures(of_pairs=False) == {"reward_change": 0.25}
    assert outcome.figures(of_pairs=True) == {"pair_loss_change": -0.25}


def test_a_rise_of_which_nothing_is_kept_names_the_limits_that_excluded_it() -> None:
    """Not `raise rl.episodes`: more of the same would be excluded as well."""
    advice = gates({"best_step": 0}, start=START, best=START, last=GAINED)[0].advice
    assert "rl.kl.budget" in advice and "rl.guards.mode_response_rate.threshold" in advice and "rl.episodes" not in advice
    assert "rl.episodes" in gates({"best_step": 0}, start=START, best=START, last=START)[0].advice  # nothing rose


def test_a_dpo_that_keeps_its_start_tells_where_the_last_model_went() -> None:
    """Losses 0.5 and 0.7 before, 0.6 and 0.9 at the end: the start, 0.6, is kept, and 0.75 is 0.15 worse."""
    start, last = (-0.5, -0.7), (-0.6, -0.9)
    figures = {"pair_loss_first": 0.6, "pair_loss_best": 0.6, "best_step": 0, "updates": 7}
    told = gates(figures, {"algorithm": "dpo"}, start=start, best=start, last=last)[0].message
    assert "0.600 -> 0.750 after 7 updates; gained: -0.150" in told and told.endswith("none is kept")
    figures |= {"pair_loss_best": 0.4, "best_step": 3}
    told = gates(figures, {"algorithm": "dpo"}, start=start, best=(-0.3, -0.5), last=last)[0].message
    assert "0.600 -> 0.400 (update 3 of 7); gained: +0.200" in told


def test_the_best_of_many_evaluations_was_lucky_too() -> None:
    rise = tuple(value + 0.15 + noise for value, noise in zip(START, around(0.0, 0.5, seed=1), strict=True))
    assert [gates(best=rise, evaluations=count)[0].verdict for count in (2, 60)] == ["ok", "warn"]


def test_a_policy_that_surely_got_worse_is_not_advised_a_higher_rate() -> None:
    worse = tuple(value - 1.0 + noise for value, noise in zip(START, around(0.0, 0.5, seed=2), strict=True))
    for outcome in ({"last": worse}, {"is_ruined": True}):
        assert "lower rl.learning_rate or raise rl.kl.coefficient" in gates(best=START, **outcome)[0].advice
    assert "raise rl.episodes" in gates(best=START, last=START)[0].advice
    assert "lower rl.learning_rate or raise rl.beta" in gates(rl={"algorithm": "dpo"}, best=START, last=worse)[0].advice


def test_a_run_without_anything_to_learn_says_so() -> None:
    found = gates(rl={"algorithm": "grpo"}, best=START, last=START, zero_variance=1.0)[0]
    assert found.verdict == "warn" and "in 100% of the groups all answers had the same score" in found.message
    assert "nothing could be learnt" in found.advice and "rl.group_size" in found.advice
    assert "equal scores" not in gates(best=START, last=START, zero_variance=0.4)[0].advice


def test_answers_that_never_end_are_told_before_their_equal_scores() -> None:
    found = gates(rl={"algorithm": "grpo", "max_new_tokens": 9}, best=START, last=START, eos_rate=0.0, zero_variance=1.0)[0]
    assert found.advice.startswith("no held-out answer ended within 9 tokens: raise rl.max_new_tokens")
    assert "rl.missing_eos_penalty" in found.advice and "equal scores" not in found.advice
    assert "ended within" not in gates(best=START, last=START, eos_rate=0.1)[0].advice


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo", "dpo"])
@pytest.mark.parametrize("rewards", [[], [{"name": "mine", "function": "my_rewards:right"}]])
def test_advice_names_settings_that_the_algorithm_has_and_gates_that_the_run_has(algorithm: str, rewards: list[Any]) -> None:
    rl = {"algorithm": algorithm, "rewards": rewards}
    required_section = asked(**rl)
    told = [*guard_advice(required_section).values(), *(gate.advice for gate in gates(rl=rl, best=START, last=START))]
    told.append(gates(rl=rl, best=START, is_ruined=True)[0].advice)
    settings = {name for text in told for name in re.findall(r"\brl\.([a-z_]+(?:\.[a-z_]+)?)", text)}
    assert settings and all(required_section.uses(name) for name in settings), settings
    assert ("{" in "".join(told)) is False
    assert any("reward model's gates" in text or "reward/trust.json" in text for text in told) == (not rewards)
