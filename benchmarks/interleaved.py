"""Two whole commands in the same minutes: `python -m benchmarks.interleaved --seconds 6 27 "sawyer demo" "python other.py"`.

What takes a quarter of an hour cannot be measured several times in turn as a step can, and a machine's speed changes in the
meantime. Here both commands are under way at once, but each is stopped (SIGSTOP) while the other one works, for some seconds in
turn, so that both have their share of every minute; what counts is the seconds in which each worked. Where one is known to take
so many times as long, its turns should be as many times as long, that both end about together. For Linux and macOS; what a
command tells of its own time includes its pauses.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path


class PausedCommand:
    """A command that runs in turns and is stopped between them. `seconds_at_work` counts its turns; `log` gets its output."""

    def __init__(self, command: str, log: Path) -> None:
        self.command, self.seconds_at_work = command, 0.0
        with log.open("wb") as file:
            start = time.monotonic()
            try:
                self.process = subprocess.Popen(shlex.split(command), stdout=file, stderr=file, start_new_session=True)
            except (OSError, ValueError) as error:  # no such program; quotes that do not close
                raise SystemExit(f"`{command}` cannot be run: {error}") from error
        self._stop(start)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def work(self, seconds: float) -> None:
        """Let it work for so long, or until it ends, and stop it again."""
        start = time.monotonic()
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._stop(start)
        else:
            self.seconds_at_work += time.monotonic() - start

    def end(self) -> None:
        """Leave nothing behind."""
        if not self.over:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _stop(self, start: float) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)
        self.seconds_at_work += time.monotonic() - start


def run_interleaved(commands: tuple[str, str], seconds: tuple[float, float], logs: tuple[Path, Path]) -> tuple[float, float]:
    """Seconds in which each command worked until its end. Raises SystemExit where one fails."""
    sides = []
    try:
        for command, log in zip(commands, logs, strict=True):
            sides.append(PausedCommand(command, log))
        while not all(side.over for side in sides):
            for side, turn in zip(sides, seconds, strict=True):
                if not side.over:
                    side.work(turn)
        for side, log in zip(sides, logs, strict=True):
            if side.process.returncode:
                raise SystemExit(f"`{side.command}` failed; its output is in {log}")
        return sides[0].seconds_at_work, sides[1].seconds_at_work
    finally:
        for side in sides:
            side.end()


def main() -> None:
    """Run both, then print their seconds and the ratio as a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interleaved", description="Two commands in the same minutes.")
    parser.add_argument("commands", nargs=2, metavar="COMMAND", help="ours and theirs, quoted")
    parser.add_argument("--seconds", nargs=2, type=float, default=(6.0, 27.0), metavar="S", help="of a turn of each")
    parser.add_argument("--out", type=Path, default=Path("."), help="where ours.txt and theirs.txt go: what the commands say")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    logs = arguments.out / "ours.txt", arguments.out / "theirs.txt"
    ours, theirs = run_interleaved(tuple(arguments.commands), tuple(arguments.seconds), logs)
    print(json.dumps({"ours": round(ours, 1), "theirs": round(theirs, 1), "times_as_fast": round(theirs / ours, 2)}))


if __name__ == "__main__":
    main()
