"""An open run is one process's; signals ask, and asked twice they cut; changed settings are named."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sawyer.errors import RunError
from sawyer.runs import Layout, Stop, changed_keys, handle_signals, open_run, write_text
from sawyer.runs.journal import Journal

HOLDER = """
import sys
from pathlib import Path
from sawyer.runs import open_run
with open_run(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.readline()
"""


def test_two_processes_never_hold_one_run(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(RunError, match=f"at work in another process .process {other.pid}") as caught, open_run(root):
            pass
        assert "wait for it" in caught.value.todo
        with open_run(tmp_path / "another"):
            pass
        other.kill()
        other.wait()
    # However it ends, the system gives the lock back.
    with open_run(root):
        pass


def test_a_run_is_held_against_its_own_process_too(tmp_path: Path) -> None:
    with open_run(tmp_path), pytest.raises(RunError, match="at work"), open_run(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), open_run(tmp_path):
        raise ZeroDivisionError
    with open_run(tmp_path):
        pass


@pytest.mark.parametrize("where", ["file", "file/run", "/dev/null/run"])
def test_no_place_for_a_run(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="a file is in the way"), open_run(tmp_path / where):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_where_nothing_can_be_made() -> None:
    if not Path("/proc/self").exists():
        pytest.skip("there is no /proc")
    with pytest.raises(RunError, match="cannot be"), open_run(Path("/proc/run")):
        pass


@pytest.mark.parametrize("held", [False, True], ids=["a new folder", "a folder that is there"])
def test_a_disk_that_is_full_from_the_start_is_told(tmp_path: Path, held: bool) -> None:
    resource = pytest.importorskip("resource")
    if held:
        with open_run(tmp_path / "run"):
            pass
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # the system takes not one byte more
    try:
        with pytest.raises(RunError, match="the disk is full") as caught, open_run(tmp_path / "run"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "free some space" in caught.value.todo
    with open_run(tmp_path / "run"):
        pass


@pytest.mark.parametrize("name", [".lock", "run.json", "metrics.jsonl"])
def test_what_the_system_refuses_at_the_first_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = os.open

    def refused(path: str | Path, *rest: int) -> int:
        if name in Path(path).name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest)

    (tmp_path / "metrics.jsonl").touch()
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(RunError, match="cannot be written: Permission denied") as caught, open_run(tmp_path):
        pass
    assert name in caught.value.given and "permissions" in caught.value.todo


def test_a_place_that_knows_no_locks_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(RunError, match="No locks available") as caught, open_run(tmp_path):
        pass
    assert "at work" not in caught.value.given


def test_the_config_is_kept_and_found_again(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        assert run.previous_config is None
        run.adopt({"seed": 3, "sft": {"data": ["é.json"], "rate": 1e-5}})
        inode = os.stat(tmp_path / "config.yaml").st_ino
        run.adopt({"seed": 3, "sft": {"data": ["é.json"], "rate": 1e-5}})
        assert os.stat(tmp_path / "config.yaml").st_ino == inode
        assert run.manifest.content["versions"]["python"]
    with open_run(tmp_path) as run:
        assert run.previous_config == {"seed": 3, "sft": {"data": ["é.json"], "rate": 1e-5}}
        assert run.manifest.content["seed"] == 3


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"a: [", b"- a", b""], ids=["bytes", "half", "list", "empty"])
def test_a_damaged_config_is_written_anew(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(damage)
    with open_run(tmp_path) as run:
        assert run.previous_config is None
        run.adopt({"seed": 1})
    with open_run(tmp_path) as run:
        assert run.previous_config == {"seed": 1}


def test_changed_keys_are_dotted_names() -> None:
    before = {
        "seed": 0,
        "rl": {"kl": {"coefficient": 0.1, "budget": 20}, "clip_range": 0.2},
        "sft": {"data": ["a"]},
        "world": None,
    }
    assert changed_keys(before, before) == []
    after = {
        "seed": 1,
        "rl": {"kl": {"coefficient": 0.2, "budget": 20}, "clip_range": 0.2, "new": 1},
        "sft": {"data": ["a", "b"]},
    }
    assert changed_keys(before, after) == ["rl.kl.coefficient", "rl.new", "seed", "sft.data"]
    assert changed_keys({"sft": None}, {"sft": {"data": ["a"]}}) == ["sft"]
    assert changed_keys({}, {"a": None}) == []


# Signals.


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_a_signal_asks_and_asked_twice_it_cuts(number: signal.Signals, told: str) -> None:
    heard: list[str] = []
    stop = Stop(heard.append)
    # Whoever runs the tests may ignore a signal, as nohup does SIGHUP, and pytest has a handler of its own for Ctrl-C.
    outside = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), handle_signals(stop):
            assert not stop.is_set()
            os.kill(os.getpid(), number)
            assert stop.is_set() and stop.reason == told and heard == [told]
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, outside)


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Stop()
        with handle_signals(stop):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_who_cannot_speak_still_hears() -> None:
    def busy(_: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    stop = Stop(busy)
    stop.set("Ctrl-C")
    assert stop.is_set()


def test_another_thread_cannot_listen_and_works(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    done: list[bool] = []

    def work() -> None:
        with open_run(tmp_path) as run, handle_signals(run.stop):
            done.append(signal.getsignal(signal.SIGINT) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert done == [True]


def test_the_listeners_are_told_of_a_stop(tmp_path: Path) -> None:
    told: list[tuple[str, object]] = []
    with open_run(tmp_path) as run:
        run.journal.listeners.append(lambda kind, row: told.append((kind, row["reason"])))
        run.stop.set("Ctrl-C")
    assert told == [("stopping", "Ctrl-C")]
    assert not (tmp_path / "events.jsonl").exists()


def test_opening_cleans_up_what_a_kill_left(tmp_path: Path) -> None:
    write_text(tmp_path / "sft" / ".model.sawyer-new" / "weights", "half")
    write_text(tmp_path / ".run.json.sawyer-new", "half")
    write_text(tmp_path / "rl" / ".checkpoint.sawyer-old" / "state.pt", "whole")
    (tmp_path / "metrics.jsonl").write_text('{"stage": "sft", "step": 0}\n{"sta')
    with open_run(tmp_path) as run:
        assert run.journal.position("sft") == {"metrics": 1, "samples": 0}
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == [".lock", "metrics.jsonl", "rl/checkpoint/state.pt", "run.json"]
    assert Journal(Layout(tmp_path)).counts["metrics"] == {"sft": 1}
