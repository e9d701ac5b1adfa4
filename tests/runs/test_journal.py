"""The journal: what is appended is there, what a rewind drops is one stage's and no more, a hole is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import Interrupted, RunError
from sawyer.runs import Gate, Layout, last_gates, open_run, read_rows
from sawyer.runs.journal import Journal


def journal(root: Path) -> Journal:
    return Journal(Layout(root))


def steps(root: Path, stage: str) -> list[int]:
    return [row["step"] for row in journal(root).rows(stage)]


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    book = Journal(Layout(tmp_path), [lambda kind, row: told.append((kind, row))])
    book.metrics("sft", 0, {"loss": 0.1 + 0.2, "tokens": 7})
    book.samples("sft", 1, [{"prompt": "Qué?\n", "response": "\u2028 é\ud800"}, {"prompt": "b", "response": ""}])
    book.gate(Gate(stage="sft", name="g", verdict="ok", value=1.0, threshold=float("inf"), message="m", advice="a"))
    book.progress("sft", 1, 2, "loss 0.3")
    book.announce_stop("Ctrl-C")
    assert read_rows(tmp_path / "metrics.jsonl") == [{"stage": "sft", "step": 0, "loss": 0.1 + 0.2, "tokens": 7}]
    samples = read_rows(tmp_path / "samples.jsonl")
    assert [row["response"] for row in samples] == ["\u2028 é\ud800", ""]
    (event,) = read_rows(tmp_path / "events.jsonl")
    assert (event["stage"], event["kind"], event["threshold"]) == ("sft", "gate", "inf") and event["time"] > 1e9
    assert [kind for kind, _ in told] == ["metric", "sample", "sample", "event", "progress", "stopping"]


def test_nan_and_infinities_are_text(tmp_path: Path) -> None:
    journal(tmp_path).metrics("sft", 0, {"loss": float("nan"), "best": float("-inf"), "loss2": 1.0})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda _: pytest.fail("not JSON")) == {
        "stage": "sft",
        "step": 0,
        "loss": "nan",
        "best": "-inf",
        "loss2": 1.0,
    }


def test_a_rewind_drops_one_stage_s_later_rows(tmp_path: Path) -> None:
    book = journal(tmp_path)
    for step in range(3):
        book.metrics("sft", step, {"loss": step})
    position = book.position("sft")
    book.metrics("rl", 0, {"loss": 9})
    for step in range(3, 5):
        book.metrics("sft", step, {"loss": step})
        book.samples("sft", step, [{"prompt": "a"}, {"prompt": "b"}])
    book.metrics("rl", 1, {"loss": 9})
    book.event("sft", "save", step=5)
    events = (tmp_path / "events.jsonl").read_bytes()
    assert position == {"metrics": 3, "samples": 0}
    book.rewind("sft", position)
    assert steps(tmp_path, "sft") == [0, 1, 2] and steps(tmp_path, "rl") == [0, 1]
    assert read_rows(tmp_path / "samples.jsonl") == []
    assert (tmp_path / "events.jsonl").read_bytes() == events, "events tell what happened"
    # It goes on from there, in this sitting and in another.
    book.metrics("sft", 3, {"loss": 3})
    assert book.position("sft") == journal(tmp_path).position("sft") == {"metrics": 4, "samples": 0}


def test_clear_drops_a_stage_whole(tmp_path: Path) -> None:
    book = journal(tmp_path)
    for stage in ("sft", "rl"):
        book.metrics(stage, 0, {"loss": 1.0})
        book.samples(stage, 0, [{"prompt": "a"}])
    book.clear("sft")
    book.clear("reward")
    assert steps(tmp_path, "sft") == [] and steps(tmp_path, "rl") == [0]
    assert [row["stage"] for row in read_rows(tmp_path / "samples.jsonl")] == ["rl"]


def test_a_rewind_to_now_does_not_write(tmp_path: Path) -> None:
    book = journal(tmp_path)
    book.metrics("sft", 0, {"loss": 1.0})
    before = os.stat(tmp_path / "metrics.jsonl").st_ino
    book.rewind("sft", book.position("sft"))
    assert os.stat(tmp_path / "metrics.jsonl").st_ino == before


def test_a_journal_with_a_hole_is_refused(tmp_path: Path) -> None:
    book = journal(tmp_path)
    for step in range(4):
        book.metrics("sft", step, {"loss": 1.0})
    position = book.position("sft")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:2]))
    with pytest.raises(RunError, match="has 2 rows of sft, and its checkpoint was saved after 4") as caught:
        journal(tmp_path).rewind("sft", position)
    assert "to do sft again" in caught.value.todo


@pytest.mark.parametrize("tail", [b'{"stage": "sft", "st', b"\xc3", b"{}"], ids=["row", "character", "no end of line"])
def test_a_last_line_that_a_kill_left_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    book = journal(tmp_path)
    book.metrics("sft", 0, {"loss": 1.0})
    for name in ("metrics.jsonl", "samples.jsonl", "events.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(tail)
    # A reader beside the writer sees whole lines only.
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 1 and read_rows(tmp_path / "samples.jsonl") == []
    book = journal(tmp_path)
    assert book.position("sft") == {"metrics": 1, "samples": 0}
    book.metrics("sft", 1, {"loss": 0.5})
    assert steps(tmp_path, "sft") == [0, 1]
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [("{oops}", "line 2"), ("[1]", "line 2 is no JSON object"), ("\x00\x00", "line 2"), ("[" * 100_000, "line 2")],
    ids=["words", "list", "zeros", "deep"],
)
def test_damage_is_told_with_its_line(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"stage": "sft", "step": 0}}\n{line}\n{{"stage": "sft", "step": 2}}\n')
    with pytest.raises(RunError, match=told) as caught:
        journal(tmp_path)
    assert "metrics.jsonl" in caught.value.given and "restore" in caught.value.todo


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"kind": "\xff"}\n')
    with pytest.raises(RunError, match="line 1"):
        read_rows(tmp_path / "events.jsonl")


def test_sync_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = journal(tmp_path)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    book.sync()
    assert len(synced) == 1  # what there is of them, which is nothing
    synced.clear()
    book.metrics("sft", 0, {"loss": 1.0})
    book.samples("sft", 0, [{"prompt": "a"}])
    book.event("sft", "save")
    book.sync()
    assert len(synced) == 4


# What is cut or changed after it was saved is seen.


def saved(root: Path) -> Layout:
    """A run's journal after a save, with a row that came since."""
    book = journal(root)
    book.event("reward", "gate", name="trust", verdict="fail")
    for step in range(3):
        book.metrics("rl", step, {"loss": 1.0})
        book.samples("rl", step, [{"prompt": "a"}])
    book.sync()
    book.metrics("rl", 3, {"loss": 1.0})
    return book.layout


