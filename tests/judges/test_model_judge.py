"""A judge as a whole: both orders, second requests, what is no judgement, and that no reply is lost or costs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_stub import Call, Hang, Raw, Stub, first_lover, honest, in_turn, pair_json, quality, score_json, serving
from raising import raises_with

from sawyer.errors import Interrupted, JudgeError, RunError
from sawyer.judges import Judge, JudgeSettings, OrderedGrades, count_calls, rater_name
from sawyer.judges.judge_cache import JudgeCache
from sawyer.judges.judge_plan import money
from sawyer.records import prompt_of

PROMPT = prompt_of("What is the opposite of up?")
Start = Callable[..., Stub]
Open = Callable[..., Judge]


def texts(count: int) -> list[str]:
    return [f"quality {i % 11}, answer {i}" for i in range(count)]


def as_cases(answers: list[str]) -> list[Any]:
    return [PROMPT] * len(answers)


def keys(stub: Stub) -> Counter[str]:
    """How often each question reached the endpoint."""
    return Counter(repr(call.messages) for call in stub.calls)


# Scores and pairs.


@pytest.mark.parametrize("concurrency", [1, 8])
def test_scores_come_in_the_order_of_the_answers(stub: Start, judge: Open, concurrency: int) -> None:
    server, answers = stub(honest), texts(60)
    opened = judge(server, concurrency=concurrency)
    assert opened.scores(as_cases(answers), answers) == [quality(text) for text in answers]
    assert opened(as_cases(answers), answers) == [float(quality(text)) for text in answers]
    assert len(server.calls) == 60


def test_equal_questions_are_one_call(stub: Start, judge: Open) -> None:
    server = stub(honest)
    assert judge(server, concurrency=4).scores([PROMPT] * 9, ["quality 4"] * 9) == [4] * 9
    assert len(server.calls) == 1


def test_nothing_to_judge_is_no_call(stub: Start, judge: Open) -> None:
    server = stub(honest)
    assert judge(server)([], []) == [] and server.calls == []


@pytest.mark.parametrize(
    ("forward", "backward", "grade", "flipped"),
    [
        (3, 1, 1, False),  # the weaker of two agreeing strengths
        (-2, -3, -2, False),
        (-2, 2, 0, True),  # the answer shown first won both times
        (1, -1, 0, True),  # the second one did
        (2, 0, 0, False),
        (0, 0, 0, False),
        (None, 2, None, False),
        (2, None, None, False),
    ],
)
def test_two_orders_make_one_grade(forward: int | None, backward: int | None, grade: int | None, flipped: bool) -> None:
    grades = OrderedGrades(forward=forward, backward=backward)
    assert (grades.grade, grades.is_flipped) == (grade, flipped)


def test_a_pair_is_asked_in_both_orders(stub: Start, judge: Open) -> None:
    server = stub(honest)
    grades = judge(server).compare(PROMPT, "quality 3", "quality 5")
    assert (grades.forward, grades.backward, grades.grade) == (2, 2, 2)
    shown = [(call.material["answer-A"], call.material["answer-B"]) for call in server.calls]
    assert shown == [("quality 3", "quality 5"), ("quality 5", "quality 3")]
    assert judge(server).compare(PROMPT, "quality 5", "quality 3").grade == -2
    # The pair the other way round is the same two questions.
    assert len(server.calls) == 2


def test_a_judge_that_loves_the_first_gives_ties(stub: Start, judge: Open) -> None:
    server = stub(first_lover)
    grades = judge(server).compare_all([(PROMPT, "quality 1", "quality 9"), (PROMPT, "quality 9", "quality 1")])
    assert [(one.grade, one.is_flipped) for one in grades] == [(0, True), (0, True)]
    # Asked in one order alone, as it should not be, it would have decided both.
    assert judge(server).grades([PROMPT] * 2, ["quality 1", "quality 9"], ["quality 9", "quality 1"]) == [-2, -2]


# What is no judgement.


def test_wrong_json_is_asked_for_once_more(stub: Start, judge: Open) -> None:
    server = stub(in_turn(["A fine answer: 7 of 10.", score_json(7)]))
    opened = judge(server)
    assert opened.scores([PROMPT], ["a"]) == [7]
    assert [message["role"] for message in server.calls[1].messages] == ["system", "user", "assistant", "user"]
    assert server.calls[1].messages[2]["content"] == "A fine answer: 7 of 10."
    assert opened.tally().second_tries == 1 and opened.tally().num_unjudged == 0


@pytest.mark.parametrize(
    ("reply", "problem"), [("seven", "unreadable"), (score_json(11), "out_of_range"), (pair_json("A"), "unreadable")]
)
def test_wrong_twice_is_no_judgement(stub: Start, judge: Open, reply: str, problem: str) -> None:
    server = stub(in_turn([reply]))
    opened = judge(server)
    assert opened.scores([PROMPT], ["a"]) == [None]
    tally = opened.tally()
    assert tally.problems == {problem: 1} and tally.examples == {problem: reply}
    assert (tally.verdicts, tally.num_unjudged, len(server.calls)) == (0, 1, 2)
    assert opened([PROMPT], ["a"]) == [0.0]  # as a scorer: nothing is gained by confusing it
    assert len(server.calls) == 2
    assert "without a judgement 1" in tally.words and reply[:5] in tally.words


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, I can't judge that.",
        {"role": "assistant", "content": None, "refusal": "I will not."},
        {"role": "assistant", "content": "", "finish_reason": "content_filter"},
    ],
)
def test_a_refusal_is_counted_and_not_asked_again(stub: Start, judge: Open, reply: Any) -> None:
    server = stub(lambda call: dict(reply) if isinstance(reply, dict) else reply)
    opened = judge(server)
    assert opened.scores([PROMPT], ["a"]) == [None]
    assert opened.tally().problems == {"refusal": 1} and len(server.calls) == 1


def test_a_verdict_that_is_cut_says_so(stub: Start, judge: Open) -> None:
    server = stub(lambda call: {"role": "assistant", "content": '{"reason": "long', "finish_reason": "length"})
    opened = judge(server)
    assert opened.scores([PROMPT], ["a"]) == [None]
    assert "cut at max_tokens" in opened.tally().examples["unreadable"]


def test_parts_of_a_message_are_joined(stub: Start, judge: Open) -> None:
    parts = [{"type": "text", "text": '{"score"'}, {"type": "text", "text": ": 4}"}]
    server = stub(lambda call: {"role": "assistant", "content": parts})
    assert judge(server).scores([PROMPT], ["a"]) == [4]


# The cache, and what is said before and after.


def test_no_reply_costs_twice(stub: Start, judge: Open) -> None:
    server, answers = stub(honest), texts(30)
    judge(server).scores(as_cases(answers), answers)
    again = judge(server)
    assert again.scores(as_cases(answers), answers) == [quality(text) for text in answers]
    assert len(server.calls) == 30 and again.tally().calls == 0 and again.tally().verdicts == 30
    assert again.tally().prompt_tokens == 300  # of replies from the file as well: what the judgements cost in all


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"rubric": "Count the words, please."}, {"temperature": 0.5}, {"max_tokens": 77}]
)
def test_another_judge_is_asked_anew(stub: Start, judge: Open, change: dict[str, Any]) -> None:
    server = stub(honest)
    judge(server).scores([PROMPT], ["a"])
    judge(server, **change).scores([PROMPT], ["a"])
    assert len(server.calls) == 2


@pytest.mark.parametrize("change", [{"concurrency": 7}, {"timeout": 9.0}, {"retries": 1}, {"price_per_million": (1.0, 2.0)}])
def test_the_same_judge_in_another_hurry_is_not(stub: Start, judge: Open, change: dict[str, Any]) -> None:
    server = stub(honest)
    judge(server).scores([PROMPT], ["a"])
    judge(server, **change).scores([PROMPT], ["a"])
    assert len(server.calls) == 1


def test_the_plan_counts_calls_and_money(stub: Start, judge: Open) -> None:
    server = stub(honest)
    opened = judge(server, price_per_million=(2.0, 10.0), max_tokens=100)
    questions = [opened.score_question(PROMPT, text) for text in ["a", "b", "b", "c"]]
    plan = opened.plan(questions)
    assert (plan.questions, plan.calls, plan.completion_tokens) == (3, 3, 300)
    # By hand: the price of the input estimate at 2 a million and of 300 output tokens at 10 a million.
    assert plan.price == pytest.approx(plan.prompt_tokens * 2e-6 + 300 * 1e-5)
    size = sum(len(message.content.encode()) for question in questions[:2] + questions[3:] for message in question.messages)
    assert size / 4.5 < plan.prompt_tokens < size / 3
    opened.scores([PROMPT] * 2, ["a", "b"])
    assert (opened.plan(questions).calls, opened.plan(questions).questions) == (1, 3)
    assert "1 call, 2 more are answered already" in opened.plan(questions).words
    assert "3 calls" in plan.words and "price_per_million" in plan.words
    assert [money(amount) for amount in (0.0, 0.01234, 12.345)] == ["0.00", "0.012", "12.35"]


def test_calls_by_hand() -> None:
    # Ten prompts with four answers: four scores each, and six pairs in two orders.
    assert [count_calls(method, 10, 4) for method in ("score", "pair", "both")] == [40, 120, 160]  # type: ignore[arg-type]


def test_names_among_raters() -> None:
    assert rater_name("qwen") == "judge:qwen"
    names = {rater_name("m" * 70 + end) for end in "ab"}
    assert len(names) == 2 and all(len(name) == 60 for name in names)


# Interruption.


def test_a_stop_keeps_what_was_asked_and_the_rest_is_asked_later(stub: Start, judge: Open) -> None:
    server, answers = stub(honest), texts(50)
    seen: list[int] = []
    stopping = {
        "on_progress": lambda done, _: seen.append(done),
        "stop_reason": lambda: "Ctrl-C" if len(server.calls) > 9 else "",
    }
    with raises_with(Interrupted, given=["of 50", "Ctrl-C", "are kept"], todo="twice"):
        # The tenth reply comes once the stop has been seen.
        slow = judge(server, concurrency=2, options=stopping)
        server.behaviour = lambda call: (len(server.calls) > 9 and slow._stop_event.wait(20), honest(call))[1]
        slow.scores(as_cases(answers), answers)
    asked = len(server.calls)
    assert 10 <= asked < 50
    assert len(slow.cache) == asked  # whatever reached the endpoint was waited for and kept
    server.behaviour = honest
    assert judge(server).scores(as_cases(answers), answers) == [quality(text) for text in answers]
    assert len(server.calls) == 50 and set(keys(server).values()) == {1}


def test_a_failure_in_the_middle_loses_nothing(stub: Start, judge: Open) -> None:
    answers = texts(40)
    server = stub(lambda call: Raw(status=401) if len(server.calls) > 25 else honest(call))
    with raises_with(JudgeError, given="HTTP 401"):
        judge(server, concurrency=4).scores(as_cases(answers), answers)
    server.behaviour = honest
    before = len(server.calls)
    assert judge(server).scores(as_cases(answers), answers) == [quality(text) for text in answers]
    assert len(server.calls) - before == 40 - 25  # the 25 that were answered are not asked again


KILLED = """
import sys
from pathlib import Path
from sawyer.judges import Judge, JudgeSettings
from sawyer.records import prompt_of
answers = [f"quality {i % 11}, answer {i}" for i in range(40)]
settings = JudgeSettings(url=sys.argv[1], model="stub", concurrency=3)
with Judge.open(settings, cache=Path(sys.argv[2])) as judge:
    judge.scores([prompt_of("What is the opposite of up?")] * 40, answers)
