"""The sections on people and on rounds: every figure has its place, and what is forged costs its part of the page alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sawyer.ratings import Assignment, Choice, Item, RatedItem, Rater, StoredVote, Vote, agreement_report, item_of, report_json
from sawyer.records import Answer, prompt_of
from sawyer.report import build
from sawyer.report.people_section import change_words, view_people, view_rounds
from sawyer.report.wording import model_name
from sawyer.runs import Layout, Manifest, write_json
from sawyer.runs.journal import Journal

ROUNDS: list[dict[str, Any]] = [
    {
        "round": 1,
        "folder": "rounds/1",
        "judgements": 120,
        "raters": 2,
        "accuracy": {"value": 0.66, "low": 0.6, "high": 0.72},
        "verdict": {"kind": "guarded", "words": "Only with guards."},
        "win_rate": {"value": 0.55, "low": 0.48, "high": 0.62},
        "gold": {"sft": 5.9, "rl": 6.4},
    },
    {
        "round": 2,
        "folder": ".",
        "judgements": 300,
        "raters": 3,
        "accuracy": {"value": 0.72, "low": 0.67, "high": 0.77},
        "ceiling": {"value": 0.81, "low": 0.74, "high": 0.87},
        "verdict": {"kind": "trust", "words": "It can be trusted."},
        "win_rate": {"value": 0.64, "low": 0.58, "high": 0.7},
        "win_rate_before": {"value": 0.56, "low": 0.5, "high": 0.62, "judge": "gold", "round": 1},
        "change": {
            "before": 0.66,
            "after": 0.72,
            "value": 0.06,
            "low": -0.01,
            "high": 0.13,
            "prompts": 40,
            "pairs": 80,
            "detectable": 0.1,
        },
        "gold": {"sft": 5.9, "rl": 7.1},
    },
]


def rated_items(prompts: int = 30) -> list[RatedItem]:
    """Two raters who agree on two of three pairs; the second has a rewrite and a skip."""
    raters = (Rater(id=1, name="r1"), Rater(id=2, name="r2"))
    return [_rated(number, raters) for number in range(prompts)]


def _rated(number: int, raters: tuple[Rater, ...]) -> RatedItem:
    answers = [Answer(response=f"{word} {number}", score=None) for word in ("yes", "no, not at all")]
    item: Item = item_of(prompt_of(f"Is {number} even?"), answers)
    votes = []
    for rater in raters:
        grade = 2 if rater.id == 1 or number % 3 else -1
        vote = Vote(id=f"{number}-{rater.id}", assignment=number * 2 + rater.id, choice=Choice(grade=grade), seconds=3.0)
        assignment = Assignment(
            id=number * 2 + rater.id, item=item, rater=rater, method="graded", order=(0, 1), pick="random", vote=vote
        )
        votes.append(StoredVote(assignment=assignment, timestamp=1.0 + number, revision=1))
    return RatedItem(item=item, votes=tuple(votes))


def agreement(**changes: Any) -> dict[str, Any]:
    """agreement.json of these raters."""
    summary = {"judgements": 60, "raters": 2, "items": 30, "ties": 3, "both_bad": 1, "skips": 4, "left_out": 0}
    report = json.loads(json.dumps(report_json(agreement_report(rated_items()))))
    return {"summary": summary, "items": 1200, "judged": {"1": 20, "2": 10}, "report": report, **changes}


def test_people_stand_with_counts_agreement_and_the_ceiling() -> None:
    people = view_people(agreement())
    assert people is not None
    assert people.counts.startswith("60 judgements of 2 raters are learned from; 30 of 1,200 items are judged, 30 of them by")
    assert people.counts.endswith("3 ties, 1 of them both bad, 4 skipped.")
    same = people.rows[0]
    assert same.name == "Two raters say the same" and same.value == "67 %" and "30 prompts" in same.cases  # 20 of 30
    assert people.rows[3].value == "–" and people.rows[3].reason.startswith("No answers were judged twice")
    assert people.ceiling.startswith("These raters cap any reward model at")
    assert [row.name for row in people.raters] == ["r1", "r2"] and people.raters[0].items == "30"


def test_without_votes_there_is_no_section() -> None:
    assert view_people({}) is None and view_people({"judgements": 5, "scored": 5}) is None
    assert view_rounds([]) is None and view_rounds(ROUNDS[:1]) is None


def test_the_last_judgements_changes_stand_in_sentences_with_what_could_have_been_seen() -> None:
    accuracy, wins = change_words(ROUNDS[1])
    assert accuracy == (
        "On the same 40 held-out prompts the reward model ranks 72 % of a prompt's pairs rightly, the one before 66 %: +6 "
        "points (−1 to +13), which is within noise; 10 points would probably be seen."
    )
    # An interval 12 points wide: a difference of 2.8 standard errors (0.12 / 3.92 each) has 80 % power at 5 %: 8.6 points.
    assert wins == (
        "RL's answers win 56 % of the prompts against those of round 1 (50 % to 62 %, by gold), which is within noise; 59 % "
        "would probably be seen."
    )
    clear = {**ROUNDS[1], "change": {**ROUNDS[1]["change"], "low": 0.02}}
    assert "noise" not in change_words(clear)[0]
    assert change_words(ROUNDS[0]) == []
    of_one = {name: value for name, value in ROUNDS[1]["change"].items() if name not in ("low", "high", "detectable")}
    same = {**ROUNDS[1]["change"], "value": 0.0, "low": 0.0, "high": 0.0}
    assert change_words({"round": 2, "change": same})[0].endswith("+0 points, and the same on every prompt.")
    assert change_words({"round": 2, "change": of_one})[0].endswith("the one before 66 %: +6 points.")


def test_every_round_has_its_row() -> None:
    rounds = view_rounds(ROUNDS)
    assert rounds is not None and rounds.measure == "gold"
    first, last = rounds.rows
    assert (first.page, last.page) == ("rounds/1/report.html", "")
    assert first.judgements == ("120", "of 2 raters") and last.accuracy == ("72 %", "67 % to 77 %")
    assert first.ceiling is None and last.ceiling == ("81 %", "74 % to 87 %")
    assert last.verdict == ("ok", "✓ trust it", "It can be trusted.") and last.win_rate == ("64 %", "58 % to 70 %")
    assert first.means == ("5.90 → 6.40", "")


def test_both_sections_are_on_the_page(whole_run: Path) -> None:
    layout = Layout(whole_run)
    layout.agreement.parent.mkdir(exist_ok=True)
    write_json(layout.agreement, agreement())
    summary = json.loads(layout.summary.read_text())
    rate = {"value": 0.56, "low": 0.5, "high": 0.62, "judge": "gold"}
    summary["compare"]["win_rate_rl_vs_rl_round_1"] = rate
    write_json(layout.summary, {**summary, "rounds": ROUNDS})
    text = build(whole_run).read_text(encoding="utf-8")
    assert '<h2 id="rounds">' in text and '<h2 id="people">' in text and 'href="rounds/1/report.html"' in text
    assert "RL against RL, round 1" in text and "cap any reward model at" in text


@pytest.mark.parametrize(
    "forged",
    [
        {"report": {"profiles": 3}, "summary": {"judgements": "<script>"}},
        {"report": [], "summary": {}},
        {"report": {"profiles": [{"name": "<script>alert(1)</script>"}]}, "summary": {"raters": 1}},
    ],
)
def test_forged_figures_cost_their_part_alone(whole_run: Path, forged: dict[str, Any]) -> None:
    layout = Layout(whole_run)
    layout.agreement.parent.mkdir(exist_ok=True)
    write_json(layout.agreement, forged)
    bad = [
        {"round": 1, "folder": "javascript:alert(1)"},
        {"round": 2, "folder": "../../x", "verdict": {"kind": "<b>", "words": 1}},
    ]
    write_json(layout.summary, {**json.loads(layout.summary.read_text()), "rounds": bad})
    text = build(whole_run).read_text(encoding="utf-8")
    assert "javascript:" not in text and "../../x" not in text and "<script>" not in text and "<b></span>" not in text
    assert '<h2 id="outcome">' in text


def test_names_of_models_from_earlier_rounds() -> None:
    assert [model_name(name) for name in ("rl", "rl_round_2", "rl_round_x", "mine")] == [
        "RL",
        "RL, round 2",
        "rl_round_x",
        "mine",
    ]


def test_a_rater_s_flags_and_a_rater_who_is_left_out_are_marked() -> None:
    values = agreement()
    values["report"]["profiles"][1] |= {"flags": ["always left"], "left_out": True}
    people = view_people(values)
    assert people is not None and people.raters[1].flags == ["always left"] and people.raters[1].left_out
    assert replace(people.raters[1], flags=[], left_out=False) == view_people(agreement()).raters[1]  # type: ignore[union-attr]


def test_raters_in_the_config_have_no_names_on_the_page(whole_run: Path) -> None:
    layout = Layout(whole_run)
    layout.config.write_text(layout.config.read_text().replace("  loss: squared\n", "  loss: squared\n  raters: {anna: 0.5}\n"))
    text = build(whole_run).read_text(encoding="utf-8")
    assert "anna" not in text and "rater 1: 0.5" in text


def test_a_later_collection_stands_with_the_first(whole_run: Path) -> None:
    layout = Layout(whole_run)
    Journal(layout).event("collect-2", "chosen", message="150 of 600 prompts are kept")
    Manifest(layout.manifest).update("collect-2", status="done", seconds=12.0, figures={"prompts": 150, "answers": 590})
    text = build(whole_run).read_text(encoding="utf-8")
    assert "150 of 600 prompts are kept" in text and "Collected answers, round 2" in text
    assert "Round 2: 590 answers of the RL and the SFT model to 150 prompts." in text
