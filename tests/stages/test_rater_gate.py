"""The gate on raters, from the profiles that the ratings room makes of real votes; nobody is named."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sawyer.ratings import (
    Assignment,
    Choice,
    RatedItem,
    Rater,
    StoredVote,
    Vote,
    agreement_report,
    item_of,
    report_json,
)
from sawyer.records import Answer, prompt_of
from sawyer.runs import Layout
from sawyer.stages.reward.rater_gate import raters_gate, read_agreement

Grader = Callable[[int, tuple[str, ...], random.Random], int]  # number of the item, texts as shown -> grade, > 0: the second


def rated_items(raters: Mapping[str, Grader], items: int = 150) -> list[RatedItem]:
    """Every rater grades every pair once, in an order drawn for each; the answer that is better says so."""
    rng = random.Random(1)
    found = []
    for number in range(items):
        good, bad = f"good answer {'word ' * rng.randint(1, 9)}{number}", f"bad answer {'word ' * rng.randint(1, 9)}{number}"
        item = item_of(prompt_of(f"p{number}"), [Answer(response=good, score=None), Answer(response=bad, score=None)])
        votes = []
        for rater, (name, grader) in enumerate(raters.items(), 1):
            order = tuple(rng.sample(range(2), 2))
            shown = tuple(item.answers[i].response for i in order)
            identity = len(found) * 100 + rater
            choice = Choice(grade=grader(number, shown, rng))
            assignment = Assignment(
                id=identity,
                item=item,
                rater=Rater(id=rater, name=name),
                method="graded",
                order=order,
                pick="random",
                vote=Vote(id=f"v{identity}", assignment=identity, choice=choice, seconds=60.0),
            )
            votes.append(StoredVote(assignment=assignment, timestamp=1000.0 + identity, revision=1))
        found.append(RatedItem(item=item, votes=tuple(votes)))
    return found


def honest(number: int, shown: tuple[str, ...], rng: random.Random) -> int:
    grade = 2 if shown[1].startswith("good") else -2
    return -grade if rng.random() < 0.1 else grade


def lazy(number: int, shown: tuple[str, ...], rng: random.Random) -> int:
    return 0


def length_lover(number: int, shown: tuple[str, ...], rng: random.Random) -> int:
    return (len(shown[1]) > len(shown[0])) - (len(shown[1]) < len(shown[0]))


def guesser(number: int, shown: tuple[str, ...], rng: random.Random) -> int:
    return rng.choice((-1, 1))


def contrary(number: int, shown: tuple[str, ...], rng: random.Random) -> int:
    return -2 if shown[1].startswith("good") else 2


@pytest.mark.parametrize(
    ("raters", "verdict", "words"),
    [
        ({"anna": honest, "bob": honest}, "ok", "2 raters, none flagged; "),
        ({"anna": honest}, "ok", "1 rater, none flagged; nothing was judged twice"),
        ({"anna": honest, "bob": honest, "eve": length_lover}, "warn", "1 of 3 raters flagged: always the longer answer"),
        ({"anna": honest, "bob": lazy}, "warn", "1 of 2 raters flagged: ties nearly everything"),
        ({"anna": lazy}, "fail", "no judgement of 150 by 1 rater prefers an answer: all are ties: ties nearly everything"),
        ({"anna": lazy, "bob": lazy}, "fail", "no judgement of 300 by 2 raters"),
        (
            {"anna": length_lover, "bob": length_lover},
            "fail",
            "every rater (2) votes by something else than quality: always the lo",
        ),
        ({"anna": honest, "bob": contrary}, "fail", "2 raters agree no more than chance does: "),
    ],
)
def test_verdicts_by_votes(raters: Mapping[str, Grader], verdict: str, words: str) -> None:
    gate = raters_gate(report_json(agreement_report(rated_items(raters))))
    assert gate is not None and (gate.stage, gate.name, gate.verdict) == ("reward", "raters", verdict), gate
    assert gate.message.startswith(words)
    assert not any(name in gate.message for name in raters), "the page may be shown to anybody"
    assert "reward.raters: {NAME: 0}" in gate.advice


@pytest.mark.parametrize(("other_prompts", "verdict"), [(0, "fail"), (300, "fail"), (301, "warn")])
def test_a_few_useless_votes_among_many_judgements_are_a_warning(other_prompts: int, verdict: str) -> None:
    report = report_json(agreement_report(rated_items({"anna": lazy, "bob": lazy})))  # 300 votes
    gate = raters_gate(report, other_prompts)
    assert gate is not None and gate.verdict == verdict
    assert ("the other 301 judged prompts are not theirs" in gate.message) == (verdict == "warn")


def test_a_rater_who_is_left_out_does_not_count() -> None:
    report = report_json(agreement_report(rated_items({"anna": honest}))) | {"alphas": []}
    lazy_profile = report_json(agreement_report(rated_items({"eve": lazy})))["profiles"][0] | {"left_out": True}
    gate = raters_gate(report | {"profiles": [*report["profiles"], lazy_profile]})
    assert gate is not None and gate.verdict == "ok" and gate.message.startswith("1 rater, none flagged")
    assert raters_gate({"profiles": [lazy_profile]}) is None, "nobody's votes count"


@pytest.mark.parametrize(("items", "verdict"), [(150, "warn"), (15, "ok")])
def test_guessers_may_agree_no_more_than_chance(items: int, verdict: str) -> None:
    """Their alpha's interval includes 0; of fifteen prompts so would that of many who do agree."""
    report = report_json(agreement_report(rated_items({"anna": guesser, "bob": guesser}, items)))
    assert all(figure["low"] <= 0 < figure["high"] for figure in report["alphas"])
    gate = raters_gate(report)
    assert gate is not None and gate.verdict == verdict
    assert gate.message.startswith("2 raters may agree no more than chance does: alpha") or verdict == "ok"


def test_no_votes_no_gate(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert read_agreement(layout) == {} and raters_gate({}) is None
    layout.agreement.parent.mkdir()
    for text in ("{", "[]", '{"report": 3}', '{"key": "x"}'):
        layout.agreement.write_text(text)
        assert read_agreement(layout) == {}
    report = report_json(agreement_report(rated_items({"anna": lazy}, items=3)))
    layout.agreement.write_text(json.dumps({"key": "x", "report": report}))
    gate: Any = raters_gate(read_agreement(layout))
    assert (gate.verdict, gate.message) == ("fail", "no judgement of 3 by 1 rater prefers an answer: all are ties")