"""


@pytest.mark.parametrize("moment", [1, 7, 20])
def test_a_kill_loses_no_reply_that_was_used(tmp_path: Path, moment: int) -> None:
    answers, path = texts(40), tmp_path / "cache.sqlite"
    replied, process = list[str](), list[subprocess.Popen[bytes]]()
    ready = threading.Event()

    def behave(call: Call) -> Any:
        if len(server.calls) >= moment:
            ready.set()
            return Hang()  # the process dies while it waits for this one
        replied.append(repr(call.messages))
        return honest(call)

    with serving(behave) as server:
        with subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(path)], env=os.environ) as child:
            process.append(child)
            assert ready.wait(30)
            # Every thread waits for a reply that does not come: all earlier ones have been kept before.
            while len(server.calls) < moment + 2:
                server.released.wait(0.01)
            child.send_signal(signal.SIGKILL)
        server.behaviour = honest
        settings = JudgeSettings(url=server.url, model="stub", concurrency=1)
        with Judge.open(settings, cache=path) as judge:
            assert len(judge.cache) == len(replied)
            assert judge.scores(as_cases(answers), answers) == [quality(text) for text in answers]
        assert all(keys(server)[question] == 1 for question in replied)


# The file.


def test_another_program_s_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    path.write_text("these are my notes, and no database at all\n" * 50)
    before = path.read_bytes()
    with raises_with(JudgeError, given="damaged or no database", todo="move the file away"):
        JudgeCache(path)
    assert path.read_bytes() == before


def test_another_database_is_left_alone(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    path = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs (a)")
        database.commit()
    with raises_with(JudgeError, given="no file with a judge's answers"):
        JudgeCache(path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises_with(RunError, given="cannot be written", todo="another path"):
        JudgeCache(tmp_path / "file" / "cache.sqlite")


def test_a_disk_that_is_full_stops_the_judge(stub: Start, judge: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    server, answers = stub(honest), texts(200)
    opened = judge(server)
    opened.cache._database.execute("PRAGMA max_page_count = 3")  # SQLite then says that the disk is full
    with raises_with(RunError, given=["cannot be written", "full"], why="cost again"):
        opened.scores(as_cases(answers), answers)
    assert len(server.calls) < 200
