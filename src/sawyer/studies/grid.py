"""What every study does: what its runs share is made once and lent to them, they are done in turn, a stop between two is heard,
and what they will cost is said before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from sawyer.config import Config
from sawyer.config import demo as demo_config
from sawyer.config import load as load_config
from sawyer.errors import ConfigError, Interrupted, RunError
from sawyer.pipeline import demo, fingerprint, product, run
from sawyer.runs import Layout, Listener, Manifest, Stop, clock, handle_signals, link, open_run
from sawyer.train import distributed

Tell = Callable[[str], None]
Job = TypeVar("Job")
Result = TypeVar("Result")
DEMO = "runs/demo"  # the run of the built-in world that studies begin from where no config is given
DEMO_SECONDS: Mapping[str, float] = {"sft": 35, "collect": 10, "reward": 65, "rl": 45, "compare": 25}  # on two cores


def silent(words: str) -> None:
    """Where nobody listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedStart:
    """The run whose stages the others are lent. Of the demo its world's files are written before its first stage."""

    config: Config
    demo: bool = False

    @property
    def layout(self) -> Layout:
        """Where it lies."""
        return Layout(Path(self.config.out))

    def run(self, stage: str, listeners: Sequence[Listener]) -> dict[str, Any]:
        """Do one stage of it, if it is not done."""
        if self.demo:
            return demo(self.config.out, self.config.seed, only=stage, listeners=listeners)
        return run(self.config, only=stage, listeners=listeners)


def source_of(config: Config | str | Path | None) -> SharedStart:
    """A config, the file of one, or nothing: then the demo's."""
    if config is None:
        return SharedStart(config=demo_config(DEMO, 0), demo=True)
    return SharedStart(config=config if isinstance(config, Config) else load_config(config))


def checked_seeds(seeds: Sequence[int]) -> None:
    """Each is named once and can be one. Raises ConfigError."""
    checked_names("seed", [str(seed) for seed in seeds])
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ConfigError(f"seed {seed}", expected="a whole number, at least 0 and less than 2^32", todo="name another")


def checked_names(what: str, names: Sequence[str]) -> None:
    """Each is named once, and there is one. Raises ConfigError."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        told = f"{what} {twice[0]} is named twice" if twice else f"no {what} is named"
        raise ConfigError(told, expected="each once, at least one", todo="mend the list")


def named(config: Config, stages: Sequence[str]) -> list[str]:
    """Those of the stages that the config names."""
    return [stage for stage in stages if getattr(config, stage) is not None]


def is_done(layout: Layout, stage: str) -> bool:
    """The stage is done and what it left is there."""
    return Manifest(layout.manifest).stage(stage).status == "done" and product(layout, stage).exists()


def make_shared(source: SharedStart, stages: Sequence[str], listeners: Sequence[Listener]) -> None:
    """The source's run has these stages, as its config asks for them now. Raises RunError where they were done otherwise."""
    for stage in named(source.config, stages):
        if is_done(source.layout, stage):
            continue
        if source.run(stage, listeners).get("waiting"):
            raise RunError(
                f"the answers in {source.layout.answers} wait for a score",
                expected="scored answers",
                why="every run learns from them",
                todo="put a number in place of each `null`, then run the same command again",
            )
    manifest = Manifest(source.layout.manifest)
    for stage in named(source.config, stages):
        if manifest.stage(stage).fingerprint != fingerprint(source.config, stage):
            raise RunError(
                f"{source.layout.root} holds a run whose {stage} stage was done with other settings or data than the config "
                "has now",
                expected="the settings and data it was begun with",
                why="what is compared would rest on another model than the one that is named",
                todo="restore them, or use another `out:`, where it is done anew",
            )


