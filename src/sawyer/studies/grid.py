"""The runner of all studies: a grid of cells, each a run folder, done in turn and resumed where it was, and one table of them.

What the cells share (an SFT model, a reward model) is made once in the source's run and lent to them by links.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from sawyer.config import Config, demo_config, load_config
from sawyer.errors import ConfigError, Interrupted, RunError
from sawyer.pipeline import demo, fingerprint, product, run
from sawyer.runs import Layout, Listener, Manifest, Stop, clock, handle_signals, link, open_run
from sawyer.studies.tables import CellResult
from sawyer.train import distributed

Tell = Callable[[str], None]
Result = TypeVar("Result")
DEMO = "runs/demo"  # the run of the built-in world that studies begin from where no config is given
DEMO_SECONDS: Mapping[str, float] = {"sft": 35, "collect": 10, "reward": 65, "rl": 45, "compare": 25}  # on two cores


def silent(words: str) -> None:
    """A `tell` that drops the words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of the grid: the table's row that it belongs to, and its config, whose `out` is its folder."""

    row: str
    config: Config
    label: str = ""  # as it is announced; empty: row and seed

    @property
    def layout(self) -> Layout:
        """Where it lies."""
        return Layout(Path(self.config.out))

    def result(self, figures: Mapping[str, Any], failure: str = "") -> CellResult:
        """What it came to."""
        return CellResult(row=self.row, seed=self.config.seed, out=self.config.out, figures=figures, failure=failure)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedStart:
    """The run whose stages the cells are lent. Of the demo its world's files are written before its first stage."""

    config: Config
    demo: bool = False

    @classmethod
    def of(cls, config: Config | str | Path | None) -> SharedStart:
        """A config's run, that of its file, or without one the demo's."""
        if config is None:
            return cls(config=demo_config(DEMO, 0), demo=True)
        return cls(config=config if isinstance(config, Config) else load_config(config))

    @property
    def layout(self) -> Layout:
        """Where it lies."""
        return Layout(Path(self.config.out))

    def run(self, stage: str, listeners: Sequence[Listener]) -> dict[str, Any]:
        """Do one stage of it, if it is not done."""
        if self.demo:
            return demo(self.config.out, self.config.seed, only=stage, listeners=listeners)
        return run(self.config, only=stage, listeners=listeners)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The cells of a study and who watches them.

    Use: `announce`, `make_shared`, then `run`, which gives each cell the shared stages before its work.
    """

    source: SharedStart
    cells: tuple[Cell, ...]
    stages: tuple[str, ...]  # that each cell does itself
    what: str  # the cells, in the plural
    shared_stages: tuple[str, ...] = ()  # stages that are lent to every cell
    alike: bool = True  # the cells take about the same time
    listeners: Sequence[Listener] = ()
    tell: Tell = silent

    def announce(self, what: str, *, estimate: float | None = None) -> None:
        """Tell what will be done and how long it takes: by the cells that are done, else by `estimate` seconds, else by the
        source's run or, on the demo, by what it takes on two cores."""
        if estimate is None:
            estimate = seconds_of(self.source.layout, self.stages)
        if estimate is None and self.source.demo:
            estimate = sum(DEMO_SECONDS[stage] for stage in self.stages)
        cost = cost_summary(what, [cell.layout for cell in self.cells], self.stages, estimate=estimate)
        self.tell(cost + missing_summary(self.source, self.shared_stages))

    def make_shared(self) -> None:
        """Do the shared stages in the source's run. Raises RunError where they were done under other settings."""
        source = self.source
        for stage in stages_in(source.config, self.shared_stages):
            if not is_done(source.layout, stage) and source.run(stage, self.listeners).get("waiting"):
                raise RunError(
                    f"the answers in {source.layout.answers} wait for people",
                    expected="judged answers",
                    why="every run learns from them",
                    todo=f"judge them (`sawyer rate {source.layout.root}`) and run `sawyer run {source.layout.root}`, or put a "
                    "number in place of each `null`; then run the same command again",
                )
        manifest = Manifest(source.layout.manifest)
        for stage in stages_in(source.config, self.shared_stages):
            if manifest.stage(stage).fingerprint != fingerprint(source.config, stage):
                raise RunError(
                    f"{source.layout.root} holds a run whose {stage} stage was done with other settings or data than the "
                    "config has now",
                    expected="the settings and data it was started with",
                    why="what is compared would rest on another model than the one that is named",
                    todo="restore them, or use another `out:`, where it is done anew",
                )

    def lend(self, config: Config) -> None:
        """Give the run of `config` the shared stages by links: gigabytes are not copied.

        Its seed may differ from theirs: its manifest says where they are from. Raises RunError where it has others already.
        """
        stages, source = stages_in(config, self.shared_stages), self.source
        if not stages:
            return
        source_manifest = Manifest(source.layout.manifest)
        with open_run(Path(config.out)) as target:
            for stage in stages:
                here, there = product(target.layout, stage), product(source.layout, stage)
                for path in sorted(source.layout.folder(stage).iterdir()):
                    if not path.name.startswith("."):
                        link(target.layout.folder(stage) / path.name, path)
                if target.manifest.content_hash(stage, here) != source_manifest.content_hash(stage, there):
                    raise RunError(
                        f"{here} is not what {there} is now",
                        expected="the same for all that are compared",
                        why="models trained from different things say nothing of what differs between them",
                        todo=f"delete {target.layout.root}, or name another folder with --out",
                    )
                state = source_manifest.stage(stage)
                target.manifest.update(
                    stage,
                    status="done",
                    fingerprint=fingerprint(config, stage),
                    parents=state.parents,
                    figures=state.figures,
                    reason=f"taken from {source.layout.root}, seed {source.config.seed}",
                )

    def run(self, work: Callable[[Cell, Sequence[Listener]], Result]) -> list[Result]:
        """What `work` returns for each cell, in their order; it gives its second argument to the pipeline as listeners.

        Announces each cell with its label, its number and the time left, by the cells that had work to do. Raises Interrupted
        when a stop was requested between two.
        """
        results: list[Result] = []
        seconds: list[float] = []
        stop = Stop()
        has_worked = False

        def watch(kind: str, row: Mapping[str, Any]) -> None:
            # A stop that comes while a cell's report is written does not stop that cell: it must not be lost.
            nonlocal has_worked
            if kind == "stopping":
                stop.set(str(row["reason"]))
            has_worked = has_worked or row.get("kind") == "start"

        count = len(self.cells)
        with handle_signals(stop):
            for done, cell in enumerate(self.cells):
                if stop.is_set():
                    raise Interrupted(
                        f"{done} of {count} {self.what} are done ({stop.reason})", todo="run the same command again to go on"
                    )
                left = f", about {clock(fmean(seconds) * (count - done))} left" if seconds and self.alike else ""
                self.tell(f"{cell.label or f'{cell.row}, seed {cell.config.seed}'} ({done + 1} of {count}{left})")
                began, has_worked = time.monotonic(), False
                self.lend(cell.config)
                results.append(work(cell, [*self.listeners, watch]))
                seconds += [time.monotonic() - began] if has_worked else []
        return results


