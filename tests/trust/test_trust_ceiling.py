"""How high accuracy can get against judges who contradict themselves."""

from __future__ import annotations

import importlib
import random

import pytest
from judges import gold_scorer, judged, record, truly

from sawyer.records import JudgedPrompt, prompt_of
from sawyer.trust import trust

ceiling = importlib.import_module("sawyer.trust.accuracy_ceiling")


@pytest.mark.parametrize(("agreement", "accuracy"), [(1.0, 1.0), (0.82, 0.9), (0.52, 0.6), (0.5, 0.5), (0.4, 0.5)])
def test_from_agreement_with_oneself_to_accuracy(agreement: float, accuracy: float) -> None:
    """0.9^2 + 0.1^2 = 0.82 and 0.6^2 + 0.4^2 = 0.52; below one half there is only chance."""
    assert ceiling.most_accurate(agreement) == pytest.approx(accuracy)


def agreed(*records: JudgedPrompt) -> tuple[float, int, int]:
    found = ceiling.agreement(records, 0)
    return found.value, found.cases, found.prompts


def test_agreement_by_hand() -> None:
    first = record("p", ("a", 9.0), ("b", 5.0), ("c", 5.0))
    second = record("p", ("c", 1.0), ("b", 7.0), ("a", 8.0))
    # a > b and a > c again; b and c were equal at first, which decides nothing.
    assert agreed(first, second) == (1.0, 2, 1)
    third = record("p", ("a", 1.0), ("b", 2.0), ("d", 3.0))
    # With the first: a > b turned round; with the second too.
    assert agreed(first, second, third) == (0.5, 4, 1)
    assert agreed(first, record("q", ("a", 1.0), ("b", 2.0)))[1] == 0, "another prompt"
    turned = JudgedPrompt.ready_made(prompt_of("p"), "b", "a")
    assert agreed(JudgedPrompt.ready_made(prompt_of("p"), "a", "b"), turned) == (0.0, 1, 1)


def test_a_text_that_stands_twice_in_a_row_was_judged_twice() -> None:
    assert agreed(record("p", ("a", 9.0), ("b", 5.0), ("a", 2.0), ("b", 4.0))) == (0.0, 1, 1)
    # One judgement of b would be shared by both: they would agree too often.
    assert agreed(record("p", ("a", 9.0), ("b", 5.0), ("a", 2.0)))[1] == 0


def by_pairs_of_judgements(records: list[JudgedPrompt], *, ties: bool = False) -> tuple[float, float]:
    """(alike, cases): every pair of rows of one prompt, every two texts of both. The wrong variant counts ties as alike."""
    alike = cases = 0
    for i, one in enumerate(records):
        for other in records[i + 1 :]:
            if one.prompt.text != other.prompt.text:
                continue
            first, second = (dict(zip(r.responses, r.scores, strict=True)) for r in (one, other))
            shared = sorted(first.keys() & second.keys())
            for a, b in ((a, b) for k, a in enumerate(shared) for b in shared[k + 1 :]):
                sign = (first[a] - first[b]) * (second[a] - second[b])
                alike, cases = alike + (sign > 0 or (ties and sign == 0)), cases + (sign != 0 or ties)
    return alike, cases


def test_many_raters_of_a_prompt_are_all_their_pairs() -> None:
    rng = random.Random(3)
    records = [
        record(f"p{prompt}", *((text, float(rng.randint(0, 3))) for text in rng.sample("abcde", rng.randint(1, 4))))
        for prompt in range(4)
        for _ in range(25)
    ]
    alike, cases = by_pairs_of_judgements(records)
    found = ceiling.agreement(records, 0)
    assert cases > 300 and found.cases == cases and found.value == pytest.approx(alike / cases, rel=1e-12)
    wrong = by_pairs_of_judgements(records, ties=True)
    assert wrong[0] / wrong[1] != pytest.approx(found.value, rel=1e-2)


def test_a_hundred_raters_of_a_thousand_items() -> None:
    """Each order counted once: 100,000 judgements and not their 4,950,000 pairs. Raters right with 0.8 agree in 0.68."""
    rng = random.Random(4)
    records = [record(f"p{i}", ("good", float(rng.random() < 0.8)), ("bad", 0.5)) for i in range(1000) for _ in range(100)]
    found = ceiling.agreement(records, 0)
    assert (found.prompts, found.cases) == (1000, 4_950_000)
    assert found.value == pytest.approx(0.68, abs=0.005)
    assert ceiling.most_accurate(found.value) == pytest.approx(0.8, abs=0.005)


