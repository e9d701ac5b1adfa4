"""Every figure of a side by hand, on a few answers whose scores and rewards are written down."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from judges import record, table

from sawyer.errors import ModelError
from sawyer.records import Answer, JudgedPrompt, prompt_of
from sawyer.trust import Trust, decide_verdict, trust
from sawyer.trust.trust_values import Side

# One prompt with three pairs, one with one. Rewards: b > a > c and e > d; judged: a > b > c and d > e.
FIRST = record("p", ("aaa", 9.0), ("bb", 5.0), ("c", 2.0))
SECOND = record("q", ("dd", 4.0), ("eeee", 3.0))
REWARDS = {"aaa": 1.0, "bb": 2.0, "c": -1.0, "dd": 0.0, "eeee": 0.5}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def examined(*records: JudgedPrompt, loss: str | None = "bradley_terry", unit: float = 1.0) -> Trust:
    return trust(table(REWARDS), records, loss=loss, unit=unit)


def side(*records: JudgedPrompt, loss: str | None = "bradley_terry", unit: float = 1.0) -> Side:
    return examined(*records, loss=loss, unit=unit).everything


def test_accuracy_rules_and_lead_count_the_same_pairs() -> None:
    found = side(FIRST, SECOND)
    assert (found.prompts, found.answers, found.pairs, found.ties) == (2, 5, 4, 0)
    assert found.accuracy.value == 2 / 4  # a > c and b > c are right
    assert found.longer_wins.value == 3 / 4  # all but d > e
    assert (found.best_rule, found.best_rule_value) == ("longer wins", 3 / 4)
    assert found.ahead.value == pytest.approx(2 / 4 - 3 / 4)
    assert found.when_longer.value == pytest.approx(2 / 3) and found.when_longer.cases == 3
    assert (found.when_shorter.value, found.when_shorter.cases) == (0.0, 1)


def test_shorter_wins_where_that_is_the_better_rule() -> None:
    found = side(SECOND)
    assert (found.longer_wins.value, found.best_rule, found.best_rule_value) == (0.0, "shorter wins", 1.0)
    assert found.best_rule_high == pytest.approx(1 - found.longer_wins.low) == 1.0
    assert found.ahead.value == -1.0
    even = side(record("p", ("same", 2.0), ("four", 1.0)))
    assert (even.best_rule, even.best_rule_value, even.best_rule_high) == ("random", 0.5, even.longer_wins.high)
    assert even.longer_wins.high > 0.8, "one prompt proves nothing about a rule either"


def test_calibration_is_of_the_probability_that_the_loss_trains() -> None:
    """D and d of the four pairs: -1 and 4, 2 and 7, 3 and 3, -0.5 and 1; right are the second and the third."""
    plain = side(FIRST, SECOND).calibration
    assert [c.formula for c in plain] == ["sigmoid(D)"]
    expected = (sigmoid(1) + (1 - sigmoid(2)) + (1 - sigmoid(3)) + sigmoid(0.5)) / 4
    assert plain[0].error.value == pytest.approx(expected, rel=1e-5)
    squared = side(FIRST, SECOND, loss="squared").calibration
    assert [c.formula for c in squared] == ["sigmoid(D * d^2)", "sigmoid(D)"]
    assert squared[1].error.value == pytest.approx(expected, rel=1e-5)
    # Sure by sigmoid(16), sigmoid(98), sigmoid(27): one class of three, two of them right; and sigmoid(0.5), wrongly.
    sure = sigmoid(16) + sigmoid(98) + sigmoid(27)
    assert squared[0].error.value == pytest.approx((sure - 2 + sigmoid(0.5)) / 4, rel=1e-5)
    assert [(b.confidence, b.right.value, b.right.cases) for b in squared[0].bins] == [
        (pytest.approx(sigmoid(0.5)), 0.0, 1),
        (pytest.approx(sure / 3), pytest.approx(2 / 3), 3),
    ]
    assert "depends on the judges' gap" in squared[0].why and "not known" in side(FIRST, loss=None).calibration[0].why
    assert "no probability" in side(FIRST, loss="margin").calibration[0].why


def test_a_standardised_reward_is_told_in_the_unit_it_was_trained_in() -> None:
    double = {text: reward / 2 for text, reward in REWARDS.items()}
    there = trust(table(double), [FIRST, SECOND], loss="bradley_terry", unit=2.0).everything
    here, wrong = side(FIRST, SECOND), side(FIRST, SECOND, unit=2.0)
    assert there.calibration[0].error == here.calibration[0].error != wrong.calibration[0].error
    assert there.accuracy == here.accuracy


@pytest.mark.parametrize("sure", [0.8, 0.95, 0.5])
def test_a_model_that_is_right_as_often_as_it_is_sure_is_calibrated(sure: float) -> None:
    gap, count = math.log(sure / (1 - sure)), 20
    records = [record(str(i), (f"good {i}", 2.0), (f"bad {i}", 1.0)) for i in range(count)]
    scores = {f"good {i}": gap if i < sure * count else -gap for i in range(count)}
    error = trust(table(scores, otherwise=0.0), records, loss="bradley_terry").everything.calibration[0].error
    assert error.value == pytest.approx(0.0, abs=1e-6) and error.low <= error.value <= error.high


def test_gaps_on_the_usual_scale() -> None:
    """Gaps 4, 7, 3 and 1; right are the second and the third."""
    gaps = {gap.name: (gap.low, gap.high, gap.accuracy.value, gap.accuracy.cases) for gap in side(FIRST, SECOND).by_gap}
    assert gaps == {"1 to 2": (1.0, 2.0, 0.0, 1), "2 to 4": (2.0, 4.0, 1.0, 1), "4 or more": (4.0, None, 0.5, 2)}


@pytest.mark.parametrize(
    ("widths", "names"),
    [
        ((0.5, 0.999, 1.0, 1.5, 2.0, 3.999, 4.0, 9.0), ["less than 1", "1 to 2", "2 to 4", "4 or more"]),
        ((0.05, 0.1, 0.2, 1.0), ["less than 0.1", "0.1 to 0.2", "0.2 to 0.4", "0.4 or more"]),
        ((5, 10, 30, 90), ["less than 10", "10 to 20", "20 to 40", "40 or more"]),
        ((1, 2), ["1 to 2", "2 to 4"]),
        ((3, 3, 3), ["all"]),
    ],
)
def test_gaps_suit_the_scale(widths: tuple[float, ...], names: list[str]) -> None:
    found = side(*[record(str(i), ("good", width), ("bad", 0.0)) for i, width in enumerate(widths)])
    assert [gap.name for gap in found.by_gap] == names
    assert sum(gap.accuracy.cases for gap in found.by_gap) == len(widths)


def test_sources_count_the_pairs_in_which_they_stand() -> None:
    names = iter(("expert", "sft", "sft"))  # expert > sft wrong, expert > sft right, sft > sft right
    first = replace(FIRST, answers=tuple(replace(a, source=next(names)) for a in FIRST.answers))
    second = replace(SECOND, answers=(replace(SECOND.answers[0], source="sft"), SECOND.answers[1]))  # wrong
    found = examined(first, second)
    told = [(s.name, s.accuracy.value, s.accuracy.cases) for s in found.everything.by_source]
    assert told == [("sft", 0.5, 4), ("expert", 0.5, 2)]
    assert all(s.accuracy.low < s.accuracy.value < s.accuracy.high for s in found.everything.by_source)
    # The SFT model's own answers apart: b > c is right; of the others' no pair is left.
    assert [s.name for s in found.sides] == ["all", "file", "own"]
    own, files = found.side("own"), found.side("file")
    assert own is not None and (own.accuracy.value, own.pairs) == (1.0, 1)
    assert files is not None and (files.pairs, files.answers, files.accuracy.cases) == (0, 2, 0)


def test_answers_with_their_true_scores_are_a_side_of_their_own() -> None:
    own = [record("r", ("aaa", 1.0), ("c", 7.0), source="sft")]
    found = trust(table(REWARDS), [FIRST], own_answers=own, truth=lambda _, text: -REWARDS[text])
    gold = found.side("gold")
    assert gold is not None and (gold.accuracy.value, gold.pairs, gold.score.all.value) == (0.0, 1, pytest.approx(-1.0))
    assert found.everything.truth is not None and found.everything.truth.all.value == pytest.approx(-1.0)
    # Judged a > b > c, truly c > a > b: only a > b is as the truth has it.
    assert found.truth_agrees is not None and (found.truth_agrees.value, found.truth_agrees.cases) == (pytest.approx(1 / 3), 3)
    assert examined(FIRST).everything.truth is None and examined(FIRST).truth_agrees is None


def test_length_is_counted_in_words_over_all_answers_and_within_a_prompt() -> None:
    rising = record("p", ("one", 3.0), ("one two", 2.0), ("one two three", 1.0))
    scores = {"one": 1.0, "one two": 2.0, "one two three": 3.0}
    found = trust(table(scores), [rising]).everything
    assert found.length.all.value == found.length.within.value == pytest.approx(1.0)
    assert found.length_controlled is None, "the judges' score says what length says: they cannot be told apart"
    assert found.score.within.value == pytest.approx(-1.0)
    assert found.points == ((1, 1.0), (2, 2.0), (3, 3.0))


def test_what_cannot_be_ranked_is_left_out_and_counted() -> None:
    rows = JudgedPrompt(
        prompt=prompt_of("p"),
        answers=(
            Answer(response="aaa", score=8.0),
            Answer(response="bb", score=8.0),  # a tie
            Answer(response="aaa", score=3.0),  # one text judged twice: no pair with itself
            Answer(response="c", score=None),  # not judged
        ),
    )
    found = side(rows)
    assert (found.answers, found.pairs, found.ties, found.same) == (3, 1, 1, 1)
    assert found.accuracy.value == 1.0  # bb (8) over aaa (3)


def test_ready_made_pairs() -> None:
    pairs = [
        JudgedPrompt.ready_made(prompt_of("p"), "bb", "c"),
        JudgedPrompt.ready_made(prompt_of("q"), "c", "aaa", 3.0),
    ]
    found = side(*pairs)
    assert (found.pairs, found.accuracy.value) == (2, 0.5)
    assert [(gap.name, gap.accuracy.value) for gap in found.by_gap] == [("1 to 2", 1.0), ("2 to 4", 0.0)]


def test_equal_rewards_prefer_neither_and_no_judged_pair_is_no_figure() -> None:
    equal = trust(table({}), [FIRST, SECOND]).everything
    assert (equal.accuracy.value, equal.spread) == (0.0, 0.0)
    tied = side(record("p", ("aaa", 8.0), ("bb", 8.0)))
    assert (tied.pairs, tied.accuracy.cases, tied.by_gap, tied.calibration, tied.best_rule) == (0, 0, (), (), "random")


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_named(reward: float) -> None:
    with pytest.raises(ModelError, match=r"the reward of 'bb' is (nan|inf)"):
        trust(table({**REWARDS, "bb": reward}), [FIRST])


def test_without_a_single_judged_answer_nothing_is_claimed() -> None:
    nothing = JudgedPrompt(prompt=prompt_of("p"), answers=(Answer(response="aaa", score=None),))
    found = examined(nothing)
    assert (found.everything.prompts, found.everything.pairs, found.corrupted_win_rate.cases) == (0, 0, 0)
    assert decide_verdict(found).reasons[0].name == "nothing_to_learn"
