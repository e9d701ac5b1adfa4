"""A run whose collected answers a model judges: its votes train the reward model of the same command, or of a later one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from judge_stub import Call, Raw, Stub, score_json, serving

from sawyer import pipeline
from sawyer.config import parse_config
from sawyer.errors import JudgeError
from sawyer.ratings import RatingStore
from sawyer.runs import Layout, read_manifest, read_rows

NO_LATER = {"rl": None, "compare": None, "world.rater": "people", "reward.data": []}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAWYER_JUDGE_KEY", raising=False)


def by_text(call: Call) -> str:
    """Scores that differ: by the answer's letters."""
    return score_json(sum(map(ord, call.material["answer"])) % 11)


def settings(stub: Stub, **judge: Any) -> dict[str, Any]:
    return {**NO_LATER, "collect.judge": {"url": stub.url, "model": "stub", "retries": 0, **judge}}


def statuses(out: Path) -> dict[str, str]:
    return {name: state["status"] for name, state in read_manifest(Layout(out).manifest)["stages"].items()}


def judgements(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Layout(out).judgements.read_text().splitlines()]


@pytest.mark.slow
def test_one_command_from_answers_to_a_reward_model(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("collect", tmp_path / "run")
    with serving(by_text) as stub:
        tiny.as_begun(out, NO_LATER, ("base", "classify", "sft"))
        tiny.run(out, settings(stub))
        num_calls = len(stub.calls)
        assert statuses(out)["collect"] == statuses(out)["reward"] == "done"
        rows = judgements(out)
        scores = {answer["score"] for row in rows for answer in row["responses_and_scores"]}
        assert {row["rater"] for row in rows} == {"r1"} and len(scores) > 3
        assert read_manifest(Layout(out).manifest)["stages"]["collect"]["figures"]["judge_calls"] == num_calls
        # The same command again asks nothing and does nothing.
        tiny.run(out, settings(stub))
        assert len(stub.calls) == num_calls


@pytest.mark.slow
def test_a_judge_that_comes_later_judges_the_answers_that_waited(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("collect", tmp_path / "run")
    tiny.as_begun(out, NO_LATER, ("base", "classify", "sft"))
    tiny.run(out, NO_LATER)
    assert statuses(out)["collect"] == "waiting" and "reward" not in statuses(out)
    before = Layout(out).answers.read_bytes()
    with serving(by_text) as stub:
        tiny.run(out, settings(stub))
    assert statuses(out)["collect"] == statuses(out)["reward"] == "done"
    assert Layout(out).answers.read_bytes() == before


@pytest.mark.slow
def test_a_judge_that_fails_in_the_middle_goes_on(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("collect", tmp_path / "run")
    tiny.as_begun(out, NO_LATER, ("base", "classify", "sft"))

    def fails_late(call: Call) -> Any:
        return Raw(status=401) if len(stub.calls) == 20 else by_text(call)

    with serving(fails_late) as stub:
        with pytest.raises(JudgeError, match="HTTP 401"):
            tiny.run(out, settings(stub, concurrency=1))
        assert statuses(out)["collect"] == "failed"
        answers = Layout(out).answers.read_bytes()
        tiny.run(out, settings(stub, concurrency=3))  # another speed is no other config
        calls = Counter(repr(call.messages) for call in stub.calls)
    assert statuses(out)["collect"] == statuses(out)["reward"] == "done"
    assert Layout(out).answers.read_bytes() == answers
    assert sorted(calls.values())[-2:] == [1, 2]  # only the call that was refused is made again
    messages = [row["message"] for row in read_rows(Layout(out).events) if row["kind"] == "judge"]
    assert any("19 more are answered already" in message for message in messages)


@pytest.mark.slow
def test_a_later_round_is_judged_also_where_the_judge_failed_after_its_answers(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("collect", tmp_path / "run")
    tiny.as_begun(out, NO_LATER, ("base", "classify", "sft"))
    layout = Layout(out)
    with serving(by_text) as stub:
        changes = {**settings(stub, concurrency=1), "compare": None}
        del changes["rl"]
        tiny.run(out, changes)
        num_calls = len(stub.calls)
        stub.behaviour = lambda call: Raw(status=401) if len(stub.calls) > num_calls + 3 else by_text(call)
        config = parse_config(tiny.tree(out, changes))
        with pytest.raises(JudgeError, match="HTTP 401"):
            pipeline.run(config, only="collect", collection=2)
        assert layout.answers_of(2).exists()  # they are there, and three of them are judged
        stub.behaviour = by_text
        tiny.run(out, changes)
        calls = Counter(repr(call.messages) for call in stub.calls)
    assert sorted(calls.values())[-2:] == [1, 2]  # the refused one
    with RatingStore.open(layout.ratings) as store:
        rounds = Counter(rated.item.round for rated in store.rated_items())
    assert rounds[1] > 0 and rounds[2] > 0
    # Its votes were judgements of another training: the first one is kept.
    assert layout.count_rounds() == 1 and statuses(out)["reward"] == statuses(out)["rl"] == "done"
