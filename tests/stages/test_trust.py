"""How far a reward model is to be trusted: every figure by hand, on scorers whose scores are known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from sawyer.records import Prompt, prompt_of
from sawyer.stages.reward.data import Group, Judgements
from sawyer.stages.reward.trust import DAMAGES, _by_prompt, damaged_wins, examine, gold_accuracy, judge
from sawyer.stats import wilson
from sawyer.worlds import gold, tasks

Scorer = Callable[[Sequence[Prompt], Sequence[str]], list[float]]


def table(scores: dict[str, float], otherwise: float = -9.0) -> Scorer:
    """A scorer that knows some responses."""
    return lambda _, responses: [scores.get(response, otherwise) for response in responses]


def group(prompt: str, *judged: tuple[str, float]) -> Group:
    found = [(i, j, a - b) for i, (_, a) in enumerate(judged) for j, (_, b) in enumerate(judged) if a > b]
    return Group(prompt=prompt_of(prompt), responses=tuple(text for text, _ in judged), rows=(), pairs=tuple(found))


def examined(scorer: Scorer, *groups: Group, held_out: bool = True, loss: str = "plain") -> dict[str, Any]:
    sides = ((), groups) if held_out else (groups, ())
    return examine(scorer, Judgements(train=sides[0], held_out=sides[1], format="test"), loss, seed=0)


# One prompt with three pairs, one with one pair. Scores: b > a > c and e > d; judged: a > b > c and d > e.
FIRST = group("p", ("aaa", 9.0), ("bb", 5.0), ("c", 2.0))
SECOND = group("q", ("dd", 4.0), ("eeee", 3.0))
SCORES = {"aaa": 1.0, "bb": 2.0, "c": -1.0, "dd": 0.0, "eeee": 0.5}
GAPS = {(9.0, 5.0): -1.0, (9.0, 2.0): 2.0, (5.0, 2.0): 3.0, (4.0, 3.0): -0.5}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_accuracy_and_the_longer_baseline_count_pairs() -> None:
    found = examined(table(SCORES), FIRST, SECOND)
    assert found["held_out_prompts"] == 2
    assert found["accuracy"] == 2 / 4  # a > c and b > c are right; the mean by prompt would be 1/3
    assert found["baseline_longer"] == 3 / 4  # the first prompt's answers fall in length as in score, the second's do not
    assert examined(table({}), group("p", ("same", 2.0), ("four", 1.0)))["baseline_longer"] == 0.5


@pytest.mark.parametrize(
    ("loss", "of"),
    [
        ("plain", lambda gap, d: -math.log(sigmoid(gap))),
        ("squared", lambda gap, d: -math.log(sigmoid(gap * d * d))),
        ("margin", lambda gap, d: -math.log(sigmoid(gap - d))),
        ("scaled", lambda gap, d: -d * math.log(sigmoid(gap))),
    ],
)
def test_held_out_loss(loss: str, of: Callable[[float, float], float]) -> None:
    expected = sum(of(gap, a - b) for (a, b), gap in GAPS.items()) / 4
    assert examined(table(SCORES), FIRST, SECOND, loss=loss)["held_out_loss"] == pytest.approx(expected, rel=1e-5)


def test_calibration_error() -> None:
    # Preferred with sigmoid(1) = .73: wrongly; sigmoid(2) = .88 and sigmoid(3) = .95: rightly; sigmoid(.5) = .62: wrongly.
    expected = (sigmoid(1) + (1 - sigmoid(2)) + (1 - sigmoid(3)) + sigmoid(0.5)) / 4
    assert examined(table(SCORES), FIRST, SECOND)["calibration_error"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sure", [0.8, 0.95, 0.5])
def test_a_model_that_is_right_as_often_as_it_is_sure_is_calibrated(sure: float) -> None:
    gap, count = math.log(sure / (1 - sure)), 20
    groups = [group(str(i), (f"good {i}", 2.0), (f"bad {i}", 1.0)) for i in range(count)]
    scores = {f"good {i}": gap if i < sure * count else -gap for i in range(count)}
    assert examined(table(scores, otherwise=0.0), *groups)["calibration_error"] == pytest.approx(0.0, abs=1e-6)
    # Sure by as much and wrong each time: it errs by its whole confidence.
    wrong = examined(table(dict.fromkeys(scores, -gap or -1e-9), otherwise=0.0), *groups)
    assert wrong["calibration_error"] == pytest.approx(sure, abs=1e-6)


def test_length_correlation_is_over_all_answers() -> None:
    groups = group("p", ("one", 3.0), ("one two", 2.0), ("one two three", 1.0))
    rising = {"one": 1.0, "one two": 2.0, "one two three": 3.0}
    assert examined(table(rising), groups)["length_correlation"] == pytest.approx(1.0)
    assert examined(table({text: -score for text, score in rising.items()}), groups)["length_correlation"] == pytest.approx(-1)


def test_without_held_out_prompts_the_training_prompts_are_told_as_such() -> None:
    found = examined(table(SCORES), FIRST, held_out=False)
    assert (found["held_out_prompts"], found["accuracy"]) == (0, 2 / 3)
    assert "training pairs (none was held out)" in judge({**found, "loss_first": 1.0, "loss_last": 0.5})[0].message


def test_accuracy_by_gap() -> None:
    """Gaps 4, 7, 3 and 1; right are the second and the third."""
    found = examined(table(SCORES), FIRST, SECOND)["accuracy_by_gap"]
    assert {name: (cell["value"], cell["pairs"]) for name, cell in found.items()} == {
        "1 to 2": (0.0, 1),
        "2 to 4": (1.0, 1),
        "4 or more": (0.5, 2),
    }
    assert (found["2 to 4"]["low"], found["2 to 4"]["high"]) == (pytest.approx(wilson(1, 1).low), 1.0)
    edges = [group(f"{gap}", ("good", gap), ("bad", 0.0)) for gap in (0.5, 0.999, 1.0, 1.5, 2.0, 3.999, 4.0, 9.0)]
    by_edge = examined(table({"good": 1.0, "bad": 0.0}), *edges)["accuracy_by_gap"]
    assert {name: cell["pairs"] for name, cell in by_edge.items()} == dict.fromkeys(by_edge, 2) and len(by_edge) == 4


def test_accuracy_by_source_is_over_the_pairs_in_which_it_stands() -> None:
    first = replace(FIRST, sources=("expert", "sft", "sft"))  # expert > sft wrong, expert > sft right, sft > sft right
    second = replace(SECOND, sources=("sft", ""))  # wrong
    found = examined(table(SCORES), first, second)["accuracy_by_source"]
    assert {name: (cell["value"], cell["pairs"]) for name, cell in found.items()} == {"sft": (0.5, 4), "expert": (0.5, 2)}
    assert list(found) == ["sft", "expert"], "the most frequent first"
    assert all(cell["low"] < cell["value"] < cell["high"] for cell in found.values())
    assert examined(table(SCORES), FIRST, SECOND)["accuracy_by_source"] == {}


# Intervals


def test_the_interval_is_of_the_accuracy_that_is_told() -> None:
    """One prompt of 45 wrong pairs beside 29 of one right pair: the mean by prompt is 0.97, the share of pairs 0.39."""
    outcomes = [[0.0] * 45] + [[1.0]] * 29
    low, high = _by_prompt(outcomes, 0)
    assert low <= 29 / 74 <= high
    assert low < 0.3


def test_the_interval_is_as_wide_as_prompts_make_it() -> None:
    """Ten pairs of a prompt that all turn out alike are one observation, not ten."""
    rng = random.Random(1)
    alike = [[float(rng.random() < 0.7)] * 10 for _ in range(60)]
    low, high = _by_prompt(alike, 0)
    share = sum(map(sum, alike)) / 600
    right = wilson(share * 60, 60)
    assert (low, high) == pytest.approx((right.low, right.high), abs=0.03)
    assert high - low > 2 * (wilson(share * 600, 600).high - wilson(share * 600, 600).low)


@pytest.mark.parametrize("prompts", [1, 3, 10])
def test_a_few_prompts_that_agree_prove_little(prompts: int) -> None:
    low, high = _by_prompt([[1.0]] * prompts, 0)
    assert (low, high) == (pytest.approx(wilson(prompts, prompts).low), 1.0)
    found = examined(table({"good": 1.0, "baad": 0.0}), *[group(str(i), ("good", 2.0), ("baad", 1.0)) for i in range(prompts)])
    assert judge({**found, "loss_first": 1.0, "loss_last": 0.5})[0].verdict == "warn"


def test_many_prompts_that_agree_prove_it() -> None:
    found = examined(table({"good": 1.0, "baad": 0.0}), *[group(str(i), ("good", 2.0), ("baad", 1.0)) for i in range(40)])
    assert judge({**found, "loss_first": 1.0, "loss_last": 0.5})[0].verdict == "ok"


# Damage

BEST = "It is the capital of France"


def test_each_kind_of_damage_is_tried_on_the_best_answer() -> None:
    groups = [group("p", (BEST, 9.0), ("no", 1.0)), group("q", ("Yes", 9.0), ("maybe", 1.0))]
    seen: list[tuple[str, str]] = []

    def scorer(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        seen.extend((prompt.text, response) for prompt, response in zip(prompts, responses, strict=True))
        return [0.0] * len(responses)

    found = damaged_wins(scorer, groups, seed=0)
    of_first = [response for prompt, response in seen if prompt == "p"][1:]  # the whole answer comes first
    assert of_first[0] == f"{BEST} {BEST}"
    assert sorted(of_first[1].split()) == sorted(BEST.split())
    assert of_first[1] != BEST
    assert of_first[2:] == ["Yes", "", f"Thank you so much for this great question! {BEST} I hope this helps you!", "It is the"]
    # An answer of one word cannot be shuffled or cut.
    tried = {name: count for name, (_, count) in found.items()}
    assert tried == {"twice": 2, "shuffled": 1, "other_prompt": 2, "empty": 2, "pleasantries": 2, "truncated": 1}
    assert set(tried) == set(DAMAGES)
    assert all(wins == 0 for wins, _ in found.values()), "equal scores are no win"


def test_damaged_wins_are_counted_over_all_that_was_tried() -> None:
    groups = [group("p", (BEST, 9.0), ("no", 1.0)), group("q", ("Yes", 9.0), ("maybe", 1.0))]
    longer_is_better: Scorer = lambda _, responses: [float(len(response)) for response in responses]  # noqa: E731
    found = examined(longer_is_better, *groups)
    # Won: twice 2 of 2, pleasantries 2 of 2, and for the second prompt the first one's answer; tried: 10.
    assert found["damaged_wins"] == 5 / 10
    assert found["probes"] == {
        "twice": 1.0,
        "shuffled": 0.0,
        "other_prompt": 0.5,
        "empty": 0.0,
        "pleasantries": 1.0,
        "truncated": 0.0,
    }


def test_an_answer_damaged_into_itself_is_not_tried() -> None:
    assert damaged_wins(table({}), [group("p", ("same same same same", 2.0), ("x", 1.0))], seed=0)["shuffled"] == (0, 0)
    assert damaged_wins(table({}), [group("p", ("alone", 2.0), ("x", 1.0))], seed=0)["other_prompt"] == (0, 0)


# Gold


def accuracy_of(scorer: Scorer, monkeypatch: pytest.MonkeyPatch, answers: Callable[[str], list[str]]) -> dict[str, Any]:
    trust = import_module("sawyer.stages.reward.trust")
    monkeypatch.setattr(trust, "WORLD_PROMPTS", 6)

    def own(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[str]]:
        assert len(prompts) == 24
        assert all(prompts[i] == prompts[i - i % 4] for i in range(24))
        return list(prompts), [answers(prompts[i].text)[i % 4] for i in range(24)]

    config = import_module("sawyer.config").checked({"model": "m", "world": {"rater": "honest"}})
    return gold_accuracy(config, own, scorer)


def answers_to(prompt: str) -> list[str]:
    from sawyer.worlds import answer, find

    task, rng = find(prompt), random.Random(prompt)
    kinds = (("expert", True), ("rude", True), ("expert", False), ("off_topic", False))
    return [answer(task, kind, rng, right=right) for kind, right in kinds]


def test_gold_accuracy_counts_pairs_of_a_prompt_that_differ_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    true: Scorer = lambda prompts, texts: [gold(p.text, t).score for p, t in zip(prompts, texts, strict=True)]  # noqa: E731
    scores = [[gold(task.prompt, text).score for text in answers_to(task.prompt)] for task in tasks("held_out", 6, 0)]
    clear = sum(abs(row[i] - row[j]) >= 2.0 for row in scores for i in range(4) for j in range(i))
    found = accuracy_of(true, monkeypatch, answers_to)
    assert 0 < clear < 36
    assert (found["gold_pairs"], found["gold_accuracy"]) == (clear, 1.0)
    assert found["gold_correlation"] == pytest.approx(1.0)
    assert found["gold_accuracy_low"] == pytest.approx(wilson(clear, clear).low)
    turned = accuracy_of(lambda prompts, texts: [-s for s in true(prompts, texts)], monkeypatch, answers_to)
    assert (turned["gold_accuracy"], turned["gold_correlation"]) == (0.0, pytest.approx(-1.0))


@pytest.mark.parametrize("order", [1, -1])
def test_equal_rewards_prefer_neither(monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    """Whichever of the two comes first."""
    found = accuracy_of(lambda _, texts: [0.0] * len(texts), monkeypatch, lambda prompt: answers_to(prompt)[::order])
    assert (found["gold_accuracy"], found["gold_correlation"]) == (0.0, 0.0)


def test_without_a_clear_pair_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = accuracy_of(lambda _, texts: [0.0] * len(texts), monkeypatch, lambda prompt: answers_to(prompt)[:1] * 4)
    assert (found["gold_pairs"], found["gold_accuracy"], found["gold_accuracy_low"]) == (0, 0.5, 0.0)


# Gates

FIGURES = {
    **{"held_out_prompts": 50, "accuracy": 0.8, "accuracy_low": 0.7, "baseline_longer": 0.55, "baseline_high": 0.6},
    **{"damaged_wins": 0.05, "probes": {"twice": 0.02, "empty": 0.08}, "loss_first": 1.0, "loss_last": 0.5},
}


@pytest.mark.parametrize(
    ("changed", "gate", "verdict"),
    [
        ({}, "reward_beats_baselines", "ok"),
        ({"accuracy_low": 0.6}, "reward_beats_baselines", "warn"),
        ({"accuracy_low": 0.5, "accuracy": 0.56}, "reward_beats_baselines", "warn"),
        ({"accuracy_low": 0.5, "accuracy": 0.55}, "reward_beats_baselines", "fail"),
        ({"accuracy_low": 0.4, "accuracy": 0.5, "baseline_longer": 0.3}, "reward_beats_baselines", "fail"),
        ({}, "reward_rejects_damage", "ok"),
        ({"damaged_wins": 0.1}, "reward_rejects_damage", "warn"),
        ({"damaged_wins": 0.299}, "reward_rejects_damage", "warn"),
        ({"damaged_wins": 0.31}, "reward_rejects_damage", "fail"),
        ({"probes": {}}, "reward_rejects_damage", "ok"),
        ({}, "reward_learned", "ok"),
        ({"loss_last": 1.0}, "reward_learned", "warn"),  # a single update
        ({"loss_last": 1.001}, "reward_learned", "fail"),
        ({"gold_accuracy": 0.85, "gold_accuracy_low": 0.8, "gold_pairs": 90}, "reward_knows_gold", "ok"),
        ({"gold_accuracy": 0.84, "gold_accuracy_low": 0.8, "gold_pairs": 90}, "reward_knows_gold", "warn"),
        ({"gold_accuracy": 0.55, "gold_accuracy_low": 0.5, "gold_pairs": 90}, "reward_knows_gold", "fail"),
    ],
)
def test_gates(changed: dict[str, Any], gate: str, verdict: str) -> None:
    found = {one.name: one for one in judge({**FIGURES, **changed})}
    assert found[gate].verdict == verdict
    assert [one.name for one in found.values() if one.verdict != "ok"] == ([] if verdict == "ok" else [gate])


def test_the_worst_damage_is_named() -> None:
    assert "(worst: empty, 8%)" in judge(FIGURES)[1].message