@pytest.mark.parametrize("name", ["events", "metrics", "samples"])
def test_rows_that_were_cut_or_changed_since_are_missed(tmp_path: Path, name: str) -> None:
    path = getattr(saved(tmp_path), name)
    assert journal(tmp_path).missing == [], "rows that came since are no damage"
    whole = path.read_bytes()
    last = whole.rfind(b"\n", 0, -1) + 1
    for damage, words in (
        (b"", "cut off"),
        (whole[: last if name == "events" else len(whole) // 2], "cut off"),
        (whole.replace(b"r", b"R", 1), "checksum"),
        (bytes(len(whole)), "checksum"),
    ):
        path.write_bytes(damage)
        with pytest.raises(RunError, match=words) as caught:
            journal(tmp_path)
        assert str(path) in caught.value.given
    # The advice is good advice: restored it is as it was, and moved away it is told.
    path.write_bytes(whole)
    assert journal(tmp_path).missing == []
    path.rename(tmp_path / "away")
    with open_run(tmp_path):
        pass
    assert str(path) in read_rows(tmp_path / "events.jsonl")[-1]["message"]


def test_a_rewind_is_no_damage_wherever_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = saved(tmp_path)
    journal(tmp_path).rewind("rl", {"metrics": 1, "samples": 1})
    assert steps(tmp_path, "rl") == [0]
    noted = layout.journal.read_bytes()
    book = journal(tmp_path)
    real = Path.replace

    def killed(self: Path, target: Path) -> Path:
        real(self, target)
        raise SystemExit

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(Path, "replace", killed)
        book.rewind("rl", {"metrics": 0, "samples": 0})
    assert not layout.journal.exists() and steps(tmp_path, "rl") == []
    layout.journal.write_bytes(noted)  # as if it had not been dropped first
    with pytest.raises(RunError, match="cut off"):
        journal(tmp_path)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"metrics": 3}', "[" * 100_000])
def test_what_was_noted_is_itself_damaged(tmp_path: Path, damage: str) -> None:
    layout = saved(tmp_path)
    layout.journal.write_text(damage)
    with pytest.raises(RunError, match=r"journal\.json") as caught:
        journal(tmp_path)
    assert "delete it" in caught.value.todo
    layout.journal.unlink()
    assert steps(tmp_path, "rl") == [0, 1, 2, 3]


def test_of_each_gate_the_last_word_counts_and_none_from_before_a_stage_began_anew() -> None:
    def gate(stage: str, name: str, verdict: str) -> dict[str, str]:
        return {"kind": "gate", "stage": stage, "name": name, "verdict": verdict}

    rows = [gate("sft", "a", "fail"), gate("reward", "b", "warn"), {"kind": "plan", "stage": "sft"}, gate("sft", "a", "ok")]
    assert [(row["name"], row["verdict"]) for row in last_gates(rows)] == [("a", "ok"), ("b", "warn")]
    rows += [{"kind": "restarted", "stage": "sft"}, gate("rl", "c", "ok")]
    assert [row["name"] for row in last_gates(rows)] == ["b", "c"]
    assert last_gates([]) == []


def test_a_listener_that_fails_is_dropped_and_that_is_said_once(tmp_path: Path) -> None:
    heard: list[str] = []

    def poor(kind: str, row: dict[str, Any]) -> None:
        raise UnicodeEncodeError("charmap", "\u2715", 0, 1, "character maps to <undefined>")

    def good(kind: str, row: dict[str, Any]) -> None:
        heard.append(row.get("kind", kind))

    book = Journal(Layout(tmp_path), [poor, good])
    for step in range(3):
        book.metrics("rl", step, {"loss": step})
    assert steps(tmp_path, "rl") == [0, 1, 2] and heard == ["unheard", "metric", "metric", "metric"]
    (event,) = read_rows(tmp_path / "events.jsonl")
    assert (
        event["stage"] == "rl"
        and event["message"].startswith("poor is called no more for this run")
        and "charmap" in event["message"]
    )
    book.listeners = [lambda kind, row: (_ for _ in ()).throw(SystemExit)]
    with pytest.raises(SystemExit):
        book.announce_stop("Ctrl-C")


def test_a_listener_may_ask_for_a_stop(tmp_path: Path) -> None:
    def enough(kind: str, row: dict[str, Any]) -> None:
        raise Interrupted("seen enough")

    book = Journal(Layout(tmp_path), [enough])
    with pytest.raises(Interrupted):
        book.metrics("rl", 0, {"loss": 1.0})
    assert book.listeners == [enough] and steps(tmp_path, "rl") == [0]
