"""Commands in turns: never both at work, both to their end, and what fails is said."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

import pytest
from benchmarks.interleaved import PausedCommand, run_interleaved

# Works until it has seen so many milliseconds go by at work, and writes them down, one a line.
WORKER = """
import sys, time
seen, last = [], 0.0
while len(seen) < int(sys.argv[2]):
    now = time.monotonic()
    if now - last > 0.001:
        seen.append(now)
        last = now
open(sys.argv[1], "w").write(chr(10).join(map(repr, seen)))
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there a process cannot be stopped for a while")


def worker(tmp_path: Path, name: str, milliseconds: int) -> str:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    return f"{sys.executable} -S -E {script} {tmp_path / name} {milliseconds}"


def test_each_works_while_the_other_is_stopped(tmp_path: Path) -> None:
    commands = worker(tmp_path, "a", 400), worker(tmp_path, "b", 800)
    a, b = run_interleaved(commands, (0.1, 0.2), (tmp_path / "a.txt", tmp_path / "b.txt"))
    moments = [(float(line), name) for name in ("a", "b") for line in (tmp_path / name).read_text().splitlines()]
    turns = [name for name, _ in groupby(name for _, name in sorted(moments))]
    assert 4 <= len(turns) <= 40, "in turn: a few hundred moments each, had both worked at once"
    assert a >= 0.4 and b >= 0.8
    assert a + b <= max(moments)[0] - min(moments)[0] + 2.0, "pauses do not count"


def test_one_that_fails_is_named_and_the_other_ended(tmp_path: Path) -> None:
    wrong = f"{sys.executable} -S -E {tmp_path / 'missing.py'}"
    with pytest.raises(SystemExit, match=r"missing\.py` failed; its output is in .*b\.txt"):
        run_interleaved((worker(tmp_path, "a", 5), wrong), (0.1, 0.1), (tmp_path / "a.txt", tmp_path / "b.txt"))
    assert "missing.py" in (tmp_path / "b.txt").read_text()


@pytest.mark.parametrize("wrong", ["no-such-program --seed 0", "python 'it"])
def test_one_that_cannot_be_run_is_named_and_the_other_ended(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(SystemExit, match=f"`{wrong}` cannot be run"):
        run_interleaved((worker(tmp_path, "a", 10**9), wrong), (0.1, 0.1), (tmp_path / "a.txt", tmp_path / "b.txt"))
    assert not (tmp_path / "a").exists()


def test_what_is_under_way_is_ended_where_the_measurement_is(tmp_path: Path) -> None:
    side = PausedCommand(worker(tmp_path, "a", 10**9), tmp_path / "a.txt")
    side.work(0.05)
    assert not side.over
    side.end()
    assert side.over and side.process.returncode != 0
