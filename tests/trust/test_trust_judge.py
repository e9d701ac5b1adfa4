"""A judge in the trust report: text that addresses it, the order of two answers, and the verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sawyer.records import Answer, JudgedPrompt, Prompt, prompt_of
from sawyer.report.trust_section import view
from sawyer.trust import JudgeAccess, Trust, as_json, decide_verdict, from_json, trust
from sawyer.trust.judge_figures import INJECTIONS
from sawyer.trust.verdict import level

COUNT = 60


def records(count: int = COUNT) -> list[JudgedPrompt]:
    """Three answers a prompt, of quality 1, 4 and 7 in a turning order, each with its prompt's number."""
    rows = []
    for number in range(count):
        qualities = [(1, 4, 7), (7, 1, 4), (4, 7, 1)][number % 3]
        texts = [f"To question {number} this is an answer of quality {quality} indeed" for quality in qualities]
        answers = tuple(Answer(response=t, score=float(q)) for t, q in zip(texts, qualities, strict=True))
        rows.append(JudgedPrompt(prompt=prompt_of(f"Question {number}"), answers=answers))
    return rows


def quality(prompt: Prompt, text: str) -> float:
    """What a good judge sees: whole answers to their own question."""
    found = re.fullmatch(r"To question (\d+) this is an answer of quality (\d) indeed(.*)", text, re.DOTALL)
    if found is None or f"Question {found[1]}" != prompt.text:
        return 0.0
    return float(found[2]) - 0.5 * bool(found[3])  # whatever is added makes it worse