def test_the_ceiling_is_from_all_judgements_the_training_prompts_among_them() -> None:
    examined = [record(f"q{i}", ("good", 1.0), ("bad", 0.0)) for i in range(5)]
    repeats = [record(f"p{i}", ("good", float(k != i % 5)), ("bad", 0.5)) for i in range(20) for k in (0, 5)]
    model = lambda _, texts: [float(text == "good") for text in texts]  # noqa: E731
    assert trust(model, examined).ceiling is None
    found = trust(model, examined, judgements=[*examined, *repeats]).ceiling
    # By hand: of twenty prompts judged twice four disagree: 0.8 = p^2 + (1 - p)^2, so p = (1 + sqrt(0.6)) / 2.
    assert found is not None and (found.method, found.accuracy.prompts) == ("repeats", 20)
    assert found.accuracy.value == pytest.approx((1 + 0.6**0.5) / 2)
    assert trust(model, examined, judgements=[*examined, *repeats[2:]]).ceiling is None, "nineteen are too few"


@pytest.mark.slow
@pytest.mark.parametrize("right", [0.9, 0.7])
def test_repeats_tell_how_often_judges_are_right(right: float) -> None:
    """Judges whose every pair is turned round with one chance: a model that knows the truth is right as often as they are."""
    rng = random.Random(5)
    pairs = []
    for i in range(700):
        for _ in range(2):
            texts = ("good", "bad") if rng.random() < right else ("bad", "good")
            pairs.append(JudgedPrompt.ready_made(prompt_of(str(i)), texts[0], texts[1]))
    found = trust(lambda _, texts: [float(text == "good") for text in texts], pairs)
    assert found.ceiling is not None and found.ceiling.method == "repeats"
    assert found.ceiling.accuracy.low < right < found.ceiling.accuracy.high
    assert found.ceiling.accuracy.value == pytest.approx(right, abs=0.03)
    assert found.everything.accuracy.value == pytest.approx(right, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("rater", ["flipper", "honest"])
def test_the_estimate_is_what_the_truth_gets_against_the_world_s_raters(rater: str) -> None:
    found = trust(gold_scorer(), judged(rater, 150, twice=True), truth=truly)
    assert found.ceiling is not None and found.truth_agrees is not None and found.ceiling.method == "repeats"
    if rater == "flipper":
        assert found.ceiling.accuracy.low <= found.truth_agrees.value <= found.ceiling.accuracy.high
        assert found.ceiling.accuracy.high < 0.75 and found.truth_agrees.value < 0.65
    else:  # easy and hard pairs are mixed: then it is an upper bound
        assert found.truth_agrees.value < found.ceiling.accuracy.value < found.truth_agrees.value + 0.05


def saturating(*shares: float, prompts: int = 300) -> list[JudgedPrompt]:
    """Prompts with a pair at each of the gaps 1, 2, 3, ...; at each, the share that the judges order as the model does."""
    rng = random.Random(6)
    found = []
    for i in range(prompts):
        for gap, share in enumerate(shares, 1):
            texts = ("good", "bad") if rng.random() < share else ("bad", "good")
            found.append(record(f"{i}/{gap}", (texts[0], 1.0 + gap), (texts[1], 1.0)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.5, 0.62, 0.62), 0.62), ((0.5, 0.6, 0.8), None), ((0.5, 0.5, 0.38), None), ((0.7, 1.0, 1.0), 1.0)],
)
def test_an_accuracy_that_stops_rising(shares: tuple[float, ...], expected: float | None) -> None:
    """Rising still: nothing is known. Below chance: neither."""
    found = trust(lambda _, texts: [float(text == "good") for text in texts], saturating(*shares)).ceiling
    if expected is None:
        assert found is None
    else:
        assert found is not None and found.method == "saturation"
        assert found.accuracy.value == pytest.approx(expected, abs=0.06)
        assert "judged twice" in found.assumption


def test_a_few_pairs_tell_nothing() -> None:
    assert (
        trust(lambda _, texts: [float(text == "good") for text in texts], saturating(0.5, 0.6, 0.6, prompts=20)).ceiling is None
    )
