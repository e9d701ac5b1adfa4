"""Judgements as files, read back by what reads them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from ballots import Ballot, item

from sawyer.ratings import Choice, Item
from sawyer.ratings.exports import (
    COLUMNS,
    answers_jsonl,
    demonstrations,
    export_words,
    plain_cell,
    preference_pairs,
    preference_rows,
    votes_csv,
)
from sawyer.records import Answer, Message, Prompt, check, read


def ballot() -> Ballot:
    votes = Ballot()
    pair = item("pair", "good", "bad")
    votes.vote(pair, "Anna Smith", Choice(grade=-2), note="=HYPERLINK(1)")
    votes.vote(pair, "Bob", Choice(grade=2), order=(1, 0), rewrite="  best ")
    votes.vote(item("rank", "a", "b", "c"), "Bob", Choice(ranks=(1, 2, 2)))
    votes.vote(item("score", "d", "e", "f"), "Bob", Choice(scores=(9, None, 4)))
    votes.vote(item("tie", "x", "y"), "Bob", Choice(grade=0, both_bad=True))
    votes.vote(item("skip", "x", "z"), "Bob", Choice(skip=True))
    return votes


def test_answers_are_scored_rows_that_check_and_training_read(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(answers_jsonl(ballot().rated))
    (report,) = check([str(path)], want="comparisons")
    assert not report.is_refused and report.records == 5
    records = read(str(path), want="comparisons").records
    assert [record.scores for record in records] == [(2, 0), (2, 0), (1, 0, 0), (9, 4), (0, 0)]
    assert records[0].answers[0].source == "sft"


def test_names_are_there_only_when_asked_for() -> None:
    votes = ballot()
    stored = [vote for own in votes.votes.values() for vote in own]
    blind = [answers_jsonl(votes.rated), preference_pairs(votes.rated), votes_csv(stored), demonstrations(stored)]
    assert not any("Anna" in text or "Bob" in text for text in blind)
    named = [
        answers_jsonl(votes.rated, raters=True),
        preference_pairs(votes.rated, raters=True),
        votes_csv(stored, raters=True),
    ]
    assert all("Anna Smith" in text and "Bob" in text for text in named)


def test_preference_pairs_by_hand(tmp_path: Path) -> None:
    rows, ties = preference_rows(ballot().rated)
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in rows] == [
        ("good", "bad", 2),
        ("good", "bad", 2),
        ("a", "b", 1),
        ("a", "c", 1),
        ("d", "f", 5),
    ]
    assert ties == 2, "b and c of the ranking, and the pair that is both bad"
    path = tmp_path / "pairs.jsonl"
    path.write_text(preference_pairs(ballot().rated))
    records = read(str(path), want="pairs").records
    assert (records[0].chosen, records[0].rejected, records[0].margin) == ("good", "bad", 2)


def test_a_conversation_goes_out_as_messages(tmp_path: Path) -> None:
    turns = (
        Message(role="user", content="Up?"),
        Message(role="assistant", content="Down."),
        Message(role="user", content="And?"),
    )
    answers = tuple(Answer(response=text, score=None) for text in ("one", "two"))
    talk = Item(id="talk", prompt=Prompt(messages=turns), answers=answers)
    votes = Ballot()
    votes.vote(talk, "anna", Choice(grade=1), rewrite="three")
    (row,) = preference_rows(votes.rated)[0]
    assert [turn["content"] for turn in row["prompt"]] == ["Up?", "Down.", "And?"]
    for name, text, want in (
        ("a", answers_jsonl(votes.rated), "comparisons"),
        ("p", preference_pairs(votes.rated), "pairs"),
        ("d", demonstrations(votes.votes["talk"]), "demonstrations"),
    ):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(text)
        (record,) = read(str(path), want=want).records  # type: ignore[arg-type]
        assert [message.content for message in record.prompt.messages] == ["Up?", "Down.", "And?"]
        assert want != "demonstrations" or (record.response == "three" and not record.prompt.messages[1].in_loss)


def test_demonstrations_are_rewrites_of_last_revisions(tmp_path: Path) -> None:
    votes = Ballot()
    pair = item("i", "a", "b", prompt="Up?")
    first = votes.vote(pair, "anna", Choice(grade=1), rewrite="old")
    assert first.assignment.vote is not None
    from dataclasses import replace

    later = replace(first.assignment.vote, id="again", rewrite="new")
    second = replace(first, assignment=replace(first.assignment, vote=later), revision=2)
    twin = votes.vote(pair, "bob", Choice(skip=True), rewrite="new")
    empty = votes.vote(pair, "cleo", Choice(grade=1), rewrite=" \n")
    path = tmp_path / "d.jsonl"
    path.write_text(demonstrations([second, first, twin, empty]))
    (record,) = read(str(path), want="demonstrations").records
    assert record.prompt.text == "Up?" and record.response == "new"


def test_the_table_of_votes() -> None:
    votes = ballot()
    stored = [vote for own in votes.votes.values() for vote in own]
    rows = list(csv.DictReader(io.StringIO(votes_csv(stored))))
    assert len(rows) == 6 and tuple(rows[0]) == COLUMNS
    assert json.loads(rows[1]["choice"]) == {"grade": -2}, "in the item's order"
    assert json.loads(rows[1]["scores"]) == [2, 0] and rows[1]["shown_order"] == "1 0"
    assert [row["rater"] for row in rows] == ["r1", "r2", "r2", "r2", "r2", "r2"]
    assert rows[5]["skip"] == "1" and rows[5]["scores"] == "" and rows[4]["both_bad"] == "1"
    assert rows[0]["time"] == "1970-01-01T00:16:41+00:00"
    assert rows[0]["note"] == "'=HYPERLINK(1)"


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "\t=1", " =1", "\n=1", "\r", "\uff1d1"])
def test_formulas_are_text(text: str) -> None:
    assert plain_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["a = b", "1", "", '["=1"]', "Down."])
def test_plain_text_stays(text: str) -> None:
    assert plain_cell(text) == text


def test_what_is_left_out_is_counted() -> None:
    votes = ballot()
    stored = [vote for own in votes.votes.values() for vote in own]
    assert export_words("pairs", votes.rated, stored) == "5 pairs; left out: 2 ties"
    assert export_words("answers", votes.rated, stored).startswith("5 judgements; left out: 1 skips, 0 votes")
    assert export_words("demonstrations", votes.rated, stored) == "1 demonstrations"
    assert export_words("csv", votes.rated, stored) == "6 votes, revisions included"
