"""run.json comes back as it went, and one that is damaged is told as such, whatever the damage."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from sawyer.errors import RunError
from sawyer.runs import Manifest, read_manifest
from sawyer.runs.manifest import StageState


def test_every_change_is_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    first = Manifest(path)
    assert not path.exists() and first.stage("sft") == StageState()
    first.update("sft", status="running", started=1.5, fingerprint="f", parents={"base": "h"})
    first.update("sft", status="done", ended=2.5, seconds=1.0, figures={"loss": 0.25, "deep": {"a": [1, 2]}})
    first.note_versions({"torch": "2"})
    first.note_seed(7)
    again = Manifest(path)
    assert (
        again.stage("sft")
        == first.stage("sft")
        == StageState(
            status="done",
            started=1.5,
            ended=2.5,
            seconds=1.0,
            fingerprint="f",
            parents={"base": "h"},
            figures={"loss": 0.25, "deep": {"a": [1, 2]}},
        )
    )
    assert again.content["versions"]["torch"] == "2" and again.content["seed"] == 7
    day = first.first_day()
    assert Manifest(path).first_day() == day and Manifest(path).content["date"] == day.isoformat()
    path.write_text(path.read_text().replace(day.isoformat(), "2024-07-26"))
    assert Manifest(path).first_day() == date(2024, 7, 26)  # tomorrow it is what it was today
    again.forget("sft")
    again.forget("sft")
    assert Manifest(path).stage("sft") == StageState()
    assert read_manifest(tmp_path / "none.json") == {}


def test_a_figure_that_is_not_finite_comes_back_as_text(tmp_path: Path) -> None:
    Manifest(tmp_path / "run.json").update("sft", figures={"loss": float("nan")})
    assert Manifest(tmp_path / "run.json").stage("sft").figures == {"loss": "nan"}


def test_what_a_later_version_wrote_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"stages": {"sft": {"status": "done", "mood": "good"}}, "more": 1}))
    manifest = Manifest(path)
    assert manifest.stage("sft").status == "done"
    manifest.update("rl", status="running")
    assert read_manifest(path)["more"] == 1 and read_manifest(path)["stages"]["sft"]["mood"] == "good"


DAMAGES: dict[str, Any] = {
    "empty": "",
    "half": '{"stages": {"sft": {"status": "do',
    "a list": "[]",
    "a word": '"done"',
    "zeros": "\0" * 200,
    "deep": "[" * 100_000,
    "stages is a list": {"stages": []},
    "a stage is a word": {"stages": {"sft": "done"}},
    "an unknown status": {"stages": {"sft": {"status": "perhaps"}}},
    "a status that is a list": {"stages": {"sft": {"status": ["done"]}}},
    "seconds are a word": {"stages": {"sft": {"status": "done", "seconds": "long"}}},
    "parents are a list": {"stages": {"sft": {"status": "done", "parents": []}}},
    "figures are a number": {"stages": {"sft": {"status": "done", "figures": 3}}},
    "contents are a word": {"contents": "x"},
    "versions are a word": {"versions": "x"},
    "a day that is none": {"date": "yesterday"},
    "a day that is a number": {"date": 7},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_told(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "run.json"
    path.write_text(damage if isinstance(damage, str) else json.dumps(damage))
    with pytest.raises(RunError, match=r"run\.json cannot be read") as caught:
        Manifest(path)
    assert "done again" in caught.value.todo


def test_bytes_and_folders_are_damage_too(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder").mkdir()
    for name in ("run.json", "folder"):
        with pytest.raises(RunError, match="cannot be read"):
            read_manifest(tmp_path / name)
