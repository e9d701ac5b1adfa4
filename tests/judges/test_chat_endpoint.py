"""Calls: what is tried again, what is not, what a user reads, and where the key goes."""

from __future__ import annotations

import json
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_stub import Hang, Raw, Stub, honest, in_turn, score_json, serving
from raising import raises_with

from sawyer.errors import JudgeError
from sawyer.judges import KEY_ENV, Judge, JudgeSettings, read_key, read_rubric
from sawyer.judges.chat_endpoint import seconds_to_wait
from sawyer.judges.judge_settings import insecure_key
from sawyer.records import prompt_of

PROMPT = prompt_of("What is the opposite of up?")
KEY = "sk-canary-0123456789"
Start = Callable[..., Stub]
Open = Callable[..., Judge]


def test_what_is_sent(stub: Start, judge: Open) -> None:
    server = stub(honest)
    judge(server, max_tokens=99).scores([PROMPT], ["quality 7"])
    (call,) = server.calls
    assert call.path == "/v1/chat/completions"
    assert {name: call.body[name] for name in ("model", "temperature", "max_tokens")} == {
        "model": "stub",
        "temperature": 0.0,
        "max_tokens": 99,
    }
    assert [message["role"] for message in call.messages] == ["system", "user"]
    assert "Authorization" not in call.headers


def test_a_temperature_that_the_model_refuses_is_not_sent(stub: Start, judge: Open) -> None:
    server = stub(honest)
    judge(server, temperature=None).scores([PROMPT], ["quality 7"])
    assert "temperature" not in server.calls[0].body


