"""A judge in the collect stage: its votes, what is said before and after, interruption, and where the key is not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from judge_stub import Call, Raw, Stub, first_lover, pair_json, score_json, serving
from raising import raises_with

from sawyer.config import parse_config
from sawyer.errors import ConfigError, Interrupted, JudgeError
from sawyer.judges import KEY_ENV
from sawyer.pipeline.preflight import preflight
from sawyer.ratings import RatingSettings, RatingStore, agreement_report, judgement_of, training_rows
from sawyer.runs import Run, open_run, read_rows
from sawyer.stages.collect import collect, judge_collected

Fixture = Any
KEY = "sk-canary-0123456789"


def by_length(call: Call) -> str:
    """A judge whose verdict anybody can compute: the longer answer, 0 to 10 by its characters."""
    material = call.material
    if not call.is_pair:
        return score_json(min(10, len(material["answer"]) // 4))
    first, second = len(material["answer-A"]), len(material["answer-B"])
    return pair_json("tie" if first == second else "A" if first > second else "B", 2)


def config_of(tiny: Fixture, out: Path, stub: Stub, *, answers: int = 3, **judge: Any) -> Any:
    section = {"url": stub.url, "model": "stub", "timeout": 5.0, "retries": 1, **judge}
    asked = {"prompts": [str(tiny.prompts)], "answers": answers, "max_new_tokens": 10, "limit": 8, "judge": section}
    return tiny.config(out, sft={"data": [str(tiny.instructions)]}, collect=asked)


@pytest.fixture
def run(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv(KEY_ENV, raising=False)
    with tiny.run(tmp_path / "run", "sft") as run:
        yield run


def rated_items(run: Run) -> list[Any]:
    with RatingStore.open(run.layout.ratings) as store:
        return list(store.rated_items())


def events(run: Run, kind: str) -> str:
    return "\n".join(str(row["message"]) for row in read_rows(run.layout.events) if row["kind"] == kind)


def test_scores_become_votes_of_a_model(tiny: Fixture, run: Run) -> None:
    with serving(by_length) as stub:
        figures = collect(config_of(tiny, run.layout.root, stub), run)
    items = rated_items(run)
    assert len(items) == 8 and figures["waiting"] == 0 and figures["judge_votes"] == 8
    for rated in items:
        (vote,) = rated.votes
        rater = vote.assignment.rater
        assert (rater.name, rater.kind, vote.assignment.method) == ("judge:stub", "model", "score")
        judgement = judgement_of(vote)
        assert judgement is not None
        assert judgement.scores == tuple(min(10, len(answer.response) // 4) for answer in rated.item.answers)
    answers = sum(len(rated.item.answers) for rated in items)
    assert figures["judge_verdicts"] == figures["judge_calls"] == answers == len(stub.calls)
    assert f"{answers} calls" in events(run, "judge") and f"{answers} verdicts" in events(run, "judge")
    # The answers themselves wait for people as before.
    rows = [json.loads(line) for line in run.layout.answers.read_text().splitlines()]
    assert all(answer["score"] is None for row in rows for answer in row["responses_and_scores"])


def test_pairs_are_votes_of_both_orders(tiny: Fixture, run: Run) -> None:
    with serving(by_length) as stub:
        figures = collect(config_of(tiny, run.layout.root, stub, method="pair"), run)
    items = rated_items(run)
    assert len(stub.calls) == 2 * len(items) == figures["judge_verdicts"]
    grades = [rated.votes[0].assignment.vote.choice.grade for rated in items]
    lengths = [[len(answer.response) for answer in rated.item.answers] for rated in items]
    assert grades == [0 if a == b else 2 if b > a else -2 for a, b in lengths]
    assert figures["judge_flipped"] == 0
    rows, summary = training_rows(items, {"judge:stub": 0.5})
    assert summary.raters == 1 and {row.get("judgement_weight") for row in rows} == {0.5}
    assert agreement_report(items).profiles[0].kind == "model"


def test_a_judge_whose_order_decides_gives_ties_and_is_counted(tiny: Fixture, run: Run) -> None:
    with serving(first_lover) as stub:
        figures = collect(config_of(tiny, run.layout.root, stub, method="pair"), run)
    items = rated_items(run)
    assert {rated.votes[0].assignment.vote.choice.grade for rated in items} == {0}
    assert figures["judge_flipped"] == len(items) > 8
    assert f"{len(items)} of {len(items)} pairs changed with the order" in events(run, "judge")


def test_both_ask_for_both(tiny: Fixture, run: Run) -> None:
    with serving(by_length) as stub:
        collect(config_of(tiny, run.layout.root, stub, method="both"), run)
    methods = Counter(vote.assignment.method for rated in rated_items(run) for vote in rated.votes)
    assert methods["score"] == 8 and methods["graded"] > 8


def test_answers_without_a_judgement_are_skips_and_said(tiny: Fixture, run: Run) -> None:
    first: list[str] = []

    def refuses_one_prompt(call: Call) -> str:
        first.append(call.material["conversation"])
        return "I'm sorry, I can't." if call.material["conversation"] == first[0] else by_length(call)

    with serving(refuses_one_prompt) as stub:
        figures = collect(config_of(tiny, run.layout.root, stub, concurrency=1), run)
    skips = [vote for rated in rated_items(run) for vote in rated.votes if vote.assignment.vote.choice.skip]
    assert len(skips) == 1 and figures["judge_unjudged"] == len(skips[0].assignment.item.answers)
    assert "refused (such as \"I'm sorry, I can't.\")" in events(run, "judge")


def test_not_one_judgement_is_an_error(tiny: Fixture, run: Run) -> None:
    with serving(lambda call: "seven of ten") as stub, raises_with(JudgeError, given=["not one judgement", "seven of ten"]):
        collect(config_of(tiny, run.layout.root, stub), run)


def test_an_interrupted_judge_goes_on_and_no_call_is_made_twice(tiny: Fixture, run: Run) -> None:
    def behave(call: Call) -> str:
        if len(stub.calls) == 7:
            run.stop.set("Ctrl-C")
        stub.released.wait(0.3 if len(stub.calls) > 7 else 0)  # until the stop is seen
        return by_length(call)

    with serving(behave) as stub:
        config = config_of(tiny, run.layout.root, stub, concurrency=2)
        with raises_with(Interrupted, given=["Ctrl-C", "judge"]):
            collect(config, run)
        assert 7 <= len(stub.calls) < 20
        run.stop.reason = ""
        figures = collect(config, run)
        calls = Counter(repr(call.messages) for call in stub.calls)
    assert set(calls.values()) == {1} and figures["judge_verdicts"] == len(calls)
    assert len(rated_items(run)) == 8
    progress = [row for row in read_rows(run.layout.events) if row["kind"] == "interrupted"]
    assert len(progress) == 1


def test_judged_again_is_free_and_another_rubric_revises(tiny: Fixture, run: Run) -> None:
    with serving(by_length) as stub:
        config = config_of(tiny, run.layout.root, stub)
        collect(config, run)
        num_calls = len(stub.calls)
        figures = judge_collected(config, run)
        assert (len(stub.calls), figures["judge_calls"], figures["judge_votes"]) == (num_calls, 0, 0)
        stub.behaviour = lambda call: score_json(9 if "Brevity" in call.messages[0]["content"] else 1)
        judge_collected(config_of(tiny, run.layout.root, stub, rubric="Brevity is all that counts."), run)
    with RatingStore.open(run.layout.ratings) as store:
        revisions = Counter(vote.revision for vote in store.stored_votes())
        last = {vote.assignment.vote.choice.scores for rated in store.rated_items() for vote in rated.votes}
    assert revisions == {1: 8, 2: 8} and all(set(scores) == {9} for scores in last)


def test_people_s_settings_stay_and_people_are_asked_all_the_same(tiny: Fixture, run: Run) -> None:
    with serving(by_length) as stub:
        config = config_of(tiny, run.layout.root, stub, method="pair")
        people = RatingSettings(method="pair", overlap=0.0)
        with RatingStore.open(run.layout.ratings, settings=people):
            pass
        collect(config, run)
    with RatingStore.open(run.layout.ratings) as store:
        assert store.settings == people
        # The judge has judged everything; without overlap a first person is still asked for everything, a second for nothing.
        num_items = len(store.rated_items())
        anna, bob = store.rater("anna"), store.rater("bob")
        assert len(store.assign(anna, 100, 1.0)) == num_items and store.assign(bob, 100, 1.0) == []


def test_the_key_is_in_no_file_of_the_run(tiny: Fixture, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)

    def repeats_it(call: Call) -> Any:
        if len(stub.calls) == 4:
            words = f"bad request with key {call.headers['Authorization']}"
            return Raw(status=400, body=json.dumps({"error": {"message": words}}))
        return json.dumps({"reason": call.headers["Authorization"], "score": 3})

    with serving(repeats_it) as stub:
        config = config_of(tiny, run.layout.root, stub, key_env="MY_JUDGE_KEY", concurrency=1)
        run.adopt(config.model_dump(mode="json"))
        collect(config, run)
        assert stub.calls[0].headers["Authorization"] == f"Bearer {KEY}"
    run.journal.sync()
    files = [path for path in run.layout.root.rglob("*") if path.is_file()]
    assert len(files) > 8 and [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert run.layout.judge_cache in files and run.layout.config in files


# The config.


def plain(tmp_path: Path, **judge: Any) -> dict[str, Any]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Say yes."}\n{"prompt": "Say no."}\n')
    section = {"url": "http://127.0.0.1:9/v1", "model": "m", **judge}
    return {"out": str(tmp_path / "run"), "model": "gpt2", "collect": {"prompts": [str(prompts)], "judge": section}}


@pytest.mark.parametrize(
    "judge",
    [
        {"url": "http://user:hunter2-secret@host/v1"},
        {"url": "https://host/v1?api_key=hunter2-secret"},
        {"key_env": "hunter2-secret"},
    ],
)
def test_a_secret_in_the_config_is_refused_and_not_repeated(tmp_path: Path, judge: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(plain(tmp_path, **judge))
    assert "hunter2" not in str(caught.value) and KEY_ENV in str(caught.value)


@pytest.mark.parametrize("judge", [{"url": "host:80"}, {"method": "rank"}, {"price_per_million": [-1, 2]}, {"timeout": 0}])
def test_settings_that_cannot_be(tmp_path: Path, judge: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse_config(plain(tmp_path, **judge))


def test_a_world_s_rater_and_a_judge_are_one_too_many(tmp_path: Path) -> None:
    with raises_with(ConfigError, given=["collect.judge", "world.rater: people"]):
        parse_config({**plain(tmp_path), "world": {"rater": "lazy"}})
    assert parse_config({**plain(tmp_path), "world": {"rater": "people"}}).collect is not None


def test_the_plan_says_the_calls_and_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV, raising=False)
    (plan,) = preflight(parse_config(plain(tmp_path, method="both")), only="collect")
    # Two prompts with four answers: four scores and six pairs in two orders each.
    assert "at most 32 calls of the judge m (127.0.0.1:9)" in dict(plan.facts)["steps"]
    for change, words in ({"rubric": "rubrik.md"}, "rubrik.md"), ({"key_env": "NOT_SET"}, "NOT_SET"):
        (plan,) = preflight(parse_config(plain(tmp_path, **change)), only="collect")
        assert [words in str(problem) for problem in plan.problems if isinstance(problem, JudgeError)] == [True]


def test_the_judge_is_no_part_of_what_the_answers_are_made_from(tmp_path: Path) -> None:
    from sawyer.pipeline.fingerprint import fingerprint

    with_judge = plain(tmp_path)
    without = {**with_judge, "collect": {key: value for key, value in with_judge["collect"].items() if key != "judge"}}
    assert fingerprint(parse_config(with_judge), "collect") == fingerprint(parse_config(without), "collect")


def test_opening_a_run_leaves_the_judge_s_file(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        run.layout.judge_cache.write_bytes(b"x")
    with open_run(tmp_path / "run") as run:
        assert run.layout.judge_cache.exists()
