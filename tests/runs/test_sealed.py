"""A folder has checksums of what was written into it: damage that keeps names, sizes and times is found before it is used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sawyer.errors import RunError
from sawyer.runs import MARKER, Manifest, check_sealed, replace_folder
from sawyer.runs.atomic_files import hash_folder
from sawyer.train import load_checkpoint, save_checkpoint


def filled(folder: Path) -> Path:
    with replace_folder(folder) as new:
        (new / "weights").write_bytes(bytes(range(256)) * 100)
        (new / "in side").mkdir()
        (new / "in side" / "é.json").write_text("{}")
    return folder


def keeps_its_looks(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file's content; its size and its times stay."""
    before = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def flipped(content: bytes) -> bytes:
    return content[:77] + bytes([content[77] ^ 1]) + content[78:]


def test_the_marker_has_each_file_s_checksum(tmp_path: Path) -> None:
    folder = filled(tmp_path / "model")
    lines = (folder / MARKER).read_text(encoding="utf-8").splitlines()
    assert f"weights {hashlib.sha256((folder / 'weights').read_bytes()).hexdigest()}" in lines and len(lines) == 3
    assert check_sealed(folder) == hash_folder(folder)


@pytest.mark.parametrize("change", [flipped, lambda content: bytes(len(content))], ids=["a bit", "zeros"])
def test_damage_is_named(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    folder = filled(tmp_path / "model")
    keeps_its_looks(folder / "weights", change)
    with pytest.raises(RunError, match=r"model/weights cannot be read .its content is not what was written") as caught:
        check_sealed(folder, "do it again")
    assert caught.value.todo == "do it again"


def test_what_is_gone_or_was_added_is_named_too(tmp_path: Path) -> None:
    folder = filled(tmp_path / "model")
    (folder / "more").write_text("x")
    with pytest.raises(RunError, match="model/more"):
        check_sealed(folder)
    (folder / "more").unlink()
    (folder / "in side" / "é.json").unlink()
    with pytest.raises(RunError, match=r"é\.json"):
        check_sealed(folder)


def test_a_damaged_marker_is_no_marker_without_checksums(tmp_path: Path) -> None:
    folder = filled(tmp_path / "model")
    keeps_its_looks(folder / MARKER, lambda content: bytes(len(content)))
    with pytest.raises(RunError, match="complete"):
        check_sealed(folder)
    (folder / MARKER).write_text("all of this folder is written\n")  # of a run from before there were checksums
    assert check_sealed(folder) == hash_folder(folder)
    (folder / MARKER).unlink()
    assert check_sealed(folder) == hash_folder(folder), "a folder that somebody else wrote"


def test_a_flipped_bit_in_a_checkpoint_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "sft" / "checkpoint"
    save_checkpoint(folder, {"weights": torch.arange(1000.0), "step": 3})
    where = (folder / "state.pt").read_bytes().index(torch.arange(1000.0).numpy().tobytes()[:4000])
    keeps_its_looks(folder / "state.pt", lambda content: content[: where + 77] + b"\x55" + content[where + 78 :])
    # torch itself reads it without a word.
    assert not torch.equal(torch.load(folder / "state.pt")["weights"], torch.arange(1000.0))
    with pytest.raises(RunError, match=r"state\.pt") as caught:
        load_checkpoint(folder)
    assert f"delete {tmp_path / 'sft'} " in caught.value.todo


def test_a_model_is_read_again_by_the_next_sitting_that_builds_on_it(tmp_path: Path) -> None:
    folder, path = filled(tmp_path / "sft" / "model"), tmp_path / "run.json"
    known = Manifest(path).content_hash("sft", folder)
    keeps_its_looks(folder / "weights", flipped)
    assert Manifest(path).content_hash("sft", folder) == known, "to say that all is done nothing need be read"
    with pytest.raises(RunError, match="sft/model/weights") as caught:
        Manifest(path).content_hash("sft", folder, reread=True)
    assert f"delete {folder}" in caught.value.todo


def test_a_folder_outside_the_run_is_its_owner_s(tmp_path: Path) -> None:
    folder, path = filled(tmp_path / "theirs"), tmp_path / "run" / "run.json"
    known = Manifest(path).content_hash("base", folder)
    keeps_its_looks(folder / "weights", flipped)
    assert Manifest(path).content_hash("base", folder, reread=True) == hash_folder(folder) != known
