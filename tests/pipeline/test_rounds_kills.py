"""A kill at any moment while a round is begun: the same command goes on, and no round is lost, doubled or half there."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from test_rounds import events, score_later_answers

from sawyer.pipeline import run_stages
from sawyer.runs import Layout, read_manifest

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate")


STRIDE = 3  # 1 is every one of the 260 or so changes, which takes minutes


class AtReward(BaseException):
    """The round is begun: what follows is a reward stage like any other."""


def begin_round(tiny: Any, out: Path) -> None:
    """The run up to where the reward stage of the new round would start."""
    with pytest.raises(AtReward):
        tiny.run(out)


def begin_and_die(tiny: Any, out: Path, at: int) -> bool:
    """The same in a process of its own that ends, as by kill -9, before its change number `at` of the disk; False where it
    makes fewer."""
    child = os.fork()
    if child == 0:
        count = 0

        def die(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event not in CHANGES and not (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES):
                return
            count += 1
            if count == at:
                os._exit(9)

        sys.addaudithook(die)
        try:
            tiny.run(out)
        except AtReward:
            os._exit(0)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def state_of(out: Path) -> dict[str, Any]:
    """What a begun round looks like: the kept round's files, the run's own, the stages' states."""
    layout = Layout(out)
    kept = layout.round(1)
    own = [path for path in out.rglob("*") if path.is_file() and kept not in path.parents]
    # These have times, or the folder's name, in them.
    named = [(one.events, one.journal, one.manifest, one.config, one.summary, one.lock) for one in (layout, Layout(kept))]
    skip = {path for paths in named for path in paths} | {kept / ".complete"}
    manifest = read_manifest(layout.manifest)
    return {
        "rounds": sorted(path.name for path in kept.parent.iterdir()),
        "names": sorted(path.name for path in kept.iterdir()),
        "kept": {
            str(path.relative_to(kept)): path.read_bytes() for path in kept.rglob("*") if path.is_file() and path not in skip
        },
        "own": {str(path.relative_to(out)): path.read_bytes() for path in own if path not in skip},
        "states": {stage: (state["status"], state["figures"]) for stage, state in manifest["stages"].items()},
    }


@pytest.fixture
def until_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: Any, run: Any, stage: str, *_: Any, **__: Any) -> None:
        raise AtReward

    monkeypatch.setattr(run_stages, "_do", stop)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the process is killed in a copy of itself, which Windows does not make")
def test_a_kill_before_any_change_of_the_disk(tiny: Any, tmp_path: Path, until_reward: None) -> None:
    source = tiny.prefix(None, tmp_path / "source")
    score_later_answers(source)
    straight = tmp_path / "straight" / "run"
    shutil.copytree(source, straight)
    begin_round(tiny, straight)
    expected = state_of(straight)
    assert expected["rounds"] == ["1"] and "reward" not in expected["states"] and "rl" not in expected["states"]
    at, kills = 1, 0
    while True:
        out = tmp_path / str(at) / "run"
        shutil.copytree(source, out)
        if not begin_and_die(tiny, out, at):
            break
        kills += 1
        # Whatever is there is whole: a round is complete, or it is not there.
        kept = Layout(out).earlier_rounds()
        assert all((one.root / ".complete").is_file() for one in kept)
        begin_round(tiny, out)
        begun = state_of(out)
        for part, values in expected.items():
            assert begun[part] == values, (at, part)
        assert {row["stage"] for row in events(out, "restarted")} == {"reward", "rl", "compare"}
        assert not [path for path in out.rglob(".*") if "sawyer" in path.name], at
        shutil.rmtree(out.parent)
        at += STRIDE
    assert kills > 60
