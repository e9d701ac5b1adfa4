"""A terminal that is closed, a pipe that is broken, in the middle of a run: real ones, in processes of their own."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.runs import Layout, is_complete, read_manifest, read_rows

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
pytestmark = pytest.mark.slow

PATIENCE = 120.0  # seconds; only a broken program waits so long
CONFIG = """
out: {out}
base: {{text: [{text}], layers: 1, width: 16, heads: 2, context: 32, vocab_size: 300, tokens: {tokens}, batch_size: 2}}
save_every_seconds: 3600
"""


@pytest.fixture
def asked(tmp_path: Path) -> Callable[[int], Path]:
    """A config that trains a tiny base model on so many tokens; 64 are a step."""

    def put(tokens: int) -> Path:
        text = tmp_path / "text.txt"
        text.write_text("\n\n".join(f"What is the opposite of {n}? It is minus {n}, a number below zero." for n in range(80)))
        path = tmp_path / "a.yaml"
        path.write_text(CONFIG.format(out=tmp_path / "run", text=text, tokens=tokens))
        return path

    return put


def start(config: Path, terminal: int, **more: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "COLUMNS": "20", "TERM": "xterm"}
    command = [sys.executable, "-m", "sawyer", "run", str(config)]
    return subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, **more)


def read_until(terminal: int, word: bytes) -> bytes:
    """What the terminal showed up to the word; the test fails where nothing more comes."""
    seen = b""
    while word not in seen:
        assert select.select([terminal], [], [], PATIENCE)[0], seen
        seen += os.read(terminal, 4096)
    return seen


def events(root: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(Layout(root).events) if row["kind"] == kind]


def test_a_terminal_that_is_closed_asks_for_a_stop(asked: Callable[[int], Path], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    # The terminal is its own: closing it sends SIGHUP, as a window's closing does.
    running = start(asked(64 * 100_000), theirs, preexec_fn=lambda: os.login_tty(os.dup(0)))
    os.close(theirs)
    read_until(ours, b"loss")
    os.close(ours)
    assert running.wait(PATIENCE) == 130
    state = read_manifest(Layout(tmp_path / "run").manifest)["stages"]["base"]
    assert state["status"] == "interrupted" and "SIGHUP" in state["reason"]
    assert is_complete(Layout(tmp_path / "run").checkpoint("base"))


def test_a_terminal_that_is_gone_does_not_end_a_run(asked: Callable[[int], Path], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    # Not its own, as after `nohup` and `disown`: no signal comes, and whatever is written is refused (EIO).
    running = start(asked(64 * 600), theirs, start_new_session=True)
    os.close(theirs)
    read_until(ours, b"2/600")
    os.close(ours)
    assert running.wait(PATIENCE) == 0
    assert read_manifest(Layout(tmp_path / "run").manifest)["stages"]["base"]["status"] == "done"
    (unheard,) = events(tmp_path / "run", "unheard")
    assert "Watch is called no more" in unheard["message"] and "Input/output error" in unheard["message"]
    assert Layout(tmp_path / "run").report.exists()


@pytest.mark.parametrize("closed", [False, True])
def test_a_pipe_that_is_broken_or_closed_does_not_end_a_run(asked: Callable[[int], Path], tmp_path: Path, closed: bool) -> None:
    command = f"{sys.executable} -m sawyer run {asked(64 * 20)}"
    script = f"{command} <&- >&- 2>&-" if closed else f"set -o pipefail; {command} 2>&1 | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == (0 if closed else 1), done
    assert read_manifest(Layout(tmp_path / "run").manifest)["stages"]["base"]["status"] == "done"
    rows = read_rows(Layout(tmp_path / "run").metrics)
    assert [row["step"] for row in rows] == [*range(20), 20]