def check_names(what: str, names: Sequence[str]) -> None:
    """Each is named once, and there is one. Raises ConfigError."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        problem = f"{what} {twice[0]} is named twice" if twice else f"no {what} is named"
        raise ConfigError(problem, expected="each once, at least one", todo="mend the list")


def check_seeds(seeds: Sequence[int]) -> None:
    """Each is named once and can be a seed. Raises ConfigError."""
    check_names("seed", [str(seed) for seed in seeds])
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ConfigError(f"seed {seed}", expected="a whole number, at least 0 and less than 2^32", todo="name another")


def check_one_process(what: str) -> None:
    """Raises RunError under a launcher of several processes."""
    if distributed.world_size() > 1:
        raise RunError(
            f"{what} were started on {distributed.world_size()} processes",
            expected="one: a study takes its runs one after another, each on all of this process",
            todo="start the command without torchrun or accelerate launch",
        )


def stages_in(config: Config, stages: Iterable[str]) -> list[str]:
    """Those of the stages that the config names."""
    return [stage for stage in stages if getattr(config, stage) is not None]


def is_done(layout: Layout, stage: str) -> bool:
    """The stage is done and what it left is there."""
    return Manifest(layout.manifest).stage(stage).status == "done" and product(layout, stage).exists()


def seconds_of(layout: Layout, stages: Sequence[str]) -> float | None:
    """How long these stages took in a run where all of them are done; None where they are not."""
    manifest = Manifest(layout.manifest)
    if not all(is_done(layout, stage) for stage in stages):
        return None
    return sum(manifest.stage(stage).seconds for stage in stages)


def cost_summary(what: str, runs: Sequence[Layout], stages: Sequence[str], *, estimate: float | None = None) -> str:
    """A sentence on what will be done and how long it takes: `what` are the runs, of which some may be done already.

    One takes as long as those that are done took, else `estimate` seconds; if neither is there, the first will tell.
    """
    seconds = [took for layout in runs if (took := seconds_of(layout, stages)) is not None]
    todo = len(runs) - len(seconds)
    done = f", {len(seconds)} done before" if seconds else ""
    if not todo:
        return f"{what}: all done before"
    each = fmean(seconds) if any(seconds) else estimate
    if each is None:
        return f"{what}{done}; how long one takes is said after the first"
    return f"{what}{done}; about {clock(each)} each on such a machine, {clock(each * todo)} to go"


def missing_summary(source: SharedStart, stages: Sequence[str]) -> str:
    """The shared stages that are done first, in words; empty where all are there."""
    missing = [stage for stage in stages_in(source.config, stages) if not is_done(source.layout, stage)]
    return f"; before them {', '.join(missing)}" if missing else ""
