"""One recipe with several seeds: what chance does to a whole run, base model to comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sawyer.config import Config, demo_config, required_section
from sawyer.errors import ConfigError, TrainingError
from sawyer.pipeline import demo, run
from sawyer.runs import SETTINGS, Listener, clock, last_gates, read_rows
from sawyer.studies.grid import DEMO_SECONDS, Cell, Grid, SharedStart, Tell, check_one_process, check_seeds, silent
from sawyer.studies.tables import NOTHING, CellResult, StudyResult, figure, page, spread_of, write_result

STUDY = "seeds"
REQUIRED = ("sft", "reward", "rl", "compare")
SAMPLING_SETTINGS = ("t1", "t07", "greedy")  # in which RL is compared with SFT
DEMO_OUT = "runs/seeds"
UNITS: Mapping[str, str] = {"gold": "gold, 0 to 10", "reward_mean": "reward, in standard deviations of the SFT model's answers"}


def study_seeds(
    config: Config | str | Path | None = None,
    seeds: Sequence[int] = tuple(range(10)),
    *,
    out: Path | None = None,
    listeners: Sequence[Listener] = (),
    tell: Tell = silent,
) -> StudyResult:
    """Do the whole run of a config, or of the demo where none is given, once for each seed, and show the spread.

    Each seed's run lies in `out`/seed-N; `out` is the folder `seeds` of the config's run if not given. Finished ones are
    skipped, what was interrupted goes on. A run that ends in a TrainingError counts as failed, and the others are done. Raises
    SawyerError.
    """
    check_one_process("seeds")
    source = SharedStart.of(config)
    check_seeds(seeds)
    if not source.demo:
        _check_repeatable(source.config)
    root = out if out is not None else Path(DEMO_OUT) if source.demo else source.layout.study(STUDY)

    def config_of(seed: int) -> Config:
        folder = str(root / f"seed-{seed}")
        return demo_config(folder, seed) if source.demo else source.config.model_copy(update={"out": folder, "seed": seed})

    study = Grid(
        source=source,
        cells=tuple(Cell(row=str(seed), config=config_of(seed), label=f"seed {seed}") for seed in seeds),
        stages=REQUIRED,
        what="seeds",
        listeners=listeners,
        tell=tell,
    )
    recipe = "the demo's recipe" if source.demo else "all stages"
    first, last = (Path(cell.config.out).name for cell in (study.cells[0], study.cells[-1]))
    estimate = sum(DEMO_SECONDS.values()) if source.demo else None
    study.announce(f"{recipe} with {len(seeds)} seeds, {first} to {last} in {root}", estimate=estimate)

    def repeat(cell: Cell, listeners: Sequence[Listener]) -> CellResult:
        try:
            if source.demo:
                summary = demo(cell.config.out, cell.config.seed, listeners=listeners)
            else:
                summary = run(cell.config, listeners=listeners)
        except TrainingError as error:
            return cell.result(_gates(read_rows(cell.layout.events)), error.given)
        return cell.result(read_figures(summary, read_rows(cell.layout.events)))

    result = compare_seeds(study.run(repeat), str(root))
    write_result(result)
    return result


def _check_repeatable(config: Config) -> None:
    for stage in REQUIRED:  # RL is compared with SFT and with the best of eight by the reward model
        required_section(getattr(config, stage), stage)
    if config.collect is not None and config.world is None:
        raise ConfigError(
            "the config has a section `collect` whose answers people score",
            expected="a run that no person has to score",
            why="each seed's SFT model gives other answers, and each would wait for scores",
            todo="name the scored answers of one run under reward.data, and leave `collect:` out",
        )


def _gates(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"gates": {row["name"]: row["verdict"] for row in last_gates(events)}}


def read_figures(summary: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A finished run's figures, from its summary and events. `sft` and `rl` are means over prompts, by setting."""
    measure = "gold" if "gold" in summary else "reward_mean"
    scores = summary[measure]
    rows = events_since_restart(events, "rl")
    return {
        "measure": measure,
        "sft": {name: scores["sft"][name] for name in SAMPLING_SETTINGS},
        "rl": {name: scores["rl"][name] for name in SAMPLING_SETTINGS},
        "best_of_8": scores.get("best_of_8"),  # of SFT samples at temperature 1, by the reward model
        "kl": summary["rl"].get("kl"),  # nats an answer, of the best model to the SFT model
        "best_step": summary["rl"].get("best_step"),
        "guards": list(dict.fromkeys(str(row.get("guard")) for row in rows if row.get("kind") == "guard")),
        "rollbacks": sum(row.get("kind") == "rollback" for row in rows),
        "stopped": str(summary["rl"].get("stopped") or ""),  # why a guard stopped RL
        "seconds": summary["seconds"]["total"],
    } | _gates(events)


def events_since_restart(events: Sequence[Mapping[str, Any]], stage: str) -> list[Mapping[str, Any]]:
    """A stage's events since it last began from its start."""
    rows: list[Mapping[str, Any]] = []
    for row in events:
        if row.get("stage") == stage:
            rows = [] if row.get("kind") == "restarted" else [*rows, row]
    return rows


