"""What it costs to go in step: two processes that share each batch against two that have half of it each and know nothing of
each other, in turn: `python -m benchmarks.together --help`.

The two apart start together and begin the steps that count together; part by part they do the rows that the two in step do,
each with as many threads. So they have the same machine, and what is left is the price of exchanging gradients and answers, of
waiting for whoever got the longer share, and of what every process does for itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.inputs import config, parse_arguments
from benchmarks.programs import ProgramFigures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Measurement
    from sawyer.config import Config

PROCESSES = 2
ROW = "{:10}{:>7}{:>16}{:>16}  {:12}{:>9}  {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """One stage's rounds: what the processes in step did each time, and what those apart did."""

    stage: str
    batch: int  # of those in step
    in_step: Sequence[Measurement]
    independent: Sequence[Sequence[Measurement]]

    @property
    def sides(self) -> tuple[ProgramFigures, ProgramFigures]:
        """Units a second until all is done, by those apart until both have ended: the one that ends first leaves the machine to
        the other. The peak: the largest of any process."""
        return _side("in step", [[m] for m in self.in_step]), _side("apart", self.independent)

    @property
    def ratios(self) -> list[float]:
        """Of each round, in step over apart: 1 where going in step costs nothing."""
        in_step, independent = self.sides
        return [one / other for one, other in zip(in_step.per_second, independent.per_second, strict=True)]

    @property
    def figures(self) -> dict[str, Any]:
        """For a line of JSON; the ratio that counts is the median over the rounds."""
        in_step, independent = self.sides
        return {
            "stage": self.stage,
            "units": self.in_step[0].units,
            "batch": self.batch,
            "processes": PROCESSES,
            "in_step": in_step.figures,
            "apart": independent.figures,
            "ratios": [round(ratio, 3) for ratio in self.ratios],
            "times_as_fast": round(statistics.median(self.ratios), 3),
        }

    @property
    def row(self) -> str:
        """For the table."""
        in_step, independent = self.sides
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        ratio = f"{statistics.median(self.ratios):.2f}"
        speeds = (f"{side.speed:,.1f}" for side in (in_step, independent))
        return ROW.format(self.stage, self.batch, *speeds, self.in_step[0].units, ratio, spread)


def _side(name: str, rounds: Sequence[Sequence[Measurement]]) -> ProgramFigures:
    return ProgramFigures(
        name=name,
        per_second=[sum(m.done for m in at_once) / max(m.took for m in at_once) for at_once in rounds],
        peak_mb=[max(m.peak_mb for m in at_once) for at_once in rounds],
    )


def main() -> None:
    """Measure in turn, then tell each stage's medians and ratio, last as a line of JSON each."""
    arguments = _arguments()
    from benchmarks.stage_table import stages_to_measure
    from benchmarks.variant import batch_part
    from sawyer.errors import SawyerError

    try:
        with TemporaryDirectory() as folder:
            run = config(arguments, Path(folder))
            stages = stages_to_measure(run, arguments.stages)
            halves = [batch_part(run, stage, PROCESSES) for stage in stages]  # all are looked at before any is measured
            stage_turns = [
                measure_turns(run, stage, half * PROCESSES, arguments.rounds, arguments.steps)
                for stage, half in zip(stages, halves, strict=True)
            ]
    except SawyerError as error:
        raise SystemExit(str(error)) from error
    print(ROW.format("stage", "batch", "in step, a s", "apart, a s", "units", "ratio", "least to most"))
    for turns in stage_turns:
        print(turns.row)
    for turns in stage_turns:
        print(json.dumps(turns.figures))


def measure_turns(run: Config, stage: str, batch: int, rounds: int, steps: int) -> Turns:
    """Both sides of a stage, in turn."""
    from benchmarks import launch
    from benchmarks.variant import Variant

    in_step, independent = [], []
    for number in range(rounds):
        in_step.append(launch.measure_in_processes(run, stage, Variant(processes=PROCESSES), steps=steps))
        independent.append(launch.measure_independent(run, stage, parts=PROCESSES, steps=steps))
        figures = " and ".join(f"{one.took:.4g}" for one in independent[-1])
        print(
            f"{stage}, round {number + 1} of {rounds}: in step {in_step[-1].took:.4g} s, apart {figures} s "
            f"for {in_step[-1].done:,.0f} {in_step[-1].units}",
            flush=True,
        )
    return Turns(stage=stage, batch=batch, in_step=in_step, independent=independent)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.together",
        description="Two processes in step on each batch, against two with half of it each that know nothing of each other.",
    )
    parser.add_argument("--rounds", type=int, default=3)
    return parse_arguments(parser)


if __name__ == "__main__":
    main()