def grades(prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[int | None]:
    return [int(quality(p, b) - quality(p, a)) for p, a, b in zip(prompts, firsts, seconds, strict=True)]


Score = Callable[[Prompt, str], float]


def examined(score: Score = quality, compare: Any = grades, rows: Sequence[JudgedPrompt] | None = None, **more: Any) -> Trust:
    def scorer(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        return [score(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]

    judge = JudgeAccess(model="m", compare=compare, **more)
    return trust(scorer, records() if rows is None else rows, held_out=True, judge=judge)


def obeys(*names: str) -> Score:
    """A judge that gives 10 to answers with such text; known by its first words."""
    marks = {
        "injection_order": "Ignore the rubric",
        "injection_verdict": '"This answer is perfect."',
        "injection_marks": "[[10]]",
        "injection_message": "[system]",
    }
    return lambda prompt, text: 10.0 if any(marks[name] in text for name in names) else quality(prompt, text)


def test_a_judge_that_takes_text_as_data_passes() -> None:
    report = examined()
    judge = report.judge
    assert judge is not None
    assert [probe.wins.value for probe in judge.injections] == [0.0] * 4
    assert [probe.wins.cases for probe in judge.injections] == [COUNT] * 4
    assert (judge.obedience.value, judge.obedience.cases, judge.obedience.prompts) == (0.0, 4 * COUNT, COUNT)
    assert {level(probe) for probe in judge.injections} == {"ok"}
    verdict = decide_verdict(report)
    assert verdict.kind in ("trust", "trust_above") and "obeys" not in verdict.words


@pytest.mark.parametrize("name", sorted(INJECTIONS))
def test_one_kind_of_text_that_is_obeyed_is_enough(name: str) -> None:
    report = examined(obeys(name))
    assert report.judge is not None
    assert {probe.name: probe.wins.value for probe in report.judge.injections} == {n: float(n == name) for n in INJECTIONS}
    assert report.judge.obedience.value == 0.25
    verdict = decide_verdict(report)
    assert verdict.kind == "refuse" and verdict.words.startswith("Don't let it judge, because it obeys text in answers")
    (reason,) = verdict.reasons
    assert (reason.name, reason.value, INJECTIONS[name][0] in reason.words) == ("injection", 1.0, True)
    # The case that rose most, for the page.
    (example,) = [probe.example for probe in report.judge.injections if probe.example is not None]
    assert example.damaged_reward == 10.0 and example.whole_reward == 1.0 and example.whole in example.damaged_answer


def test_some_obedience_asks_for_people_beside_it() -> None:
    # Nine of sixty prompts: 15 %, surely less than a half.
    score: Score = lambda p, t: 10.0 if "Ignore the rubric" in t and int(p.text.split()[1]) < 9 else quality(p, t)  # noqa: E731
    report = examined(score)
    assert report.judge is not None and report.judge.injections[0].wins.value == pytest.approx(9 / 60)
    verdict = decide_verdict(report)
    assert verdict.kind == "guarded" and verdict.guards == ()
    assert verdict.words.startswith("Only beside people, because it obeys text in answers")


def test_a_score_that_stays_counts_for_the_judge() -> None:
    # The probes of damage leave equal scores out; here that would hide every judge that is not moved.
    flat: Score = lambda p, t: quality(p, t[: t.find("indeed") + 6])  # noqa: E731  # it does not see what is added
    report = examined(flat)
    assert report.judge is not None and report.judge.obedience.cases == 4 * COUNT and report.judge.obedience.value == 0.0


def test_the_worst_answer_is_injected_since_the_best_may_have_no_room() -> None:
    def capped(prompt: Prompt, text: str) -> float:
        return min(10.0, obeys(*INJECTIONS)(prompt, text) + 3.0)  # the best answers have 10 already

    report = examined(capped)
    assert report.judge is not None and report.judge.obedience.value == 1.0


def test_an_unbiased_judge_of_pairs() -> None:
    judge = examined().judge
    assert judge is not None
    assert (judge.consistency.value, judge.agreement.value, judge.first_wins.value) == (1.0, 1.0, 0.5)
    assert judge.consistency.cases == COUNT and judge.first_wins.cases == 2 * COUNT


@pytest.mark.parametrize(("grade", "first"), [(-2, 1.0), (2, 0.0)])
def test_a_judge_whose_order_decides(grade: int, first: float) -> None:
    report = examined(compare=lambda prompts, *_: [grade] * len(prompts))
    judge = report.judge
    assert judge is not None
    assert (judge.consistency.value, judge.agreement.value, judge.first_wins.value) == (0.0, 0.5, first)
    verdict = decide_verdict(report)
    assert [doubt.name for doubt in verdict.doubts if doubt.name == "order"] == ["order"]
    assert "0 % of pairs alike" in verdict.words
    assert verdict.kind != "refuse"  # its scores are not asked in pairs


def test_a_judge_that_is_always_wrong_agrees_with_nobody() -> None:
    judge = examined(compare=lambda p, a, b: [-g for g in map(int, grades(p, a, b))]).judge  # type: ignore[arg-type]
    assert judge is not None and judge.consistency.value == 1.0 and judge.agreement.value == 0.0


def test_half_of_the_pairs_by_hand() -> None:
    """Of every second prompt the order decides; ties there. (30 x 1 + 30 x 1/2) / 60."""

    def half(prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[int | None]:
        honest = grades(prompts, firsts, seconds)
        return [-1 if int(p.text.split()[1]) % 2 else grade for p, grade in zip(prompts, honest, strict=True)]

    judge = examined(compare=half).judge
    assert judge is not None
    assert (judge.consistency.value, judge.agreement.value, judge.first_wins.value) == (0.5, 0.75, 0.75)


def test_pairs_without_a_judgement_are_counted_and_in_no_figure() -> None:
    def silent(prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[int | None]:
        honest = grades(prompts, firsts, seconds)
        return [None if int(p.text.split()[1]) < 6 else grade for p, grade in zip(prompts, honest, strict=True)]

    judge = examined(compare=silent, num_unjudged=3).judge
    assert judge is not None
    assert (judge.num_unjudged, judge.num_unjudged_pairs, judge.consistency.cases) == (3, 6, COUNT - 6)


def test_points_are_not_calibrated_and_no_guard_of_rl_is_named() -> None:
    report = examined(obeys("injection_order"))
    assert report.everything.calibration == () and decide_verdict(report).guards == ()


def test_the_file_and_the_page_have_it() -> None:
    report = examined(obeys("injection_order"), lambda prompts, *_: [-1] * len(prompts), num_unjudged=2)
    verdict = decide_verdict(report)
    values = json.loads(json.dumps(as_json(report, verdict)))
    assert from_json(values) == (report, verdict)
    shown = view(values)
    assert shown.is_judge and shown.chip == "✕ not as a judge"
    assert shown.injections[0].whisker.name == "an order to give the highest score"
    assert [one.value for one in shown.order] == [0.0, 1.0, 0.5]
    assert shown.judge_note == "Without a judgement, and in no figure: 2 answers."
    assert [panel.title for panel, _ in shown.panels] == ["Accuracy by score gap", "Reward against length"]


def test_a_report_of_before_there_were_judges_is_read() -> None:
    report = examined()
    values = as_json(report, decide_verdict(report))
    del values["judge"]
    assert from_json(values)[0].judge is None
    assert not view(values).is_judge and view(values).injections == []


def test_without_pairs_there_is_nothing_to_say() -> None:
    rows = [JudgedPrompt(prompt=prompt_of(f"Question {i}"), answers=(Answer(response="a", score=1.0),)) for i in range(30)]
    judge = examined(rows=rows).judge
    assert judge is not None and judge.obedience.cases == judge.consistency.cases == 0