def test_newer_models_get_the_limit_under_their_name(stub: Start, judge: Open) -> None:
    words = json.dumps({"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}})
    server = stub(in_turn([Raw(status=400, body=words), score_json(4)]))
    assert judge(server).scores([PROMPT] * 2, ["a", "b"]) == [4, 4]
    assert ["max_completion_tokens" in call.body for call in server.calls] == [False, True, True]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_passing_troubles_are_tried_again_with_growing_waits(stub: Start, judge: Open, waits: list[float], status: int) -> None:
    server = stub(in_turn([Raw(status=status), Raw(status=status), Raw(status=status), score_json(5)]))
    assert judge(server).scores([PROMPT], ["a"]) == [5]
    assert waits == [1.0, 2.0, 4.0]  # jitter 1: the longest
    assert len(server.calls) == 4


def test_jitter_halves_a_wait_at_most(stub: Start, judge: Open, waits: list[float]) -> None:
    server = stub(in_turn([Raw(status=500)] * 8 + [score_json(5)]))
    judge(server, options={"jitter": lambda: 0.0}, retries=8).scores([PROMPT], ["a"])
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@pytest.mark.parametrize(("header", "wait"), [("7", 7.0), ("0", 1.0), ("0.5", 1.0), ("soon", 1.0)])
def test_retry_after_is_honoured(stub: Start, judge: Open, waits: list[float], header: str, wait: float) -> None:
    server = stub(in_turn([Raw(status=429, headers={"Retry-After": header}), score_json(5)]))
    assert judge(server).scores([PROMPT], ["a"]) == [5]
    assert waits == [wait]


def test_retry_after_as_a_date() -> None:
    # 1994-11-15 12:45:26 UTC is 784903526 (RFC 9110's example date, as `date -u -d` has it).
    assert seconds_to_wait("Tue, 15 Nov 1994 12:45:26 GMT", lambda: 784903526 - 30.0) == 30.0
    assert seconds_to_wait("Tue, 15 Nov 1994 12:45:26 GMT", lambda: 784903526 + 30.0) == 0.0
    assert seconds_to_wait(None) is None


def test_a_server_that_wants_an_hour_is_not_waited_for(stub: Start, judge: Open, waits: list[float]) -> None:
    server = stub(in_turn([Raw(status=429, headers={"Retry-After": "3600"})]))
    with raises_with(JudgeError, given="3,600 seconds", todo="run the same command again"):
        judge(server).scores([PROMPT], ["a"])
    assert (len(server.calls), waits) == (1, [])


def test_the_retries_end(stub: Start, judge: Open, waits: list[float]) -> None:
    server = stub(in_turn([Raw(status=503, body="overloaded")]))
    with raises_with(JudgeError, given=["3 tries", "overloaded"], todo="run the same command again"):
        judge(server, retries=2).scores([PROMPT], ["a"])
    assert (len(server.calls), waits) == (3, [1.0, 2.0])


def test_no_credit_is_no_passing_trouble(stub: Start, judge: Open) -> None:
    body = json.dumps({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
    server = stub(in_turn([Raw(status=429, body=body)]))
    with raises_with(JudgeError, given=["no credit", "exceeded"], todo="credit"):
        judge(server).scores([PROMPT], ["a"])
    assert len(server.calls) == 1


@pytest.mark.parametrize(("status", "todo"), [(401, KEY_ENV), (403, KEY_ENV), (404, "/v1"), (405, "/v1")])
def test_what_never_gets_better_stops_at_once(stub: Start, judge: Open, status: int, todo: str) -> None:
    server = stub(in_turn([Raw(status=status, body='{"error": {"message": "no such thing"}}')]))
    with raises_with(JudgeError, given=[f"HTTP {status}", "no such thing"], todo=todo):
        judge(server).scores([PROMPT] * 20, [f"answer {i}" for i in range(20)])
    assert len(server.calls) == 1


def test_a_held_connection_times_out_and_is_tried_again(stub: Start, judge: Open, waits: list[float]) -> None:
    server = stub(in_turn([Hang(), score_json(6)]))
    assert judge(server, timeout=0.3).scores([PROMPT], ["a"]) == [6]
    assert waits == [1.0]


def test_a_timeout_that_stays_is_said(stub: Start, judge: Open) -> None:
    server = stub(in_turn([Hang()]))
    with raises_with(JudgeError, given="no answer within 0.2 seconds", todo="timeout"):
        judge(server, timeout=0.2, retries=1).scores([PROMPT], ["a"])
    assert len(server.calls) == 2


def test_nobody_there_is_said_at_once(judge: Open, waits: list[float]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with raises_with(JudgeError, given=[f"127.0.0.1:{port}", "refused"], todo="start it"):
        judge(f"http://127.0.0.1:{port}/v1").scores([PROMPT], ["a"])
    assert waits == []


@pytest.mark.parametrize("host", ["a" * 64, "nowhere.invalid"])
def test_names_that_no_host_has_are_said_at_once(
    judge: Open, waits: list[float], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    def ask_nobody(name: str, *_: Any, **__: Any) -> Any:
        name.encode("idna")  # as the system's function does first: a part of a name has at most 63 letters
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", ask_nobody)
    with raises_with(JudgeError, given="no judge answers at", todo="correct the url"):
        judge(f"http://{host}:9/v1").scores([PROMPT], ["a"])
    assert waits == []


def test_a_server_that_goes_away_is_waited_for(stub: Start, judge: Open, waits: list[float]) -> None:
    with serving(honest) as server:
        opened = judge(server, retries=2)
        assert opened.scores([PROMPT], ["quality 3"]) == [3]
    with raises_with(JudgeError, given="3 tries", todo="what was answered is not asked again"):
        opened.scores([PROMPT], ["quality 4"])
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("body", ["<html>hello</html>", "[]", '{"choices": []}', '{"choices": [{"text": "old"}]}'])
def test_something_else_at_the_address(stub: Start, judge: Open, body: str) -> None:
    server = stub(in_turn([Raw(body=body)]))
    with raises_with(JudgeError, given="no chat completion", expected="OpenAI-compatible"):
        judge(server).scores([PROMPT], ["a"])
    assert len(server.calls) == 1


def test_a_reply_that_is_cut_is_tried_again(stub: Start, judge: Open) -> None:
    server = stub(in_turn([score_json(1), Raw(body='{"choices": [', announced=500), score_json(6)]))
    assert judge(server).scores([PROMPT] * 2, ["a", "b"]) == [1, 6]
    assert len(server.calls) == 3


def test_one_refused_request_is_no_judgement_and_the_others_pass(stub: Start, judge: Open) -> None:
    too_long = Raw(status=400, body='{"error": {"message": "maximum context length is 4096"}}')
    server = stub(lambda call: too_long if "long" in call.material["answer"] else honest(call))
    opened = judge(server)
    assert opened.scores([PROMPT] * 3, ["long", "quality 2", "quality 3"]) == [None, 2, 3]
    tally = opened.tally()
    assert tally.problems == {"rejected": 1} and "maximum context length" in tally.examples["rejected"]
    assert len(server.calls) == 3


def test_if_every_request_is_refused_it_is_not_their_text(stub: Start, judge: Open) -> None:
    server = stub(in_turn([Raw(status=400, body="temperature must be 1")]))
    with raises_with(JudgeError, given="temperature must be 1", todo="temperature: null"):
        judge(server).scores([PROMPT] * 20, [f"answer {i}" for i in range(20)])
    assert len(server.calls) == 3


# The key.


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    stub: Start, judge: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(KEY_ENV, f" {KEY}\n")
    server = stub(lambda call: json.dumps({"reason": call.headers["Authorization"], "score": 3}))
    opened = judge(server)
    assert opened.scores([PROMPT], ["a"]) == [3]
    assert server.calls[0].headers["Authorization"] == f"Bearer {KEY}"
    opened.cache.__exit__(None, None, None)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
    assert KEY not in repr(opened.endpoint.__dict__) and KEY not in repr(vars(opened))


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 302])
def test_the_key_is_in_no_error(stub: Start, judge: Open, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})
    server = stub(in_turn([Raw(status=status, body=body, headers={"Location": f"http://127.0.0.1:9/{KEY}?key={KEY}"})]))
    with pytest.raises(JudgeError) as caught:
        judge(server, key_env="MY_KEY", retries=1).scores([PROMPT] * 4, list("abcd"))
    assert KEY not in "".join(traceback.format_exception(caught.value)) and KEY not in repr(caught.value.args)
    assert status == 302 or "***" in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(stub: Start, judge: Open, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    other = stub(honest)
    server = stub(in_turn([Raw(status=status, headers={"Location": f"{other.url}/chat/completions"})]))
    with raises_with(JudgeError, given=["redirects to", other.url], todo="judge's url"):
        judge(server).scores([PROMPT], ["a"])
    assert other.calls == [] and len(server.calls) == 1


def test_a_key_over_http_to_another_machine_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    warnings = {}
    for url in ("http://judge.example/v1", "https://judge.example/v1", "http://localhost:8000/v1", "http://[::1]:80/v1"):
        settings = JudgeSettings(url=url, model="m")
        warnings[url] = insecure_key(settings, read_key(settings))
    assert [bool(words) for words in warnings.values()] == [True, False, False, False]
    assert "judge.example" in warnings["http://judge.example/v1"] and KEY not in str(warnings)
    assert insecure_key(JudgeSettings(url="http://judge.example/v1", model="m"), None) == ""


@pytest.mark.parametrize("host", ["127.0.0.1.example.com", "localhost.example.com", "127.example", "10.0.0.1", "0.0.0.0"])
def test_names_that_only_look_local_are_not(host: str) -> None:
    assert not JudgeSettings(url=f"http://{host}/v1", model="m").is_local


def test_a_named_variable_must_be_set_and_the_default_need_not() -> None:
    settings = JudgeSettings(url="http://127.0.0.1/v1", model="m")
    assert read_key(settings, {}) is None
    with raises_with(JudgeError, given="MY_KEY", todo="export MY_KEY"):
        read_key(JudgeSettings(url="http://127.0.0.1/v1", model="m", key_env="MY_KEY"), {KEY_ENV: KEY})


@pytest.mark.parametrize("value", ["a key with spaces", "schlüssel", "abc", "two\nlines"])
def test_what_is_no_key_is_not_repeated(value: str) -> None:
    with pytest.raises(JudgeError) as caught:
        read_key(JudgeSettings(url="http://127.0.0.1/v1", model="m"), {KEY_ENV: value})
    assert value not in str(caught.value)


# Settings.


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host/v1", "host:8000/v1", "http:///v1", "", "http://[::1/v1", "http://host:port/v1", "http://host:0/v1"),
        *("http://ho st/v1", "http://host/v 1", "http://host/v1\r\nX-Key: hunter2", "http://hüst/v1", "http://host/ü"),
        *("http://user:hunter2@host/v1", "https://host/v1?api_key=hunter2", "https://hunter2@host/v1"),
    ],
)
def test_urls_that_are_none_or_hold_a_secret(url: str) -> None:
    with pytest.raises(JudgeError) as caught:
        JudgeSettings(url=url, model="m")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://h:1/v1", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/chat/completions", "http://h:1/v1/chat/completions"),
        ("https://h/openai?api-version=2", "https://h/openai/chat/completions?api-version=2"),
    ],
)
def test_the_address_of_a_call(url: str, endpoint: str) -> None:
    assert JudgeSettings(url=url, model="m").endpoint == endpoint


