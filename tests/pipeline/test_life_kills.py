"""What a kill, a clock, another library or a damaged disk may do to a run between its stages: nothing in silence."""

from __future__ import annotations

import html
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import RunError
from sawyer.pipeline import run_stages, summary
from sawyer.report import page
from sawyer.runs import Layout, library_versions, read_manifest, read_rows


def messages(out: Path, kind: str) -> list[str]:
    return [row.get("message", "") for row in read_rows(Layout(out).events) if row["kind"] == kind]


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The page is "drawn" as ever, by a painter that says what was done by then; it is killed once "kill" is in the list."""
    told: list[str] = []

    def build(root: Path) -> None:
        if "kill" in told:
            told.remove("kill")
            raise SystemExit
        done = [name for name, state in read_manifest(Layout(root).manifest)["stages"].items() if state["status"] == "done"]
        told.append(" ".join(sorted({*done} - {"report"})))
        Layout(root).report.write_text(told[-1])

    monkeypatch.setattr(run_stages, "report", summary.report)
    monkeypatch.setattr("sawyer.report.build", build)
    return told


@pytest.mark.parametrize("older", [False, True], ids=["the first page", "over an older page"])
def test_a_page_killed_while_it_was_drawn_is_drawn_by_the_next_call(
    tiny: Any, tmp_path: Path, drawing: list[str], older: bool
) -> None:
    out = tiny.prefix("compare", tmp_path / "run")
    assert read_manifest(Layout(out).manifest)["stages"]["report"]["status"] == "done"
    if not older:
        Layout(out).report.unlink()
    drawing.append("kill")
    with pytest.raises(SystemExit):
        tiny.run(out)
    assert Layout(out).report.exists() == older
    tiny.run(out)
    assert Layout(out).report.read_text() == "base classify collect compare reward rl sft"
    tiny.run(out)
    assert len(drawing) == 1, "a page that shows all is not drawn again"


def test_a_clock_that_goes_back_costs_no_seconds(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tiny.prefix("collect", tmp_path / "run")
    hour = [2e9]

    def back() -> float:
        hour[0] -= 3600.0
        return hour[0]

    began = time.monotonic()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", back)
        tiny.run(out, only="collect")
    assert 0 < read_manifest(Layout(out).manifest)["stages"]["collect"]["seconds"] <= time.monotonic() - began


def test_changed_libraries_are_told_where_work_goes_on(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tiny.prefix("collect", tmp_path / "run")
    versions = library_versions()
    monkeypatch.setattr(run_stages, "library_versions", lambda: {**versions, "torch": "9.9.9"})
    tiny.run(out, {"collect": None, "reward": None, "rl": None, "compare": None})
    assert not any("9.9.9" in text for text in messages(out, "warning")), "nothing was done by it"
    tiny.run(out, only="collect")
    (told,) = [text for text in messages(out, "warning") if "9.9.9" in text]
    assert f"torch {versions['torch']} -> 9.9.9" in told and "python" not in told
    assert read_manifest(Layout(out).manifest)["versions"]["torch"] == "9.9.9"
    text = html.unescape(re.sub("<[^>]+>", "", page.page(page.gather(out))))
    assert told.replace("->", "→") in text, "the page tells it too"
    tiny.run(out, only="collect")
    assert len([text for text in messages(out, "warning") if "9.9.9" in text]) == 1


def flip(path: Path) -> None:
    """A bit of a file, whose size and times stay."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_flipped_weights_are_found_before_the_next_stage_reads_them(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("collect", tmp_path / "run")
    flip(Layout(out).model("sft") / "model.safetensors")
    with pytest.raises(RunError, match=r"sft/model/model\.safetensors") as caught:
        tiny.run(out, only="collect")
    assert f"delete {Layout(out).model('sft')}" in caught.value.todo
    assert messages(out, "start") == messages(tiny.straight("sft"), "start"), "nothing was begun"
    # The advice is good advice.
    shutil.rmtree(Layout(out).model("sft"))
    tiny.run(out, only="sft")
    tiny.run(out, only="collect")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut, flip], ids=["cut", "flipped"])
def test_gates_do_not_vanish_with_cut_events(tiny: Any, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    out = tiny.prefix("collect", tmp_path / "run")
    assert page.gather(out).checks
    damage(Layout(out).events)
    for use in (lambda: page.gather(out), lambda: tiny.run(out, only="collect")):
        with pytest.raises(RunError, match=r"events\.jsonl") as caught:
            use()
    Layout(out).events.rename(tmp_path / "away")
    tiny.run(out, only="collect")
    assert any("is gone" in text for text in messages(out, "warning")), caught.value.todo
