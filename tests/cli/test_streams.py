"""Output never ends a run, and nothing that is shown steers a terminal."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from rich.table import Table

from sawyer.cli.console import CHIPS, say, show_error, stdout
from sawyer.cli.main import main
from sawyer.cli.progress import Watch
from sawyer.cli.streams import SafeStream, as_json, encodable, print_line, visible
from sawyer.cli.terminal import Terminal
from sawyer.errors import DataError, RunError

# A title, a colour, the C1 form of both, a text that is read from right to left, a return, a bell; as markup; a lone surrogate.
HOSTILE = "a\x1b]0;owned\x07\x1b[31m\x9b2J\u202egpj.exe\r\u2066[red]x[/red][link=http://x]:smile:\udcff"
STEERS = {chr(i) for i in (*range(9), *range(11, 32), *range(127, 160), 0x61C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


class Broken(io.StringIO):
    """A stream that gives up after some writes."""

    def __init__(self, error: Exception, after: int = 0) -> None:
        super().__init__()
        self.error, self.after, self.tried = error, after, 0

    def write(self, text: str) -> int:
        self.tried += 1
        if self.tried > self.after:
            raise self.error
        return super().write(text)


def encoded(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return cast(io.BytesIO, stream.buffer).getvalue().decode(stream.encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "shift_jis", "utf-8"])
def test_every_mark_can_be_written(encoding: str) -> None:
    out = encoded(encoding)
    console = Terminal(SafeStream(out), width=60)
    for chip in CHIPS.values():
        say(console, chip, " \u4f60 é \U0001f600")
    lines = written(out).splitlines()
    assert [line.split(" ", 1)[1][:4] for line in lines] == ["ok  ", "warn", "fail"]
    if encoding == "ascii":
        assert lines == [f"{mark} \\u4f60 \\xe9 \\U0001f600" for mark in ("+ ok  ", "! warn", "x fail")]
    if encoding == "utf-8":
        assert lines[2] == "✕ fail \u4f60 é \U0001f600"
    assert encodable("… 3 − 2 → 1", "ascii") == "... 3 - 2 -> 1" and encodable("é…", "cp1252") == "é…"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "closed"), BrokenPipeError(), ValueError("I/O operation on closed file"), OSError(errno.ENOSPC, "")],
)
def test_a_stream_that_is_lost_is_written_to_no_more(error: Exception) -> None:
    inner = Broken(error, after=1)
    steady = SafeStream(inner)
    assert steady.write("one") == 3 and steady.failure is None
    assert steady.write("two") == 3 and steady.failure is error
    steady.write("three")
    steady.flush()
    assert inner.tried == 2


def test_a_signal_in_the_middle_of_a_line_costs_one_line() -> None:
    inner = Broken(RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>"))
    steady = SafeStream(inner)
    steady.write("one")
    assert steady.failure is None and inner.tried == 1


def test_whoever_watches_a_lost_terminal_says_so_once() -> None:
    watch = Watch(Terminal(SafeStream(Broken(OSError(errno.EIO, "Input/output error")))))
    watch("event", {"stage": "rl", "kind": "plan", "message": "nobody reads this"})
    with pytest.raises(OSError, match="Input/output error"):
        watch("event", {"stage": "rl", "kind": "plan", "message": "nor this"})


def test_no_text_steers_the_terminal() -> None:
    out = encoded("utf-8")
    console = Terminal(SafeStream(out), width=200, force_terminal=True, color_system="standard", legacy_windows=False)
    say(console, (HOSTILE, "bold"), HOSTILE)
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    console.print(HOSTILE)
    found = written(out)
    assert found.count("[red]x[/red]") == 6 and found.count("[link=http://x]:smile:") == 6, "nothing is markup, nothing is cut"
    # What is left of escapes are the colours of our own: "\x1b[" ... "m".
    ours = found
    for style in ("\x1b[1m", "\x1b[0m", "\x1b[3m", "\x1b[1;3m", "\x1b[2m"):
        ours = ours.replace(style, "")
    assert not STEERS & set(ours), sorted(map(hex, map(ord, STEERS & set(ours))))
    assert "\\x1b]0;owned" in ours and "\\x9b2J" in ours and "\\u202egpj.exe" in ours and "\\udcff" in ours
    assert visible("tab\tand\nline é \u05d0") == "tab\tand\nline é \u05d0"


def test_what_libraries_print_steers_it_neither(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def app(**_: Any) -> None:
        print(f"a model of type {HOSTILE}", file=sys.stderr)
        print("\r 10%|##    |", end="", file=sys.stderr)
        print(HOSTILE[:20])

    monkeypatch.setattr("sawyer.cli.main.app", app)
    main()
    found = capsys.readouterr()
    assert not STEERS & set(found.out) and STEERS & set(found.err) == {"\r"}
    assert found.err.endswith("\r 10%|##    |")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_is_valid_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    out = encoded(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    value = {"text": f"{HOSTILE}✓\U0001f600", "low": float("nan"), "rows": [1, None, float("-inf")]}
    assert print_line(as_json(value))
    line = written(out)
    assert json.loads(line) == {**value, "low": "nan", "rows": [1, None, "-inf"]}
    assert not STEERS & set(line) and ("✓" in line) == (encoding == "utf-8")


def test_a_full_disk_behind_standard_output_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], put_runs: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["sawyer", "runs", str(put_runs)])
    for error, told in ((OSError(errno.ENOSPC, "No space left on device"), True), (OSError(errno.EIO, "gone"), False)):
        monkeypatch.setattr(sys, "stdout", Broken(error))
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        assert ("could not be written to its end: No space left" in capsys.readouterr().err) == told


def test_a_result_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(RunError, match="No space left"):
        print_line("{}")
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError()))
    assert not print_line("{}"), "whoever read has seen enough"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_commands_in_an_encoding_without_marks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoding: str, put_runs: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "what ✓?", "response": "yes"}\n', encoding="utf-8")
    for arguments, code in ((["check", str(tmp_path / "a.jsonl")], 0), (["runs", str(put_runs)], 0), (["--help"], 0)):
        out, err = encoded(encoding), encoded(encoding)
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setattr(sys, "argv", ["sawyer", *arguments])
        ended = 0
        try:
            main()
        except SystemExit as end:
            ended = int(end.code or 0)
        assert (ended, written(err)) == (code, "") and written(out)


@pytest.fixture
def put_runs(tmp_path: Path) -> Path:
    """A folder of runs: a good one, and some whose summary.json is odd."""
    root = tmp_path / "runs"
    odd = [
        "[]",
        '{"gates": 3}',
        '{"gold": {"sft": {"t07": "x"}}}',
        '{"compare": {"win_rate_rl_vs_sft": 1}}',
        "{",
        '"\ud800"',
        "9" * 5000,
    ]
    for number, summary in enumerate(['{"gates": {"sft_stops": "ok"}}', *odd]):
        run = root / f"run{number}"
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"stages": {"sft": {"status": "done", "seconds": 3.0}}}))
        (run / "summary.json").write_text(summary, encoding="utf-8", errors="surrogatepass")
    (root / "run8").mkdir()
    (root / "run8" / "run.json").write_text('{"stages": {"sft": {"status": "done", "seconds": 1e400}}}')
    return root


def test_one_odd_summary_costs_its_own_row(put_runs: Path, sawyer: Callable[..., Any]) -> None:
    done = sawyer("runs", put_runs)
    assert done.code == 0, done.err
    rows = {line.split()[0]: line for line in done.out.splitlines()[1:]}
    assert len(rows) == 9 and "1 ok" in rows["run0"] and "sft ✓" in rows["run3"]
    assert all("cannot be read" in rows[f"run{number}"] for number in range(1, 9))


def test_an_error_quotes_a_name_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(DataError(f"there is no such file {HOSTILE}", where="[/red]", todo="[bold]check[/bold] it"))
    found = capsys.readouterr().err
    assert not STEERS & set(found) and "[/red]" in found and "[bold]check[/bold]" in found
    say(stdout(), HOSTILE)
    assert not STEERS & set(capsys.readouterr().out)
