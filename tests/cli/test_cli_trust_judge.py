"""`sawyer trust --judge`: the report on a judge behind an endpoint, its cost, its replies kept, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_stub import Behaviour, Call, Raw, first_lover, obedient, pair_json, score_json, serving

from sawyer.records import json_lines, prompt_of, scored_row
from sawyer.runs import handle_signals
from sawyer.worlds import comparisons, gold

RECORDS = comparisons(40, 3, split="held_out")


def knows(call: Call) -> str:
    """A judge that knows the world's truth; what is added to an answer is seen as that."""
    material = call.material

    def points(text: str) -> int:
        return max(0, min(10, round(gold(prompt_of(material["conversation"]).text, text).score)))

    if not call.is_pair:
        return score_json(points(material["answer"]))
    first, second = points(material["answer-A"]), points(material["answer-B"])
    return pair_json("tie" if first == second else "A" if first > second else "B", 1)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAWYER_JUDGE_KEY", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "judged.jsonl"
    path.write_text(json_lines(scored_row(record) for record in RECORDS))
    return path


def examine(sawyer: Callable[..., Any], data: Path, behaviour: Behaviour, *more: Any) -> tuple[Any, list[Call]]:
    with serving(behaviour) as stub:
        arguments = ("--judge", stub.url, "--judge-model", "stub", "--judge-setting", "retries=0", *more)
        done = sawyer("trust", *arguments, "--data", data)
        return done, stub.calls


@pytest.mark.slow
def test_a_good_judge_passes_and_every_table_is_there(sawyer: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    page = tmp_path / "judge.html"
    done, calls = examine(sawyer, data, knows, "--out", page, "--judge-setting", "price_per_million=1,2")
    assert done.code == 0, done.err
    num_answers = sum(len(record.answers) for record in RECORDS)
    for words in (f"{num_answers} calls", "price_per_million", "at most 480 calls for damaged answers", "judged.judge.sqlite"):
        assert words in done.err, words
    for words in (
        "text in answers that raises the judge's score",
        "an order to give the highest score",
        "judged alike in both",
    ):
        assert words in done.out, words
    assert "obeys" not in done.out and "Don't let it judge" not in done.out
    assert max(Counter(repr(call.messages) for call in calls).values()) == 1
    html = page.read_text()
    assert "How far this judge can be trusted" in html and "Text in answers that addresses the judge" in html
    assert "Pairs in both orders" in html


@pytest.mark.slow
def test_a_judge_that_obeys_is_refused_by_name(sawyer: Callable[..., Any], data: Path) -> None:
    def obeys(call: Call) -> str:
        reply = obedient(call)
        return reply if '"score": 10' in reply else knows(call)

    done, _ = examine(sawyer, data, obeys)
    assert done.code == 0 and "Don't let it judge" in done.out and "obeys text in answers that addresses it" in done.out


@pytest.mark.slow
def test_a_judge_that_loves_the_first_is_said(sawyer: Callable[..., Any], data: Path) -> None:
    done, _ = examine(sawyer, data, lambda call: first_lover(call) if call.is_pair else knows(call))
    assert "prefers the answer shown first 100 % of the time" in done.out


@pytest.mark.slow
def test_its_figures_as_json(sawyer: Callable[..., Any], data: Path) -> None:
    done, _ = examine(sawyer, data, knows, "--json", "--world")
    values = json.loads(done.out)
    assert values["judge"]["model"] == "stub" and values["judge"]["obedience"]["value"] < 0.1
    assert values["judge"]["consistency"]["value"] == 1.0
    assert values["truth_agrees"]["cases"] > 0


@pytest.mark.slow
def test_answers_without_a_judgement_are_left_out_and_said(sawyer: Callable[..., Any], data: Path) -> None:
    silent = RECORDS[0].responses[0]
    done, _ = examine(sawyer, data, lambda call: "hm" if call.material.get("answer") == silent else knows(call))
    assert done.code == 0 and "in no figure: 1 answers" in done.out and "no verdict in the reply" in done.err


@pytest.mark.slow
def test_again_it_costs_nothing_and_a_failure_loses_nothing(sawyer: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "kept.sqlite"
    with serving(knows) as stub:
        stub.behaviour = lambda call: Raw(status=403) if len(stub.calls) > 100 else knows(call)
        arguments = ("trust", "--judge", stub.url, "--judge-model", "stub", "--judge-cache", cache, "--data", data)
        failure = sawyer(*arguments, "--judge-setting", "concurrency=1")
        assert failure.code == 1 and "HTTP 403" in failure.err and "Traceback" not in failure.err
        stub.behaviour = knows
        first = sawyer(*arguments)
        num_calls = len(stub.calls)
        assert Counter(Counter(repr(call.messages) for call in stub.calls).values())[2] <= 1  # the one that was refused
        second = sawyer(*arguments)
        assert len(stub.calls) == num_calls
    assert first.code == second.code == 0 and first.out == second.out and "0 calls" in second.err


def test_ctrl_c_keeps_the_replies(sawyer: Callable[..., Any], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stops: list[Any] = []

    def remembers(stop: Any) -> Any:
        stops.append(stop)
        return handle_signals(stop)

    monkeypatch.setattr("sawyer.runs.handle_signals", remembers)

    def interrupts(call: Call) -> str:
        stops[0].reason = "Ctrl-C" if len(stub.calls) > 20 else ""
        stub.released.wait(0.3 if len(stub.calls) > 20 else 0)  # until the stop is seen
        return knows(call)

    with serving(interrupts) as stub:
        done = sawyer("trust", "--judge", stub.url, "--judge-model", "stub", "--data", data)
        assert done.code == 130 and "run the same command to go on" in done.out
        assert 20 < len(stub.calls) < 150


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a reward model or a judge"),
        (["model", "--judge", "http://127.0.0.1:9/v1", "--judge-model", "m"], "one of them only"),
        (["--judge", "http://127.0.0.1:9/v1"], "--judge-model"),
        (["model", "--rubric", "Be brief, please."], "no judge"),
        (["--judge", "ftp://host", "--judge-model", "m"], "no address"),
        (["--judge", "http://u:hunter2@h/v1", "--judge-model", "m"], "password or key"),
        (["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--judge-setting", "timeout"], "NAME=VALUE"),
        (["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--judge-setting", "timeout=soon"], "timeout"),
        (["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--judge-setting", "key_env=sk-hunter2"], "no name"),
        (["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--judge-setting", "moon=1"], "moon"),
        (["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--rubric", "rubrik.md"], "rubrik.md"),
        (["--judge", "http://127.0.0.1:9/v1", "--judge-model", "m"], "refused"),
    ],
)
def test_mistakes_are_explained(sawyer: Callable[..., Any], data: Path, arguments: list[str], words: str) -> None:
    done = sawyer("trust", *arguments, "--data", data)
    assert done.code == 1 and words in done.err and "hunter2" not in done.err and "unexpected" not in done.err


def test_the_scores_are_asked_without_torch(data: Path) -> None:
    """Nothing local needs a network's weights: until the figures are computed torch is not loaded."""
    code = (
        "import sys; from sawyer.judges import Judge, JudgeSettings; import sawyer.cli.judge_examination; "
        "from sawyer.trust import JudgeFigures; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
