"""`sawyer rate`: what it opens, prints, exports and refuses. The server itself is tested in tests/web."""

from __future__ import annotations

import csv
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.cli import rate_command
from sawyer.ratings import RatingStore, Vote, parse_choice
from sawyer.runs import Layout
from sawyer.web.core import RunningServer, ServerSettings

pytest.importorskip("starlette", reason="the extra `web` is not installed")

Sawyer = Callable[..., Any]
ANSWERS = [{"response": text, "score": None, "source": "sft"} for text in "abc"]
ROWS = [{"user_input": f"question {n}?", "responses_and_scores": ANSWERS} for n in range(4)]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    path = tmp_path / "some.answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """With what each command would have served; it is ready, and ends."""
    served: list[ServerSettings] = []

    def serve(app: Any, settings: ServerSettings, on_ready: Callable[[RunningServer], None]) -> None:
        served.append(settings)
        on_ready(RunningServer(url=settings.url(settings.port), port=settings.port, stop=lambda: None))

    monkeypatch.setattr("sawyer.web.core.serve", serve)
    return served


def vote_all(path: Path, name: str, choice: dict[str, Any]) -> None:
    with RatingStore.open(path) as store:
        rater = store.rater(name)
        for one in store.assign(rater, 100, 1.0):
            parsed = parse_choice(choice, one.method, len(one.order))
            store.vote(rater, Vote(id=f"{name}-{one.id}", assignment=one.id, choice=parsed, seconds=5.0, rewrite="better"), 2.0)


def test_a_file_is_rated_beside_it(sawyer: Sawyer, answers: Path, settings: list[ServerSettings]) -> None:
    done = sawyer("rate", answers)
    votes = answers.with_name("some.answers.ratings.sqlite")
    assert done.code == 0 and votes.exists()
    assert "Rate at http://127.0.0.1:8321/" in done.out and "http://127.0.0.1:8321/owner" in done.out
    assert "0 new votes; 0 of 12 items are judged" in done.out  # 4 prompts, 3 pairs each
    assert settings == [ServerSettings()] and settings[0].token is None
    assert "token" not in done.out and "encrypted" not in done.out


def test_a_run_is_rated_in_its_folder(sawyer: Sawyer, answers: Path, tmp_path: Path, settings: list[ServerSettings]) -> None:
    layout = Layout(tmp_path / "run")
    layout.answers.parent.mkdir(parents=True)
    layout.answers.write_bytes(answers.read_bytes())
    done = sawyer("rate", layout.root, "--as", "rank", "--overlap", "0.5", "--seed", "3")
    assert done.code == 0 and f"`sawyer run {layout.root}` learns from them" in done.out
    with RatingStore.open(layout.ratings) as store:
        assert (store.settings.method, store.settings.overlap, store.settings.seed) == ("rank", 0.5, 3)
    assert sawyer("rate", layout.root, "--overlap", "0.1").code == 0
    with RatingStore.open(layout.ratings) as store:  # what the second command does not name stays as it was
        assert (store.settings.method, store.settings.overlap, store.settings.seed) == ("rank", 0.1, 3)


def test_the_network_is_opened_with_a_token_and_says_what_is_open(
    sawyer: Sawyer, answers: Path, settings: list[ServerSettings]
) -> None:
    done = sawyer("rate", answers, "--lan", "--port", "9001", "--rater", "Anna", "--rater", "Ben")
    assert done.code == 0 and settings[0].host == "0.0.0.0" and settings[0].token
    assert f"/owner#token={settings[0].token}" in done.out
    keys = re.findall(r"(Anna|Ben) rates at http://\S+:9001/#key=([0-9a-f]{32})", done.out)
    assert [name for name, _ in keys] == ["Anna", "Ben"] and keys[0][1] != keys[1][1]
    assert (
        "Open to everyone who reaches port 9001" in done.out
        and "not encrypted" not in done.out
        and "Nothing is encrypted" in done.out
    )
    assert sawyer("rate", answers, "--host", "10.0.0.7", "--token", "my-own-token").code == 0
    assert (settings[1].host, settings[1].token) == ("10.0.0.7", "my-own-token")
    assert sawyer("rate", answers, "--token", "my-own-token").code == 0 and settings[2].token == "my-own-token"
    refused = sawyer("rate", answers, "--token", "short")
    assert refused.code == 1 and "8 or more" in refused.err and "short" not in refused.err


def test_a_used_port_is_explained(sawyer: Sawyer, answers: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = sawyer("rate", answers, "--port", port)
    assert done.code == 1 and f"port {port} is in use" in done.err and "--port " in done.err.split("what to do")[1]


def test_without_the_extra_the_command_to_install_it_is_named(
    sawyer: Sawyer, answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_command, "find_spec", lambda name: None)
    done = sawyer("rate", answers)
    assert done.code == 1 and "pip install 'sawyer[web]'" in done.err
    assert not answers.with_name("some.answers.ratings.sqlite").exists()


def test_exports_and_agreement_of_what_was_judged(
    sawyer: Sawyer, answers: Path, tmp_path: Path, settings: list[ServerSettings]
) -> None:
    votes, out = answers.with_name("some.answers.ratings.sqlite"), tmp_path / "out.txt"
    nothing = sawyer("rate", answers, "--export", out)
    assert nothing.code == 1 and "nothing was rated" in nothing.err and not out.exists() and not votes.exists()
    assert sawyer("rate", answers, "--overlap", "1").code == 0
    vote_all(votes, "Anna", {"grade": 2})
    vote_all(votes, "Ben", {"grade": -1})
    assert sawyer("rate", answers, "--export", out).code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 24 and "Anna" not in out.read_text()
    assert sawyer("rate", answers, "--export", out, "--what", "csv", "--with-raters").code == 0
    with out.open(newline="") as file:
        assert len(list(csv.reader(file))) == 25 and "Anna" in out.read_text()
    assert sawyer("rate", answers, "--export", out, "--what", "demonstrations").code == 0
    assert sawyer("rate", answers, "--export", out, "--what", "pairs").code == 0 and '"chosen"' in out.read_text()
    unknown = sawyer("rate", answers, "--export", out, "--what", "everything")
    assert unknown.code == 1 and "answers, pairs, csv, demonstrations" in unknown.err
    agreement = sawyer("rate", answers, "--agreement")
    assert agreement.code == 0 and "cap" in agreement.out and len(settings) == 1  # no server


def test_an_export_does_not_replace_what_is_rated(sawyer: Sawyer, answers: Path, settings: list[ServerSettings]) -> None:
    votes, before = answers.with_name("some.answers.ratings.sqlite"), answers.read_bytes()
    assert sawyer("rate", answers).code == 0
    for path in (answers, votes, answers.parent / "." / answers.name):
        assert sawyer("rate", answers, "--export", path).code == 1
    assert answers.read_bytes() == before
    with RatingStore.open(votes) as store:
        assert store.progress().items == 12


def test_another_tool_s_export_is_imported(
    sawyer: Sawyer, answers: Path, tmp_path: Path, settings: list[ServerSettings]
) -> None:
    foreign = tmp_path / "argilla.json"
    record = {"id": "1", "fields": {"instruction": "Up?", "generation-0": "zero", "generation-1": "one"}, "_server_id": "5f1c"}
    empty: dict[str, Any] = {"metadata": {}, "suggestions": {}, "vectors": {}}
    foreign.write_text(
        json.dumps([record | empty | {"responses": {"preference": [{"value": "generation-1", "user_id": "u-1"}]}}])
    )
    done = sawyer("rate", answers, "--import", foreign)
    assert done.code == 0, done.err
    assert "1 votes" in done.out and "1 rater" in done.out and settings == []
    assert sawyer("rate", answers, "--import", tmp_path / "nowhere.json").code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("nowhere.jsonl",), "nowhere.jsonl"), (("{answers}", "--as", "stars"), "pair, graded, rank, score"), (("{folder}",), ""),
     (("{folder}/*.jsonl",), "2 files")],
)  # fmt: skip
def test_what_cannot_be_rated_is_explained(
    sawyer: Sawyer, answers: Path, settings: list[ServerSettings], arguments: tuple[str, ...], words: str
) -> None:
    (answers.parent / "other.jsonl").write_bytes(answers.read_bytes())
    done = sawyer("rate", *(argument.format(answers=answers, folder=answers.parent) for argument in arguments))
    assert done.code == 1 and words in done.err and "Traceback" not in done.err and "unexpected" not in done.err
    assert settings == [] and list(answers.parent.glob("*.sqlite*")) == []