def test_a_key_in_the_place_of_its_name_is_not_repeated() -> None:
    with pytest.raises(JudgeError) as caught:
        JudgeSettings(url="http://h/v1", model="m", key_env=KEY)
    assert KEY not in str(caught.value) and KEY_ENV in caught.value.todo


@pytest.mark.parametrize(
    "values",
    [{"timeout": 0}, {"timeout": float("nan")}, {"concurrency": 0}, {"max_tokens": 0}, {"retries": -1}, {"model": " "}],
)
def test_numbers_that_cannot_be(values: dict[str, float]) -> None:
    with pytest.raises(JudgeError):
        JudgeSettings(**{"url": "http://h/v1", "model": "m", **values})  # type: ignore[arg-type]


def test_a_rubric_is_a_file_or_words(tmp_path: Path) -> None:
    path = tmp_path / "rubric.md"
    path.write_text("Count the letters.\n")
    assert read_rubric(str(path)) == "Count the letters.\n"
    assert read_rubric("Count the words, please.") == "Count the words, please."
    assert "10: it could not be better" in read_rubric(None)
    with raises_with(JudgeError, given="rubrik.md", todo="path"):
        read_rubric("rubrik.md")
    path.write_text(" \n")
    with raises_with(JudgeError, given="empty"):
        read_rubric(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with raises_with(JudgeError, given="cannot be read"):
        read_rubric(str(path))
