"""Ours beside a peer in one sitting: `python -m benchmarks.peer --help`.

A machine's speed changes within the hour, so neither side's figure says anything alone: both are measured in turn (ours,
theirs, ours, theirs), and what counts is the ratio of their medians. The peer is any command that ends with a line of JSON on
the same rows; ours is what `python -m benchmarks` measures for one stage.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.programs import ProgramFigures


def main() -> None:
    """Measure in turn, then tell the medians and the ratio, last as a line of JSON."""
    arguments, ours = _arguments()
    figures: dict[str, list[Mapping[str, Any]]] = {"ours": [], "theirs": []}
    for number in range(arguments.rounds):
        figures["ours"].append(_ours(ours))
        figures["theirs"].append(_theirs(arguments.peer, arguments.figure))
        speeds = ", ".join(f"{side} {rounds[-1]['per_second']:.4g}" for side, rounds in figures.items())
        print(f"round {number + 1} of {arguments.rounds}: {speeds} a second", flush=True)
    sides = [
        ProgramFigures(name=name, per_second=[r["per_second"] for r in rounds], peak_mb=[r["peak_mb"] for r in rounds])
        for name, rounds in figures.items()
    ]
    print(json.dumps({"peer": arguments.peer, "stage": figures["ours"][0]["stage"], **ratios(*sides)}))


def ratios(ours: ProgramFigures, theirs: ProgramFigures) -> dict[str, Any]:
    """Medians of both sides, and ours over theirs: of the speed, and of the peak memory."""
    return {
        "ours": ours.figures,
        "theirs": theirs.figures,
        "times_as_fast": round(ours.speed / theirs.speed, 3),
        "share_of_memory": round(ours.peak / theirs.peak, 3),
    }


def last_json(text: str) -> dict[str, Any]:
    """The last line of an output that is a JSON object."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            figures: dict[str, Any] = json.loads(line)
            return figures
    raise SystemExit(f"no line of JSON in what the command printed: ...{text[-500:]}")


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peer",
        description="Ours and a peer's command in turn; every other argument goes to `python -m benchmarks`.",
        epilog="example: python -m benchmarks.peer --peer 'python their_sft.py gpt2' --figure tokens_per_s --stages sft",
    )
    parser.add_argument("--peer", required=True, help="a command whose last line is JSON")
    parser.add_argument("--figure", required=True, help="the key of its units a second; its `peak_mb` is read too")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_known_args()


def _ours(arguments: Sequence[str]) -> Mapping[str, Any]:
    with TemporaryDirectory() as folder:
        _output([sys.executable, "-m", "benchmarks", *arguments, "--out", folder])
        lines = (Path(folder) / "bench.jsonl").read_text(encoding="utf-8").splitlines()
    if len(lines) != 1:
        raise SystemExit(f"{len(lines)} figures of ours; name one stage: --stages sft")
    figures: Mapping[str, Any] = json.loads(lines[0])
    return figures


def _theirs(command: str, figure: str) -> Mapping[str, Any]:
    try:
        output = _output(shlex.split(command))
    except (OSError, ValueError) as error:  # no such program; quotes that do not close
        raise SystemExit(f"`{command}` cannot be run: {error}") from error
    figures = last_json(output)
    if figure not in figures:
        raise SystemExit(f"the peer tells {', '.join(figures)}, not {figure}")
    return {"per_second": float(figures[figure]), "peak_mb": float(figures.get("peak_mb", "nan"))}


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
