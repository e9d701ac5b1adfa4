"""One recipe with several seeds: what chance does to a whole run, base model to comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sawyer.config import Config
from sawyer.config import demo as demo_config
from sawyer.config import load as load_config
from sawyer.errors import ConfigError, TrainingError
from sawyer.pipeline import demo, run
from sawyer.runs import SETTINGS, Layout, Listener, clock, last_gates, read_rows, write_json, write_text
from sawyer.studies.grid import DEMO_SECONDS, Tell, checked_seeds, cost_summary, in_turn, silent
from sawyer.studies.markdown_tables import figure, in_all, table

STUDY = "seeds"
NEEDED = ("sft", "reward", "rl", "compare")
COMPARED = ("t1", "t07", "greedy")  # in which RL is held against SFT
DEMO_OUT = "runs/seeds"
UNITS: Mapping[str, str] = {"gold": "gold, 0 to 10", "reward_mean": "reward, in standard deviations of the SFT model's answers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What one seed's run came to. `sft` and `rl` are means over the comparison's prompts, by setting."""

    seed: int
    out: str
    measure: str  # gold where the truth is known, else reward_mean
    sft: Mapping[str, float]
    rl: Mapping[str, float]
    best_of_8: float | None  # of SFT samples at temperature 1, by the reward model
    kl: float | None  # nats an answer, of the kept model to the SFT model
    kept: int | None  # after which update
    guards: tuple[str, ...]  # that spoke during RL, the one that stopped it among them
    rollbacks: int  # how often RL was put back to its best model
    stopped: str  # why a guard stopped RL; empty: none did
    gates: Mapping[str, str]  # name -> verdict
    seconds: float
    failed: str = ""  # why the run did not come to its end; what there is of figures is then left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """RL less SFT in one setting, over the seeds that came to their end."""

    setting: str
    improved: int  # seeds in which RL is higher
    of: int
    mean: float
    low: float  # the seed that gained least
    high: float
    deviation: float | None  # sample standard deviation; None with one seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """The seeds, what RL changed in each setting, and what may be said of it."""

    out: str
    measure: str
    seeds: tuple[Seed, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def study_seeds(
    config: Config | str | Path | None = None,
    seeds: Sequence[int] = tuple(range(10)),
    *,
    out: Path | None = None,
    listeners: Sequence[Listener] = (),
    tell: Tell = silent,
) -> Seeds:
    """Do the whole run of a config, or of the demo where none is given, once for each seed, and show the spread.

    Each seed's run lies in `out`/seed-N; `out` is the folder `seeds` of the config's run if not given. Finished ones are
    skipped, what was interrupted goes on. A run that ends in a TrainingError counts as failed, and the others are done. Raises
    SawyerError.
    """
    asked = config if isinstance(config, Config) or config is None else load_config(config)
    checked_seeds(seeds)
    if asked is not None:
        _check(asked)
    root = out if out is not None else Path(DEMO_OUT) if asked is None else Layout(Path(asked.out)).lab(STUDY)
    jobs = [config_of(asked, seed, root) for seed in seeds]
    stages = [stage for stage in type(jobs[0]).model_fields if stage in NEEDED]
    known = sum(DEMO_SECONDS.values()) if asked is None else None
    whole = "the demo's recipe" if asked is None else "all stages"
    told = f"{whole} with {len(seeds)} seeds, {Path(jobs[0].out).name} to {Path(jobs[-1].out).name} in {root}"
    tell(cost_summary(told, [Layout(Path(job.out)) for job in jobs], stages, known=known))

    def do(own: Config, heard: Sequence[Listener]) -> Seed:
        try:
            if asked is None:
                summary = demo(own.out, own.seed, listeners=heard)
            else:
                summary = run(own, listeners=heard)
        except TrainingError as error:
            return _failed(own, error.given)
        return seed_of(own, summary)

    done = in_turn(jobs, do, name=lambda own: f"seed {own.seed}", what="seeds", listeners=listeners, tell=tell)
    found = over_seeds(done, str(root))
    write_json(Layout(root).table(STUDY), asdict(found))
    write_text(Layout(root).table_text(STUDY), markdown(found))
    return found


def config_of(config: Config | None, seed: int, root: Path) -> Config:
    """The config of one seed, a run below `root`."""
    out = str(root / f"seed-{seed}")
    return demo_config(out, seed) if config is None else config.model_copy(update={"out": out, "seed": seed})


def _check(config: Config) -> None:
    missing = [stage for stage in NEEDED if getattr(config, stage) is None]
    if missing:
        raise ConfigError(
            f"the config has no section `{missing[0]}`",
            expected=f"{', '.join(NEEDED)}: RL is compared with SFT and with the best of eight by the reward model",
            todo=f"add `{missing[0]}:` to the file",
        )
    if config.collect is not None and config.world is None:
        raise ConfigError(
            "the config has a section `collect` whose answers people score",
            expected="a run that needs nobody",
            why="each seed's SFT model gives other answers, and each would wait for scores",
            todo="name the scored answers of one run under reward.data, and leave `collect:` out",
        )


def seed_of(own: Config, summary: Mapping[str, Any]) -> Seed:
    """The figures of a finished run, as its summary and its events have them."""
    measure = "gold" if "gold" in summary else "reward_mean"
    scores = summary[measure]
    events = read_rows(Layout(Path(own.out)).events)
    lately = since_anew(events, "rl")
    guards = [str(row.get("guard")) for row in lately if row.get("kind") == "guard"]
    return Seed(
        seed=own.seed,
        out=own.out,
        measure=measure,
        sft={name: scores["sft"][name] for name in COMPARED},
        rl={name: scores["rl"][name] for name in COMPARED},
        best_of_8=scores.get("best_of_8"),
        kl=summary["rl"].get("kl"),
        kept=summary["rl"].get("best_step"),
        guards=tuple(dict.fromkeys(guards)),
        rollbacks=sum(row.get("kind") == "rollback" for row in lately),
        stopped=str(summary["rl"].get("stopped") or ""),
        gates={row["name"]: row["verdict"] for row in last_gates(events)},
        seconds=summary["seconds"]["total"],
    )


def since_anew(events: Sequence[Mapping[str, Any]], stage: str) -> list[Mapping[str, Any]]:
    """A stage's events since it last began anew."""
    found: list[Mapping[str, Any]] = []
    for row in events:
        if row.get("stage") == stage:
            found = [] if row.get("kind") == "restarted" else [*found, row]
    return found


def _failed(own: Config, why: str) -> Seed:
    return Seed(
        seed=own.seed,
        out=own.out,
        measure="",
        sft={},
        rl={},
        best_of_8=None,
        kl=None,
        kept=None,
        guards=(),
        rollbacks=0,
        stopped="",
        gates={row["name"]: row["verdict"] for row in last_gates(read_rows(Layout(Path(own.out)).events))},
        seconds=0.0,
        failed=why,
    )


def over_seeds(seeds: Sequence[Seed], out: str) -> Seeds:
    """What RL changed over the seeds, and what may be said of it."""
    whole = [seed for seed in seeds if not seed.failed]
    changes = tuple(_change(whole, setting) for setting in COMPARED) if whole else ()
    measure = whole[0].measure if whole else ""
    notes = tuple(_notes(seeds, whole, changes))
    return Seeds(out=out, measure=measure, seeds=tuple(seeds), changes=changes, notes=notes)


def _change(whole: Sequence[Seed], setting: str) -> Change:
    gains = [seed.rl[setting] - seed.sft[setting] for seed in whole]
    return Change(
        setting=setting,
        improved=sum(gain > 0 for gain in gains),
        of=len(gains),
        mean=fmean(gains),
        low=min(gains),
        high=max(gains),
        deviation=stdev(gains) if len(gains) > 1 else None,
    )


def _notes(seeds: Sequence[Seed], whole: Sequence[Seed], changes: Sequence[Change]) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    notes = []
    if changes:
        each = "; ".join(
            f"{in_all(c.improved, c.of)} at {SETTINGS[c.setting]} by {figure(c.mean, sign=True)} "
            f"({figure(c.low, sign=True)} to {figure(c.high, sign=True)})"
            for c in changes
        )
        notes.append(f"RL is better than SFT with these seeds: {each.replace('at greedy', 'greedy')}.")
    control = [(seed.rl["t1"], seed.best_of_8) for seed in whole if seed.best_of_8 is not None]
    if control:
        ours, theirs = fmean(rl for rl, _ in control), fmean(best for _, best in control)
        words = "beats" if ours > theirs else "does not beat"
        times = sum(rl > best for rl, best in control)
        notes.append(
            f"At temperature 1 RL's mean {figure(ours)} {words} the best of eight SFT samples, {figure(theirs)}; "
            f"it is higher in {in_all(times, len(control))} seeds."
        )
    stopped = [f"seed {seed.seed} ({seed.stopped})" for seed in whole if seed.stopped]
    rolled = [str(seed.seed) for seed in whole if seed.rollbacks]
    notes += [f"Put back to its best model on the way: seed {', '.join(rolled)}."] if rolled else []
    notes.append(f"Stopped by a guard: {'; '.join(stopped)}." if stopped else "No run was stopped by a guard.")
    failed = [f"seed {seed.seed} ({seed.failed})" for seed in seeds if seed.failed]
    notes += [f"Did not come to the end: {'; '.join(failed)}."] if failed else []
    if len(whole) == 1:
        notes.append("One seed says nothing of what chance does.")
    return notes


def markdown(found: Seeds) -> str:
    """The table and its notes as Markdown."""
    names = " / ".join(SETTINGS[setting].removeprefix("temperature ") for setting in COMPARED)
    header = ["seed", f"SFT {names}", f"RL {names}", "best of 8", "KL", "kept", "guards", "gates", "time"]
    rows = [_row(seed) for seed in found.seeds]
    whole = [seed for seed in found.seeds if not seed.failed]
    if len(whole) > 1:
        best = [seed.best_of_8 for seed in whole if seed.best_of_8 is not None]
        kls = [seed.kl for seed in whole if seed.kl is not None]
        for name, of in (("mean", fmean), ("lowest", min), ("highest", max)):
            sft, rl = ({s: of([getattr(seed, who)[s] for seed in whole]) for s in COMPARED} for who in ("sft", "rl"))
            tail = [figure(of(best) if best else None), figure(of(kls) if kls else None), "", "", ""]
            rows.append([name, _three(sft), _three(rl), *tail, clock(of([seed.seconds for seed in whole]))])
        improved = " / ".join(str(change.improved) for change in found.changes)
        rows.append([f"better, of {len(whole)}", "", improved, "", "", "", "", "", ""])
    title = f"RL against SFT over {len(found.seeds)} seeds ({UNITS.get(found.measure, '')})"
    return "\n".join([title, "", table(header, rows), "", *(f"- {note}" for note in found.notes), ""])


def _row(seed: Seed) -> list[str]:
    if seed.failed:
        return [str(seed.seed), "failed", *[figure(None)] * 6, ""]
    guards = ", ".join(seed.guards)
    guards += f" ({seed.rollbacks} rollback{'s' * (seed.rollbacks > 1)})" if seed.rollbacks else ""
    guards += " (stopped)" if seed.stopped else ""
    verdicts = list(seed.gates.values())
    bad = [name for name, verdict in seed.gates.items() if verdict != "ok"]
    gates = f"{verdicts.count('ok')} ok" + (f"; {', '.join(bad)}" if bad else "")
    kept = "–" if seed.kept is None else str(seed.kept)
    tail = [figure(seed.best_of_8), figure(seed.kl), kept, guards or "none", gates, clock(seed.seconds)]
    return [str(seed.seed), _three(seed.sft), _three(seed.rl), *tail]


def _three(values: Mapping[str, float]) -> str:
    return " / ".join(figure(values[setting]) for setting in COMPARED)
