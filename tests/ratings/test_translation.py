"""The one translation of votes, and the rows that training reads, through the store and back through `records`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ballots import Ballot, item

from sawyer.errors import RatingError
from sawyer.ratings import Choice, agreement_report, choice_in_item_order, conflicts, judgement_of, training_rows
from sawyer.records import json_lines, read


@pytest.mark.parametrize(
    ("choice", "order", "scores"),
    [
        (Choice(grade=3), (0, 1), (0.0, 3.0)),  # the second shown is much better
        (Choice(grade=3), (1, 0), (3.0, 0.0)),  # the second shown is the item's first
        (Choice(grade=-2), (0, 1), (2.0, 0.0)),
        (Choice(grade=-1), (1, 0), (0.0, 1.0)),
        (Choice(grade=0), (1, 0), (0.0, 0.0)),
        (Choice(ranks=(1, 3, 2, 2)), (0, 1, 2, 3), (2.0, 0.0, 1.0, 1.0)),
        (Choice(ranks=(1, 2, 3)), (2, 0, 1), (1.0, 0.0, 2.0)),  # the item's third was shown first
        (Choice(ranks=(1, 1, 3)), (0, 1, 2), (1.0, 1.0, 0.0)),  # no answer has rank 2: it is no step
        (Choice(ranks=(1, 1)), (0, 1), (0.0, 0.0)),
        (Choice(scores=(7, None, 0)), (2, 1, 0), (0.0, None, 7.0)),
    ],
)
def test_each_way_has_one_translation(choice: Choice, order: tuple[int, ...], scores: tuple[float | None, ...]) -> None:
    vote = Ballot().vote(item("i", *"abcd"[: len(order)]), "anna", choice, order=order)
    judgement = judgement_of(vote)
    assert judgement is not None and judgement.scores == scores and not judgement.both_bad


def test_a_skip_is_no_judgement_and_both_bad_is_a_tie() -> None:
    ballot = Ballot()
    assert judgement_of(ballot.vote(item("i", "a", "b"), "anna", Choice(skip=True))) is None
    judgement = judgement_of(ballot.vote(item("i", "a", "b"), "bob", Choice(grade=0, both_bad=True)))
    assert judgement is not None and judgement.scores == (0.0, 0.0) and judgement.both_bad


@pytest.mark.parametrize(
    ("choice", "order", "expected"),
    [
        (Choice(grade=2), (1, 0), Choice(grade=-2)),
        (Choice(grade=2), (0, 1), Choice(grade=2)),
        (Choice(ranks=(1, 2, 3)), (2, 0, 1), Choice(ranks=(2, 3, 1))),
        (Choice(scores=(9, None)), (1, 0), Choice(scores=(None, 9))),
        (Choice(skip=True), (1, 0), Choice(skip=True)),
    ],
)
def test_a_choice_in_the_item_s_order_says_the_same(choice: Choice, order: tuple[int, ...], expected: Choice) -> None:
    ballot = Ballot()
    answers = item("i", *"abc"[: len(order)])
    vote = ballot.vote(answers, "anna", choice, order=order)
    assert choice_in_item_order(vote) == expected
    assert judgement_of(vote) == judgement_of(ballot.vote(answers, "bob", expected))


def test_a_choice_of_another_number_of_answers_is_refused() -> None:
    with pytest.raises(RatingError, match="judges 3 answers of 2"):
        judgement_of(Ballot().vote(item("i", "a", "b"), "anna", Choice(ranks=(1, 2, 3))))


def ballot() -> Ballot:
    """Anna and Bob agree on a pair, Cleo skips it; a ranking with a tie; an adjudicated conflict; Anna repeats the pair."""
    votes, pair, conflict = Ballot(), item("pair", "good", "bad"), item("conflict", "x", "y")
    votes.vote(pair, "Bob", Choice(grade=-2))
    votes.vote(pair, "Anna", Choice(grade=2), order=(1, 0))
    votes.vote(pair, "Cleo", Choice(skip=True))
    votes.vote(item("rank", "a", "b", "c"), "Anna", Choice(ranks=(1, 2, 2)))
    votes.grades(conflict, {"Anna": 3, "Bob": -1})
    votes.vote(conflict, "owner", Choice(grade=0, both_bad=True), pick="adjudication")
    votes.vote(pair, "Anna", Choice(grade=-2), pick="repeat")
    return votes


def test_training_rows_by_hand() -> None:
    rows, summary = training_rows(ballot().rated, {"bob": 0.5, " CLEO": 0, "Zoe": 2.0})
    scores = [[answer["score"] for answer in row["responses_and_scores"]] for row in rows]
    assert scores == [[2, 0], [2, 0], [2, 0], [1, 0, 0], [0, 0]]
    assert [row["rater"] for row in rows] == ["r1", "r2", "r2", "r2", "r4"], "in the order of their first assignments"
    assert [row.get("judgement_weight") for row in rows] == [0.5, None, None, None, None]
    assert [row.get("both_bad") for row in rows] == [None, None, None, None, True]
    assert (summary.judgements, summary.raters, summary.items) == (5, 3, 3)
    assert (summary.ties, summary.both_bad, summary.skips, summary.replaced_votes) == (1, 1, 1, 2)
    assert summary.weights == {"Bob": 0.5} and summary.left_out == {} and summary.without_votes == ("Zoe",)


def test_a_rater_of_weight_0_is_left_out_and_counted() -> None:
    rows, summary = training_rows(ballot().rated, {"anna": 0})
    assert [row["rater"] for row in rows] == ["r1", "r4"], "the others keep their names"
    assert summary.left_out == {"Anna": 3} and summary.raters == 2


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_be_is_refused(weight: float) -> None:
    with pytest.raises(RatingError, match="Anna"):
        training_rows([], {"Anna": weight})


def test_rows_go_through_the_reader_and_back(tmp_path: Path) -> None:
    """Two raters who judge alike are two judgements: rows that were read as duplicates would leave disagreement alone."""
    rows, _ = training_rows(ballot().rated, {"Bob": 0.5})
    path = tmp_path / "judgements.jsonl"
    path.write_text(json_lines(rows))
    records = read(str(path), want="comparisons").records
    assert [record.scores for record in records] == [(2, 0), (2, 0), (2, 0), (1, 0, 0), (0, 0)]
    assert [record.weight for record in records] == [0.5, 1, 1, 1, 1]
    assert [record.rater for record in records] == ["r1", "r2", "r2", "r2", "r4"]
    assert [record.both_bad for record in records] == [False, False, False, False, True]
    assert json.loads(path.read_text().splitlines()[0])["rater"] == "r1"


def test_conflicts_come_widest_first_and_settled_ones_last() -> None:
    votes = ballot()
    votes.grades(item("mild", "m", "n"), {"Anna": 1, "Bob": -1})
    votes.grades(item("wide", "v", "w"), {"Anna": 3, "Bob": -3, "Cleo": 0})
    votes.grades(item("tie", "t", "u"), {"Anna": 0, "Bob": 2})  # a tie contradicts nothing
    votes.vote(item("ranks", "p", "q", "r"), "Anna", Choice(ranks=(1, 2, 3)))
    votes.vote(votes.items["ranks"], "Bob", Choice(ranks=(1, 2, 3)), order=(2, 1, 0))
    names = [conflict.item.id for conflict in conflicts(votes.rated)]
    assert names == ["wide", "ranks", "mild", "conflict"]
    wide = conflicts(votes.rated)[0]
    assert wide.width == 6 and [vote.rater for vote in wide.votes] == ["Anna", "Bob", "Cleo"]
    assert [conflict.is_adjudicated for conflict in conflicts(votes.rated)] == [False, False, False, True]


def test_a_swapped_display_is_no_difference() -> None:
    """The order undone they agree on everything; not undone, on nothing."""
    votes = Ballot()
    for i in range(30):
        pair, grade = item(f"i{i}", "a", "b"), (-1) ** i * (1 + i % 3)
        votes.vote(pair, "anna", Choice(grade=grade))
        votes.vote(pair, "bob", Choice(grade=-grade), order=(1, 0))
    report = agreement_report(votes.rated)
    assert report.same_order.value == report.same_verdict.value == 1.0
    assert [alpha.value for alpha in report.alphas] == [1.0, 1.0]
    as_shown = Ballot()
    for one in votes.rated:
        for vote in one.votes:
            choice = vote.assignment.vote.choice if vote.assignment.vote else Choice(skip=True)
            as_shown.vote(one.item, vote.assignment.rater.name, choice)
    assert agreement_report(as_shown.rated).same_order.value == 0.0
