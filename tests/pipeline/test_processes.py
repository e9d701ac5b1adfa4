"""The command as a process of its own: interrupted, terminated and killed at random moments, two at once, on a full disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sawyer.pipeline import STAGES
from sawyer.runs import Layout, Manifest, is_complete

PATIENCE = 120.0  # seconds; only a broken program waits so long
SOURCE = str(Path(__file__).parents[2] / "src")
# The sizes that are no settings are those of the straight run (see conftest); the page is left out there too.
SMALL = """
import sys
from importlib import import_module
from sawyer.pipeline import run_stages
from sawyer.cli.main import main

def small(name):
    module = real(name)
    for owner, size, value in (
        ("sawyer.stages.collect.collect_stage", "ANSWERS_A_STEP", 16),
        ("sawyer.stages.compare.compare_stage", "ANSWERS_A_STEP", 4),
        ("sawyer.stages.reward.reward_trust", "WORLD_PROMPTS", 6),
    ):
        if owner in sys.modules:
            setattr(sys.modules[owner], size, value)
    return module

real, run_stages.import_module = import_module, small
run_stages.report = lambda run: run.layout.report.write_text("page")
main()
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}


def command(*arguments: object, program: str = SMALL) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def config_of(tiny: Any, out: Path, **changes: Any) -> Path:
    path = out.with_name(f"{out.name}.yaml")
    path.write_text(yaml.safe_dump(tiny.tree(out, changes)))
    return path


def lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Look again and again until it is so, or the process has ended."""
    end = time.monotonic() + PATIENCE
    while not true() and process.poll() is None:
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.002)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command; what still runs at the test's end is ended."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


# Quick: a finished run needs no torch.

FINISHED = """
import sys
from sawyer.cli.main import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "matplotlib", "numpy", "pyarrow"} & {*sys.modules}
    print("heavy:", sorted(heavy))
"""


def test_a_finished_run_says_so_at_once(tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix(None, tmp_path / "run")
    Manifest(Layout(out).manifest).update("report", status="done")  # the fixture's page is not drawn
    done = subprocess.run(
        command("run", config_of(tiny, out), program=FINISHED), capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.count("already done") == 7
    assert done.stdout.endswith("heavy: []\n")


# Slow: real signals.


def sitting(start: Callable[..., Any], config: Path, out: Path, more: int, how: signal.Signals) -> tuple[int, str, str]:
    """Run until the journal has `more` new words, then send the signal; how it ended."""
    layout = Layout(out)
    files = (layout.events, layout.metrics)
    before = sum(map(lines, files))
    process = start("run", config)
    until(lambda: sum(map(lines, files)) >= before + more, process)
    process.send_signal(how)
    said, complained = process.communicate(timeout=PATIENCE)
    return process.returncode, said, complained


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_signals_at_random_moments(tiny: Any, tmp_path: Path, start: Callable[..., Any], how: signal.Signals) -> None:
    rng = random.Random(how.name)
    out = tmp_path / "run"
    config = config_of(tiny, out, save_every_seconds=rng.choice([0.0, 0.05]))
    for _ in range(6):
        code, said, complained = sitting(start, config, out, rng.randint(3, 80), how)
        assert "Traceback" not in said + complained
        over = all(Manifest(Layout(out).manifest).stage(stage).status == "done" for stage in STAGES)
        if how == signal.SIGKILL:
            assert code in (0, -how)
        elif not over:  # once all is done nobody listens any more: there is nothing to save
            assert code == 130, complained
            assert "Saved; run the same command to go on" in said, said
        for stage in ("base", "sft", "reward", "rl"):
            model = Layout(out).model(stage)
            assert not model.exists() or is_complete(model), "a folder that looks finished and is not"
        if over:
            break
    done = subprocess.run(command("run", config), capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    found, straight = tiny.result(out), tiny.result(tiny.straight())
    for name in ("metrics", "samples", "products", "figures", "compared", "states"):
        assert getattr(found, name) == getattr(straight, name), name
    assert tiny.summary(out) == tiny.summary(tiny.straight())
    left = [p for p in out.rglob("*") if p.name in ("checkpoint", "best") or "sawyer-" in p.name]
    assert left == []


@pytest.mark.slow
def test_asked_twice_it_stops_at_once(tiny: Any, tmp_path: Path, start: Callable[..., Any]) -> None:
    out = tmp_path / "run"
    config = config_of(tiny, out)
    process = start("run", config)
    until(lambda: lines(Layout(out).metrics) >= 2, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in said + complained and process.returncode in (0, 1, 130)
    done = subprocess.run(command("run", config), capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert tiny.result(out) == tiny.result(tiny.straight())


@pytest.mark.slow
def test_the_second_process_is_refused_and_the_first_goes_on(tiny: Any, tmp_path: Path, start: Callable[..., Any]) -> None:
    out = tmp_path / "run"
    config = config_of(tiny, out)
    first = start("run", config)
    until(lambda: lines(Layout(out).metrics) >= 1, first)
    for arguments in (("run", config), ("base", config)):
        second = subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(), check=False)
        assert second.returncode == 1
        assert f"at work in another process (process {first.pid})" in second.stderr and "Traceback" not in second.stderr
    _, complained = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, complained
    assert tiny.result(out) == tiny.result(tiny.straight())


FULL_DISK = """
mount -t tmpfs -o size=$SIZE tmpfs "$ROOM" || exit 77
cp -r "$PREFIX" "$ROOM/run"
"$@"; code=$?
test -e "$ROOM/run/sft/checkpoint/.complete" && echo "a checkpoint survives"
mount -o remount,size=50m "$ROOM"
"$@" || exit 78
cp -r "$ROOM/run" "$KEPT"
exit $code
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [360, 720, 1010], ids="{} KB".format)
def test_a_disk_that_is_really_full(tiny: Any, tmp_path: Path, room: int) -> None:
    # A small file system of its own, which only this process and its children see.
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("no unshare or no mount")
    (tmp_path / "room").mkdir()
    config = config_of(tiny, tmp_path / "room" / "run", save_every_seconds=0)
    shutil.move(config, tmp_path / "sawyer.yaml")
    names = {"SIZE": f"{room}k", "ROOM": str(tmp_path / "room"), "KEPT": str(tmp_path / "kept")}
    names["PREFIX"] = str(tiny.straight("classify"))
    script = ["unshare", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh"]
    done = subprocess.run(
        [*script, *command("sft", tmp_path / "sawyer.yaml")],
        capture_output=True,
        text=True,
        env={**environment(), **names},
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no file system of one's own here: {done.stderr.strip()}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the disk is full" in done.stderr and "Traceback" not in done.stderr and "unforeseen" not in done.stderr
    if room > 1000:
        assert "a checkpoint survives" in done.stdout
    assert tiny.result(tmp_path / "kept") == tiny.result(tiny.straight("sft"))