def lend(own: Config, source: SharedStart, stages: Sequence[str]) -> None:
    """The run of `own` has these stages of the source's run, by links: gigabytes are not copied.

    Its seed may be another than theirs: its manifest says whose they are. Raises RunError where it has others already.
    """
    lent = Manifest(source.layout.manifest)
    with open_run(Path(own.out)) as opened:
        for stage in named(own, stages):
            here, there = product(opened.layout, stage), product(source.layout, stage)
            for path in sorted(source.layout.folder(stage).iterdir()):
                if not path.name.startswith("."):
                    link(opened.layout.folder(stage) / path.name, path)
            if opened.manifest.content_hash(stage, here) != lent.content_hash(stage, there):
                raise RunError(
                    f"{here} is not what {there} is now",
                    expected="the same for all that are compared",
                    why="models trained from different things say nothing of what differs between them",
                    todo=f"delete {opened.layout.root}, or name another folder with --out",
                )
            state = lent.stage(stage)
            opened.manifest.update(
                stage,
                status="done",
                fingerprint=fingerprint(own, stage),
                parents=state.parents,
                figures=state.figures,
                reason=f"taken from {source.layout.root}, seed {source.config.seed}",
            )


def in_turn(
    jobs: Sequence[Job],
    do: Callable[[Job, Sequence[Listener]], Result],
    *,
    name: Callable[[Job], str],
    what: str,
    alike: bool = True,
    listeners: Sequence[Listener] = (),
    tell: Tell = silent,
) -> list[Result]:
    """What `do` finds for each job, one after another; `what` are they, in the plural.

    `do` gives its second argument to the pipeline as listeners. Before each job `tell` hears its name, its place and, where
    the jobs are alike, about how long the rest takes, by those that had work to do. Raises Interrupted when a stop was asked
    for between two.
    """
    found: list[Result] = []
    spent: list[float] = []
    stop = Stop()
    worked = False

    def heard(kind: str, row: Mapping[str, Any]) -> None:
        # A stop that comes while a run's report is written does not stop that run: it must not be lost.
        nonlocal worked
        if kind == "stopping":
            stop.set(str(row["reason"]))
        worked = worked or row.get("kind") == "start"

    check_one_process(what)
    with handle_signals(stop):
        for place, job in enumerate(jobs):
            if stop.is_set():
                raise Interrupted(
                    f"{place} of {len(jobs)} {what} are done ({stop.reason})", todo="run the same command again to go on"
                )
            left = f", about {clock(fmean(spent) * (len(jobs) - place))} left" if spent and alike else ""
            tell(f"{name(job)} ({place + 1} of {len(jobs)}{left})")
            began, worked = time.monotonic(), False
            found.append(do(job, [*listeners, heard]))
            spent += [time.monotonic() - began] if worked else []
    return found


def check_one_process(what: str) -> None:
    """Raises RunError under a launcher of several processes."""
    if distributed.world_size() > 1:
        raise RunError(
            f"{what} were asked of {distributed.world_size()} processes",
            expected="one: a study takes its runs one after another, each on all of this process",
            todo="start the command without torchrun or accelerate launch",
        )


def seconds_of(layout: Layout, stages: Sequence[str]) -> float | None:
    """How long these stages took in a run where all of them are done; None where they are not."""
    manifest = Manifest(layout.manifest)
    if not all(is_done(layout, stage) for stage in stages):
        return None
    return sum(manifest.stage(stage).seconds for stage in stages)


def cost_summary(what: str, runs: Sequence[Layout], stages: Sequence[str], *, known: float | None = None) -> str:
    """A sentence on what will be done and how long it takes: `what` are the runs, of which some may be done already.

    One takes as long as those that are done took, else `known` seconds; if neither is there, the first will tell.
    """
    took = [seconds for layout in runs if (seconds := seconds_of(layout, stages)) is not None]
    todo = len(runs) - len(took)
    done = f", {len(took)} done before" if took else ""
    if not todo:
        return f"{what}: all done before"
    each = fmean(took) if any(took) else known
    if each is None:
        return f"{what}{done}; how long one takes is said after the first"
    return f"{what}{done}; about {clock(each)} each on such a machine, {clock(each * todo)} to go"
