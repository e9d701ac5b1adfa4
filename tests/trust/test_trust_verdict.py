"""The verdict tells the truth about scorers and judges whose truth is known, and names the figure that decided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from judges import Scorer, constant_scorer, gold_scorer, judged, length_scorer, noise_scorer, record, table, truly

from sawyer.records import JudgedPrompt, Prompt
from sawyer.trust import Figure, Gap, Trust, Verdict, as_json, decide_verdict, level, trust
from sawyer.trust.verdict import holds_above


def verdict_on(scorer: Scorer, records: list[JudgedPrompt]) -> tuple[Trust, Verdict]:
    found = trust(scorer, records, truth=truly, held_out=True)
    return found, decide_verdict(found)


def names(verdict: Verdict) -> list[str]:
    return [reason.name for reason in verdict.reasons]


def test_the_truth_is_trusted_by_honest_raters() -> None:
    found, verdict = verdict_on(gold_scorer(), judged("honest", 150))
    assert (verdict.kind, verdict.above, verdict.reasons) == ("trust", None, ())
    assert verdict.words.startswith("Trust it: it ranks 9")
    assert found.everything.accuracy.low > 0.9 and found.everything.ahead.low > 0.3
    # What makes no difference to the scorer makes none in the figures either.
    tied = found.everything.length_controlled
    assert tied is not None and tied.low < 0 < tied.high


def test_a_noisy_scorer_is_trusted_for_clear_differences() -> None:
    found, verdict = verdict_on(gold_scorer(noise=2.0), judged("honest", 80))
    assert verdict.kind == "trust_above" and verdict.above in (1.0, 2.0, 4.0) and verdict.guards == ()
    assert verdict.words.startswith(f"Trust it for gaps of {verdict.above:g} and more")
    assert found.everything.by_gap[0].accuracy.low < 0.5 < found.everything.by_gap[-1].accuracy.low


@pytest.mark.parametrize("rater", ["honest", "length_lover"])
def test_length_is_named(rater: str) -> None:
    found, verdict = verdict_on(length_scorer, judged(rater, 150))
    assert (verdict.kind, names(verdict)[0]) == ("refuse", "length")
    assert "length" in verdict.words and verdict.words.startswith("Don't run RL on it, because ")
    if rater == "length_lover":
        assert found.everything.longer_wins.value > 0.95 and found.everything.best_rule == "longer wins"
    else:
        decided = verdict.reasons[0]
        assert (decided.figure, decided.value > decided.threshold) == ("length_controlled.low", True)


def test_a_scorer_that_learnt_length_from_length_lovers_is_no_better_than_the_rule() -> None:
    """At equal scores hardly any length is left, so that the correlation shows nothing; the rule does."""

    def scorer(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [len(text.split()) + 3 * x for text, x in zip(responses, noise_scorer(prompts, responses), strict=True)]

    found, verdict = verdict_on(scorer, judged("length_lover", 150))
    assert (verdict.kind, names(verdict)[0], verdict.reasons[0].figure) == ("refuse", "length", "ahead.high")
    assert found.everything.ahead.high < 0.05
    longer = found.everything.longer_wins.value
    assert longer > 0.95 and f"'longer wins' ranks {longer:.0%}".replace("%", " %") in verdict.words
    tied = found.everything.length_controlled
    assert tied is not None and tied.low < 0.5


def test_lazy_raters_teach_nothing() -> None:
    found, verdict = verdict_on(gold_scorer(), judged("lazy", 60))
    assert (verdict.kind, names(verdict)) == ("refuse", ["nothing_to_learn"])
    assert "there is nothing to learn: all scores are tied" in verdict.words
    assert found.everything.pairs == 0 and found.everything.ties > 600
    assert (verdict.reasons[0].figure, verdict.reasons[0].value) == ("pairs", 0)


def test_a_constant_and_a_noise_are_seen_for_what_they_are() -> None:
    honest = judged("honest", 150)
    assert names(verdict_on(constant_scorer, honest)[1]) == ["constant"]
    found, verdict = verdict_on(noise_scorer, honest)
    assert names(verdict)[0] == "chance" and "no better than chance" in verdict.words
    assert found.everything.accuracy.low < 0.5 and verdict.reasons[0].value == found.everything.accuracy.low
    assert {"damage_other_prompt", "damage_empty", "damage_shuffled"} <= {*names(verdict)}, "half of all damaged answers win"


@pytest.mark.slow
def test_flippers_set_a_ceiling_and_a_model_that_has_reached_it_is_not_called_bad() -> None:
    found, verdict = verdict_on(gold_scorer(), judged("flipper", 200, twice=True))
    assert found.ceiling is not None and found.ceiling.method == "repeats"
    # What these judges call the best answer of a prompt is often a bad one, which damage of another beats: guards, no more.
    assert verdict.kind == "guarded" and all(reason.name.startswith("damage_") for reason in verdict.reasons)
    assert not any(level(probe) == "refuse" for probe in found.probes)
    doubt = next(doubt for doubt in verdict.doubts if doubt.name == "ceiling")
    assert "this one may have got there" in doubt.words and doubt.value == found.ceiling.accuracy.value < 0.75
    # A bad model is still told from it.
    assert verdict_on(noise_scorer, judged("flipper", 200))[1].kind == "refuse"


def test_where_the_judges_allow_nothing_they_are_blamed_and_not_the_model() -> None:
    """Every order is given and turned round: nobody can be right more often than one time in two."""
    records = []
    for i in range(60):
        records += [record(str(i), ("good", 3.0), ("bad", 1.0)), record(str(i), ("good", 1.0), ("bad", 3.0))]
    verdict = decide_verdict(trust(table({"good": 1.0, "bad": 0.0}, otherwise=-1.0), records))
    assert names(verdict)[0] == "judges" and "contradict themselves" in verdict.words
    assert "no better than chance" not in verdict.words


@pytest.mark.parametrize(("prompts", "kind"), [(8, "refuse"), (80, "trust_above")])
def test_few_prompts_are_said_to_be_few(prompts: int, kind: str) -> None:
    _, verdict = verdict_on(gold_scorer(), judged("honest", prompts))
    assert verdict.kind == kind
    assert f"{prompts} prompts say little" in verdict.words
    if prompts == 8:
        assert names(verdict)[0] == "too_few" and verdict.reasons[0].threshold == 20


def test_an_interval_that_holds_chance_and_use_says_too_few_and_not_bad() -> None:
    """26 of 40 pairs right, from 0.50 to 0.79: not surely better than chance, not surely worse than useful."""
    records = [record(str(i), ("good", 2.0), ("poor", 1.0)) for i in range(20)]
    records += [record(f"{i}", ("poor", 2.0), ("good", 1.0)) for i in range(100, 114)]
    found = trust(table({"good": 1.0, "poor": 0.0}, otherwise=-1.0), records)
    verdict = decide_verdict(replace(found, probes=()))  # a table reads no prompt
    assert names(verdict) == ["too_few"] and "34 prompts are too few to say" in verdict.words


def test_wide_gaps_may_hold_where_all_together_do_not() -> None:
    """Of 400 pairs one point apart the judges turn every other round, of 100 pairs five points apart one in four."""
    records = []
    for i in range(500):
        wide = i >= 400
        turned = i % 4 == 0 if wide else i % 2 == 0
        low, high = ("good", "poor") if turned else ("poor", "good")
        records.append(record(str(i), (high, 6.0 if wide else 2.0), (low, 1.0)))
    found = trust(table({"good": 1.0, "poor": 0.0}, otherwise=-1.0), records)
    assert found.everything.accuracy.value == pytest.approx(0.55)
    side = replace(found.everything, accuracy=replace(found.everything.accuracy, low=0.49))
    found = replace(found, probes=())  # a table reads no prompt
    verdict = decide_verdict(replace(found, sides=(side,)))
    assert (verdict.kind, verdict.above) == ("trust_above", 4.0)
    assert "of those 4 or more apart 75 % of 100 pairs" in verdict.words
    flat = replace(side, by_gap=side.by_gap[:1])
    assert names(decide_verdict(replace(found, sides=(flat,)))) == ["chance"]


def damaged(found: Trust, **shares: tuple[float, float, float]) -> Trust:
    """The same where some kinds of damage win so often: (share, low, high)."""
    probes = []
    for probe in found.probes:
        value, low, high = shares.get(probe.name, (0.0, 0.0, 0.02))
        probes.append(replace(probe, wins=Figure(value=value, low=low, high=high, prompts=100, cases=100)))
    return replace(found, probes=tuple(probes))


def test_a_model_that_hardly_reads_the_prompt_is_refused_however_good_the_mean_is() -> None:
    """41 of 100 answers to another prompt are preferred; the six kinds together win 7 % of the time."""
    found, good = verdict_on(gold_scorer(), judged("honest", 150))
    assert (good.kind, good.guards) == ("trust", ()) and not any(doubt.name.startswith("damage") for doubt in good.doubts)
    verdict = decide_verdict(damaged(found, other_prompt=(0.41, 0.32, 0.51)))
    assert (verdict.kind, names(verdict)) == ("refuse", ["damage_other_prompt"])
    assert "it hardly reads the prompt" in verdict.words and "41 % of the time (32 % to 51 %)" in verdict.words
    assert (verdict.reasons[0].figure, verdict.reasons[0].value) == ("probes.other_prompt", 0.41)
    # For those who run RL on it all the same.
    assert {guard.guard for guard in verdict.guards} == {"mode_response_rate", "kl_budget"}


@pytest.mark.slow
def test_a_model_that_cannot_see_the_prompt_is_found_out_though_it_ranks_well() -> None:
    """Ridge regression of the judges' scores on the words of the answer alone: 64 % of pairs rightly, and all kinds of damage
    together win less than 30 % of the time."""
    train = judged("honest", 500, split="train")
    words = sorted({word for one in train for answer in one.answers for word in answer.response.lower().split()})
    place = {word: i for i, word in enumerate(words)}

    def counts(text: str) -> torch.Tensor:
        known = [place[word] for word in text.lower().split() if word in place]
        return torch.bincount(torch.tensor(known, dtype=torch.long), minlength=len(words)).float()

    rows = [(counts(a.response), (a.score or 0.0) - 5.0) for one in train for a in one.answers]
    xs, ys = torch.stack([x for x, _ in rows]), torch.tensor([y for _, y in rows])
    weights = torch.linalg.solve(xs.T @ xs + 10 * torch.eye(len(words)), xs.T @ ys)
    found, verdict = verdict_on(lambda _, texts: [float(counts(text) @ weights) for text in texts], judged("honest", 150))
    assert found.everything.accuracy.low > 0.55 and found.everything.ahead.low > 0 and found.corrupted_win_rate.value < 0.35
    other = next(probe.wins for probe in found.probes if probe.name == "other_prompt")
    assert other.value == pytest.approx(0.5, abs=0.08)
    assert verdict.kind == "refuse" and "damage_other_prompt" in names(verdict)


def test_between_trust_and_refusal_guards_are_named() -> None:
    found, _ = verdict_on(gold_scorer(), judged("honest", 150))
    verdict = decide_verdict(damaged(found, twice=(0.3, 0.22, 0.39), empty=(0.12, 0.07, 0.19)))
    assert verdict.kind == "guarded" and names(verdict) == ["damage_twice", "damage_empty"], "the worst first"
    assert verdict.words.startswith(
        "Only with these guards: distinct_2 0.5, score_length_correlation 0.4, length 0.5 "
        "(RL sets those of a run's own model); because"
    )
    assert "Trust it then: it ranks" in verdict.words and "30 % of the time" in verdict.words
    assert [(guard.guard, guard.reason) for guard in verdict.guards] == [
        ("distinct_2", "damage_twice"),
        ("score_length_correlation", "damage_twice"),
        ("length", "damage_empty"),
    ]
    # Nothing has won, but so few were tried that one in five may.
    assert decide_verdict(damaged(found, twice=(0.0, 0.0, 0.24))).kind == "guarded"


def test_of_a_few_prompts_no_damage_is_told() -> None:
    """Ten of ten damaged answers win; they refuse as too few, and not as a model that does not read the prompt."""
    found, verdict = verdict_on(noise_scorer, judged("honest", 10))
    assert names(verdict) == ["too_few"] and "hardly reads" not in verdict.words
    assert all(level(probe) != "refuse" for probe in found.probes) and any(level(probe) == "guard" for probe in found.probes)


def test_length_that_shows_asks_for_its_guard() -> None:
    found, _ = verdict_on(gold_scorer(), judged("honest", 150))
    tied = Figure(value=0.3, low=0.2, high=0.4, prompts=150, cases=900)
    verdict = decide_verdict(replace(found, sides=(replace(found.everything, length_controlled=tied),)))
    assert (verdict.kind, names(verdict)) == ("guarded", ["length"])
    assert [(guard.guard, guard.threshold) for guard in verdict.guards] == [("score_length_correlation", 0.4)]


def test_the_sft_model_s_own_answers_decide_too() -> None:
    found, _ = verdict_on(gold_scorer(), judged("honest", 150))
    bad = replace(found.everything, name="gold", accuracy=Figure(value=0.5, low=0.45, high=0.55, prompts=150, cases=900))
    verdict = decide_verdict(replace(found, sides=(*found.sides, bad)))
    assert names(verdict) == ["own_answers"] and "which RL will see" in verdict.words
    few = replace(bad, accuracy=Figure(value=0.5, low=0.3, high=0.7, prompts=40, cases=90))
    assert decide_verdict(replace(found, sides=(*found.sides, few))).kind == "trust"
    assert "own_unknown" in [doubt.name for doubt in decide_verdict(found).doubts]


def gaps(*lows_highs: tuple[float, float]) -> tuple[Gap, ...]:
    bounds = (0.0, 1.0, 2.0, 4.0)
    return tuple(
        Gap(name=str(at), low=at, high=None, accuracy=Figure(value=(a + b) / 2, low=a, high=b, prompts=50, cases=200))
        for at, (a, b) in zip(bounds, lows_highs, strict=False)
    )


@pytest.mark.parametrize(
    ("cells", "above"),
    [
        (((0.51, 0.6), (0.6, 0.7)), 0.0),
        (((0.45, 0.6), (0.6, 0.7)), 1.0),
        (((0.45, 0.6), (0.49, 0.7), (0.6, 0.8), (0.9, 1.0)), 2.0),
        (((0.6, 0.7), (0.48, 0.6), (0.6, 0.8)), 0.0),  # a class that is not sure does not spoil a finer one that is
        (((0.6, 0.7), (0.3, 0.49), (0.6, 0.8)), 2.0),  # one that is surely wrong does
        (((0.4, 0.6),), 0.0),
    ],
)
def test_from_which_gap_on_it_holds(cells: tuple[tuple[float, float], ...], above: float) -> None:
    side = trust(gold_scorer(), judged("honest", 5)).everything
    assert holds_above(replace(side, by_gap=gaps(*cells))) == above


def test_everything_goes_into_plain_values() -> None:
    found, verdict = verdict_on(gold_scorer(), judged("honest", 30))
    values = json.loads(json.dumps(as_json(found, verdict), allow_nan=False))
    assert values["verdict"]["kind"] == verdict.kind
    accuracy = values["sides"][0]["accuracy"]
    assert set(accuracy) == {"value", "low", "high", "prompts", "cases"} and accuracy["prompts"] == 30
    assert {"twice", "empty"} <= {probe["name"] for probe in values["probes"]}
    assert trust(gold_scorer(), judged("honest", 30), truth=truly, held_out=True) == found, "the same twice"
