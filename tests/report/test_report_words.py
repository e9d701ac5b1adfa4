"""The verdict in plain words, and numbers as people read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_run import make_run

from sawyer.report.page import _collect_words
from sawyer.report.run_facts import gather
from sawyer.report.wording import number, signed, verdict_words
from sawyer.runs import clock


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.8437, "0.844"), (12.345, "12.3"), (123.4, "123"), (1234.5, "1,234"), (0, "0"), (0.0, "0.00"), (-0.5, "−0.500"),
        (0.00012, "1.2e−04"), (None, "–"), ("nan", "nan"), (True, "True"), (float("inf"), "inf"), (4000, "4,000"),
    ],
)  # fmt: skip
def test_number(value: object, said: str) -> None:
    assert number(value) == said


def test_signed_and_clock() -> None:
    assert (signed(0.914), signed(-1.3), signed(0.0)) == ("+0.91", "−1.30", "+0.00")
    assert (clock(12.4), clock(89), clock(303), clock(3725), clock(7322)) == ("12 s", "89 s", "5 min", "62 min", "2 h 2 min")


def test_the_earliest_failure_comes_first_and_the_good_ones_are_named(tmp_path: Path) -> None:
    said = verdict_words(gather(make_run(tmp_path / "bad", bad_reward=True)))
    assert said[0].startswith("The reward model fails: Accuracy 0.861") and "What to do: " in said[0]
    assert said[-1] == "The rest (supervised fine-tuning, reinforcement learning and the comparison) passed every check."


def test_a_run_without_checks_is_not_waiting_for_them(tmp_path: Path) -> None:
    facts = replace(gather(make_run(tmp_path / "run")), checks=())
    assert verdict_words(facts) == ["No stage of this run has checks."]
    assert verdict_words(replace(facts, states={})) == ["No stage has been checked yet."]


def test_a_later_verdict_replaces_an_earlier_one(tmp_path: Path) -> None:
    root = make_run(tmp_path / "again", bad_reward=True)
    line = next(line for line in (root / "events.jsonl").read_text().splitlines() if "reward_beats_baselines" in line)
    with (root / "events.jsonl").open("a") as file:
        file.write(line.replace('"fail"', '"ok"') + "\n")
    checks = {check.name: check.verdict for check in gather(root).checks}
    assert checks["reward_beats_baselines"] == "ok" and next(iter(checks)) == "sft_stops"


def test_what_a_judge_came_to_is_said_of_the_collected_answers() -> None:
    figures = {"prompts": 8, "answers": 24, "waiting": 0, "judge_verdicts": 46, "judge_flipped": 3, "judge_unjudged": 2}
    facts = SimpleNamespace(figures=lambda _: figures, states={"collect": {"figures": figures}})
    assert _collect_words(facts) == (  # type: ignore[arg-type]
        "8 prompts, 24 answers. 46 verdicts of a model that judges, 3 pairs that it judged by their order and that count as "
        "ties, 2 questions without a judgement."
    )
