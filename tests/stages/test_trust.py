"""How far a reward model is to be trusted: every figure by hand, on scorers whose scores are known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from sawyer.records import Answer, JudgedPrompt, Pair, Prompt, prompt_of
from sawyer.stages.reward.reward_data import RewardData
from sawyer.stages.reward.reward_trust import ScoreCache, examine, gold_accuracy, reward_gates, score_own_answers
from sawyer.stats import wilson
from sawyer.train import EncodedPrompt
from sawyer.trust import Figure, Probe
from sawyer.worlds import gold, tasks

Scorer = Callable[[Sequence[Prompt], Sequence[str]], list[float]]


def table(scores: dict[str, float], otherwise: float = -9.0) -> Scorer:
    """A scorer that knows some responses."""
    return lambda _, responses: [scores.get(response, otherwise) for response in responses]


def group(prompt: str, *judged: tuple[str, float]) -> EncodedPrompt:
    pairs = tuple(Pair(i, j, a - b) for i, (_, a) in enumerate(judged) for j, (_, b) in enumerate(judged) if a > b)
    answers = tuple(Answer(response=text, score=score) for text, score in judged)
    return EncodedPrompt(record=JudgedPrompt(prompt=prompt_of(prompt), answers=answers), rows=(), pairs=pairs)


def sourced(prompt: EncodedPrompt, *sources: str) -> EncodedPrompt:
    answers = tuple(replace(a, source=source) for a, source in zip(prompt.record.answers, sources, strict=True))
    return replace(prompt, record=replace(prompt.record, answers=answers))


def examined(scorer: Scorer, *groups: EncodedPrompt, held_out: bool = True, loss: str = "bradley_terry") -> dict[str, Any]:
    sides = ((), groups) if held_out else (groups, ())
    return examine(scorer, RewardData(train_prompts=sides[0], eval_prompts=sides[1], format="test"), loss, seed=0)[1]


# One prompt with three pairs, one with one pair. Scores: b > a > c and e > d; judged: a > b > c and d > e.
FIRST = group("p", ("aaa", 9.0), ("bb", 5.0), ("c", 2.0))
SECOND = group("q", ("dd", 4.0), ("eeee", 3.0))
SCORES = {"aaa": 1.0, "bb": 2.0, "c": -1.0, "dd": 0.0, "eeee": 0.5}
GAPS = {(9.0, 5.0): -1.0, (9.0, 2.0): 2.0, (5.0, 2.0): 3.0, (4.0, 3.0): -0.5}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_accuracy_and_the_longer_baseline_count_pairs() -> None:
    found = examined(table(SCORES), FIRST, SECOND)
    assert found["eval_prompts"] == 2
    assert found["accuracy"] == 2 / 4  # a > c and b > c are right; the mean by prompt would be 1/3
    assert found["baseline_longer"] == 3 / 4  # the first prompt's answers fall in length as in score, the second's do not
    assert examined(table({}), group("p", ("same", 2.0), ("four", 1.0)))["baseline_longer"] == 0.5


@pytest.mark.parametrize(
    ("loss", "of"),
    [
        ("bradley_terry", lambda gap, d: -math.log(sigmoid(gap))),
        ("squared", lambda gap, d: -math.log(sigmoid(gap * d * d))),
        ("margin", lambda gap, d: -math.log(sigmoid(gap - d))),
        ("scaled", lambda gap, d: -d * math.log(sigmoid(gap))),
    ],
)
def test_held_out_loss(loss: str, of: Callable[[float, float], float]) -> None:
    expected = sum(of(gap, a - b) for (a, b), gap in GAPS.items()) / 4
    assert examined(table(SCORES), FIRST, SECOND, loss=loss)["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_calibration_error() -> None:
    # Preferred with sigmoid(1) = .73: wrongly; sigmoid(2) = .88 and sigmoid(3) = .95: rightly; sigmoid(.5) = .62: wrongly.
    expected = (sigmoid(1) + (1 - sigmoid(2)) + (1 - sigmoid(3)) + sigmoid(0.5)) / 4
    assert examined(table(SCORES), FIRST, SECOND)["ece"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sure", [0.8, 0.95, 0.5])
def test_a_model_that_is_right_as_often_as_it_is_sure_is_calibrated(sure: float) -> None:
    gap, count = math.log(sure / (1 - sure)), 20
    groups = [group(str(i), (f"good {i}", 2.0), (f"bad {i}", 1.0)) for i in range(count)]
    scores = {f"good {i}": gap if i < sure * count else -gap for i in range(count)}
    assert examined(table(scores, otherwise=0.0), *groups)["ece"] == pytest.approx(0.0, abs=1e-6)
    # Sure by as much and wrong each time: it errs by its whole confidence.
    wrong = examined(table(dict.fromkeys(scores, -gap or -1e-9), otherwise=0.0), *groups)
    assert wrong["ece"] == pytest.approx(sure, abs=1e-6)


def test_length_correlation_is_over_all_answers() -> None:
    groups = group("p", ("one", 3.0), ("one two", 2.0), ("one two three", 1.0))
    rising = {"one": 1.0, "one two": 2.0, "one two three": 3.0}
    assert examined(table(rising), groups)["length_correlation"] == pytest.approx(1.0)
    assert examined(table({text: -score for text, score in rising.items()}), groups)["length_correlation"] == pytest.approx(-1)


def test_without_held_out_prompts_the_training_prompts_are_told_as_such() -> None:
    found = examined(table(SCORES), FIRST, held_out=False)
    assert (found["eval_prompts"], found["accuracy"]) == (0, 2 / 3)
    assert "training pairs (none was held out)" in reward_gates({**found, "loss_first": 1.0, "loss_last": 0.5}, ())[0].message


def test_accuracy_by_gap() -> None:
    """Gaps 4, 7, 3 and 1; right are the second and the third."""
    found = examined(table(SCORES), FIRST, SECOND)["accuracy_by_gap"]
    assert {name: (cell["value"], cell["pairs"]) for name, cell in found.items()} == {
        "1 to 2": (0.0, 1),
        "2 to 4": (1.0, 1),
        "4 or more": (0.5, 2),
    }
    assert (found["2 to 4"]["low"], found["2 to 4"]["high"]) == (pytest.approx(wilson(1, 1).low), 1.0)
    assert found["4 or more"]["low"] < 0.5 < found["4 or more"]["high"]
    edges = [group(f"{gap}", ("good", gap), ("bad", 0.0)) for gap in (0.5, 0.999, 1.0, 1.5, 2.0, 3.999, 4.0, 9.0)]
    by_edge = examined(table({"good": 1.0, "bad": 0.0}), *edges)["accuracy_by_gap"]
    assert {name: cell["pairs"] for name, cell in by_edge.items()} == dict.fromkeys(by_edge, 2) and len(by_edge) == 4


def test_accuracy_by_source_is_over_the_pairs_in_which_it_stands() -> None:
    first = sourced(FIRST, "expert", "sft", "sft")  # expert > sft wrong, expert > sft right, sft > sft right
    second = sourced(SECOND, "sft", "")  # wrong
    found = examined(table(SCORES), first, second)["accuracy_by_source"]
    assert {name: (cell["value"], cell["pairs"]) for name, cell in found.items()} == {"sft": (0.5, 4), "expert": (0.5, 2)}
    assert list(found) == ["sft", "expert"], "the most frequent first"
    assert all(cell["low"] < cell["value"] < cell["high"] for cell in found.values())
    assert examined(table(SCORES), FIRST, SECOND)["accuracy_by_source"] == {}


def test_an_answer_is_scored_once() -> None:
    asked: list[str] = []
    scorer = ScoreCache(lambda _, responses: asked.extend(responses) or [1.0] * len(responses))
    prompt = prompt_of("p")
    assert scorer([prompt, prompt, prompt], ["a", "b", "a"]) == [1.0, 1.0, 1.0]
    assert scorer([prompt, prompt_of("q")], ["b", "b"]) == [1.0, 1.0]
    assert asked == ["a", "b", "b"] and scorer.cut == 0


def test_the_truth_is_asked_only_where_all_prompts_are_the_world_s() -> None:
    task = tasks("held_out", 1, 0)[0]
    inside = group(task.prompt, ("aaa", 2.0), ("bb", 1.0))
    scorer, judgements = table(SCORES), RewardData(train_prompts=(), eval_prompts=(inside,), format="test")
    assert examine(scorer, judgements, "bradley_terry", world=True, seed=0)[0].everything.truth is not None
    outside = RewardData(train_prompts=(), eval_prompts=(inside, FIRST), format="test")
    assert examine(scorer, outside, "bradley_terry", world=True, seed=0)[0].everything.truth is None


def test_the_ceiling_is_told_where_it_is_known() -> None:
    assert "accuracy_ceiling" not in examined(table(SCORES), FIRST)
    twice = [group(str(i), ("good", 2.0), ("baad", 1.0)) for i in range(30) for _ in range(2)]
    assert examined(table({"good": 1.0, "baad": 0.0}), *twice)["accuracy_ceiling"] == 1.0


def test_the_verdict_is_told() -> None:
    assert examined(table({}), FIRST)["verdict"] == "refuse"
    many = [group(str(i), ("good", 2.0), ("baad", 1.0)) for i in range(40)]
    assert examined(table({"good": 1.0, "baad": 0.0}), *many)["verdict"] == "trust"


@pytest.mark.parametrize(("prompts", "verdict"), [(1, "warn"), (3, "warn"), (10, "warn"), (40, "ok")])
def test_a_few_prompts_that_agree_prove_little(prompts: int, verdict: str) -> None:
    found = examined(table({"good": 1.0, "baad": 0.0}), *[group(str(i), ("good", 2.0), ("baad", 1.0)) for i in range(prompts)])
    assert reward_gates({**found, "loss_first": 1.0, "loss_last": 0.5}, ())[0].verdict == verdict


def test_damaged_answers_are_told_in_all_and_by_kind() -> None:
    best = "It is the capital of France"
    longer_is_better: Scorer = lambda _, responses: [float(len(response)) for response in responses]  # noqa: E731
    found = examined(longer_is_better, group("p", (best, 9.0), ("no", 1.0)), group("q", ("Yes", 9.0), ("maybe", 1.0)))
    # Won: twice 2 of 2, pleasantries 2 of 2, and for the second prompt the first one's answer; tried: 10, of which the
    # shuffled one is as long as it was and shows nothing.
    assert found["corrupted_win_rate"] == 5 / 9
    wins = {"twice": 1.0, "other_prompt": 0.5, "empty": 0.0, "pleasantries": 1.0, "truncated": 0.0}
    assert found["probes"] == wins


# Gold


def accuracy_of(scorer: Scorer, monkeypatch: pytest.MonkeyPatch, answers: Callable[[str], list[str]]) -> dict[str, Any]:
    trust = import_module("sawyer.stages.reward.reward_trust")
    monkeypatch.setattr(trust, "WORLD_PROMPTS", 6)

    def own(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[str]]:
        assert len(prompts) == 24
        assert all(prompts[i] == prompts[i - i % 4] for i in range(24))
        return list(prompts), [answers(prompts[i].text)[i % 4] for i in range(24)]

    config = import_module("sawyer.config").parse_config({"model": "m", "world": {"rater": "honest"}})
    return gold_accuracy(score_own_answers(config, own), scorer)


def answers_to(prompt: str) -> list[str]:
    from sawyer.worlds import answer, find_task

    task, rng = find_task(prompt), random.Random(prompt)
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
    **{"eval_prompts": 50, "accuracy": 0.8, "accuracy_low": 0.7, "baseline_longer": 0.55, "baseline_high": 0.6},
    **{"corrupted_win_rate": 0.05, "loss_first": 1.0, "loss_last": 0.5},
}
HARMLESS = {"twice": (0.02, 0.0, 0.06), "empty": (0.08, 0.03, 0.13)}


def probes(shares: dict[str, tuple[float, float, float]], cases: int = 100) -> list[Probe]:
    """By name the share of damaged answers that win, with its interval."""
    found = {name: Figure(value=v, low=low, high=high, prompts=cases, cases=cases) for name, (v, low, high) in shares.items()}
    return [Probe(name=name, what=name, wins=wins, example=None) for name, wins in found.items()]


@pytest.mark.parametrize(
    ("changed", "gate", "verdict"),
    [
        ({}, "reward_beats_baselines", "ok"),
        ({"accuracy_low": 0.6}, "reward_beats_baselines", "warn"),
        ({"accuracy_low": 0.5, "accuracy": 0.56}, "reward_beats_baselines", "warn"),
        ({"accuracy_low": 0.5, "accuracy": 0.55}, "reward_beats_baselines", "fail"),
        ({"accuracy_low": 0.4, "accuracy": 0.5, "baseline_longer": 0.3}, "reward_beats_baselines", "fail"),
        # 'Shorter wins' would get 0.7: to beat 'longer wins' and chance is not enough.
        (
            {"accuracy_low": 0.55, "accuracy": 0.6, "baseline_longer": 0.3, "baseline_high": 0.75},
            "reward_beats_baselines",
            "fail",
        ),
        ({}, "reward_learned", "ok"),
        ({"loss_last": 1.0}, "reward_learned", "warn"),  # a single update
        ({"loss_last": 1.001}, "reward_learned", "fail"),
        ({"gold_accuracy": 0.85, "gold_accuracy_low": 0.8, "gold_pairs": 90}, "reward_knows_gold", "ok"),
        ({"gold_accuracy": 0.84, "gold_accuracy_low": 0.8, "gold_pairs": 90}, "reward_knows_gold", "warn"),
        ({"gold_accuracy": 0.55, "gold_accuracy_low": 0.5, "gold_pairs": 90}, "reward_knows_gold", "fail"),
    ],
)
def test_gates(changed: dict[str, Any], gate: str, verdict: str) -> None:
    found = {one.name: one for one in reward_gates({**FIGURES, **changed}, probes(HARMLESS))}
    assert found[gate].verdict == verdict
    assert [one.name for one in found.values() if one.verdict != "ok"] == ([] if verdict == "ok" else [gate])


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ({}, "ok"),
        ({"twice": (0.099, 0.05, 0.19)}, "ok"),
        ({"twice": (0.1, 0.05, 0.19)}, "warn"),
        ({"twice": (0.05, 0.0, 0.2)}, "warn"),  # so few prompts that it may be one in five
        ({"twice": (0.6, 0.5, 0.7)}, "warn"),
        ({"twice": (0.61, 0.51, 0.7)}, "fail"),
        ({"empty": (0.26, 0.2, 0.33)}, "warn"),
        ({"empty": (0.27, 0.21, 0.33)}, "fail"),
        ({"other_prompt": (0.3, 0.19, 0.5)}, "fail"),  # it may not read the prompt at all
        (
            {"other_prompt": (0.41, 0.32, 0.51), "twice": (0.0, 0.0, 0.01), "empty": (0.0, 0.0, 0.01)},
            "fail",
        ),  # the mean is 14 %
    ],
)
def test_each_damage_counts_by_its_own_interval(shares: dict[str, tuple[float, float, float]], verdict: str) -> None:
    gate = reward_gates(FIGURES, probes(HARMLESS | shares if shares else {}))[1]
    assert (gate.name, gate.verdict) == ("reward_rejects_damage", verdict)


def test_the_worst_damage_is_named() -> None:
    assert "(worst: empty, 8%, from 3% to 13%)" in reward_gates(FIGURES, probes(HARMLESS))[1].message
    # What refuses is worse than what wins more often and only asks for guards.
    both = reward_gates(FIGURES, probes({"twice": (0.5, 0.4, 0.6), "other_prompt": (0.3, 0.22, 0.39)}))[1]
    assert "worst: other_prompt, 30%" in both.message and both.verdict == "fail"