def compare_seeds(cells: Sequence[CellResult], out: str) -> StudyResult:
    """What RL changed in each setting over the seeds that came to their end, and what may be concluded."""
    whole = [cell.figures for cell in cells if not cell.failure]
    changes = [_change(whole, setting) for setting in SAMPLING_SETTINGS] if whole else []
    measure = whole[0]["measure"] if whole else ""
    notes = _seed_notes(cells, changes)
    title = f"RL against SFT over {len(cells)} seeds ({UNITS.get(measure, '')})"
    return StudyResult(
        study=STUDY,
        out=out,
        measure=measure,
        seeds=tuple(cell.seed for cell in cells),
        rows=tuple(changes),
        cells=tuple(cells),
        differences=(),
        notes=tuple(notes),
        text=page(title, *_seed_table(cells, whole, changes), notes),
    )


def _change(whole: Sequence[Mapping[str, Any]], setting: str) -> dict[str, Any]:
    """RL less SFT in one setting, and in how many seeds RL is higher."""
    gains = [one["rl"][setting] - one["sft"][setting] for one in whole]
    return {"name": setting, "change": spread_of(gains), "improved": sum(gain > 0 for gain in gains), "seeds": len(gains)}


def _seed_notes(cells: Sequence[CellResult], changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    whole = {cell.seed: cell.figures for cell in cells if not cell.failure}
    notes = []
    if changes:
        each = "; ".join(
            f"{c['improved']} of {c['seeds']} at {SETTINGS[c['name']]} by {figure(c['change'].value, sign=True)} "
            f"({figure(c['change'].low, sign=True)} to {figure(c['change'].high, sign=True)})"
            for c in changes
        )
        notes.append(f"RL is better than SFT with these seeds: {each.replace('at greedy', 'greedy')}.")
    control = [(one["rl"]["t1"], one["best_of_8"]) for one in whole.values() if one["best_of_8"] is not None]
    if control:
        ours, theirs = fmean(rl for rl, _ in control), fmean(best for _, best in control)
        words = "beats" if ours > theirs else "does not beat"
        times = sum(rl > best for rl, best in control)
        notes.append(
            f"At temperature 1 RL's mean {figure(ours)} {words} the best of eight SFT samples, {figure(theirs)}; "
            f"it is higher in {times} of {len(control)} seeds."
        )
    rollbacks = [str(seed) for seed, one in whole.items() if one["rollbacks"]]
    notes += [f"Put back to its best model on the way: seed {', '.join(rollbacks)}."] if rollbacks else []
    stops = [f"seed {seed} ({one['stopped']})" for seed, one in whole.items() if one["stopped"]]
    notes.append(f"Stopped by a guard: {'; '.join(stops)}." if stops else "No run was stopped by a guard.")
    failures = [f"seed {cell.seed} ({cell.failure})" for cell in cells if cell.failure]
    notes += [f"Did not come to the end: {'; '.join(failures)}."] if failures else []
    return notes + ["One seed says nothing of what chance does."] * (len(whole) == 1)


def _seed_table(
    cells: Sequence[CellResult], whole: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """A line a seed, then mean and extremes of the seeds that came to their end."""
    names = " / ".join(SETTINGS[setting].removeprefix("temperature ") for setting in SAMPLING_SETTINGS)
    header = ["seed", f"SFT {names}", f"RL {names}", "best of 8", "KL", "best step", "guards", "gates", "time"]
    lines = [_line(cell) for cell in cells]
    if len(whole) > 1:
        spreads = {(who, s): spread_of([one[who][s] for one in whole]) for who in ("sft", "rl") for s in SAMPLING_SETTINGS}
        singles = {key: [one[key] for one in whole if one[key] is not None] for key in ("best_of_8", "kl")}
        totals = {key: spread_of(values) if values else None for key, values in singles.items()}
        for name, end in (("mean", "value"), ("lowest", "low"), ("highest", "high")):
            sft, rl = ({s: getattr(spreads[who, s], end) for s in SAMPLING_SETTINGS} for who in ("sft", "rl"))
            best, kl = (getattr(totals[key], end, None) for key in ("best_of_8", "kl"))
            seconds = getattr(spread_of([one["seconds"] for one in whole]), end)
            lines.append([name, _by_setting(sft), _by_setting(rl), figure(best), figure(kl), "", "", "", clock(seconds)])
        better = " / ".join(str(change["improved"]) for change in changes)
        lines.append([f"better, of {len(whole)}", "", better, *[""] * 6])
    return header, lines


def _line(cell: CellResult) -> list[str]:
    if cell.failure:
        return [cell.row, "failed", *[NOTHING] * 6, ""]
    one = cell.figures
    guards = ", ".join(one["guards"])
    guards += f" ({one['rollbacks']} rollback{'s' * (one['rollbacks'] > 1)})" if one["rollbacks"] else ""
    guards += " (stopped)" if one["stopped"] else ""
    not_ok = [name for name, verdict in one["gates"].items() if verdict != "ok"]
    gates = f"{len(one['gates']) - len(not_ok)} ok" + (f"; {', '.join(not_ok)}" if not_ok else "")
    step = NOTHING if one["best_step"] is None else str(one["best_step"])
    tail = [figure(one["best_of_8"]), figure(one["kl"]), step, guards or "none", gates, clock(one["seconds"])]
    return [cell.row, _by_setting(one["sft"]), _by_setting(one["rl"]), *tail]


def _by_setting(values: Mapping[str, float]) -> str:
    return " / ".join(figure(values[setting]) for setting in SAMPLING_SETTINGS)
