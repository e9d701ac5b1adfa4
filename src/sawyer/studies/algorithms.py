"""The RL algorithms at one budget: one SFT model, one reward model, the same prompts.

Each algorithm with each seed is a cell: RL and the comparison are done in it, what comes before is lent. Every interval is by
prompt: a prompt's figure is first its mean over the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from sawyer.config import USED_BY, Algorithm, Config, required_section, with_settings
from sawyer.errors import ConfigError
from sawyer.pipeline import run
from sawyer.runs import SETTINGS, Layout, Listener, Manifest, clock, read_rows
from sawyer.stats import FEW, Interval, bootstrap, no_narrower_than_wilson
from sawyer.studies.grid import (
    DEMO_SECONDS,
    Cell,
    Grid,
    SharedStart,
    Tell,
    check_names,
    check_one_process,
    check_seeds,
    seconds_of,
    silent,
)
from sawyer.studies.tables import NOTHING, CellResult, Difference, StudyResult, figure, page, with_interval, write_result
from sawyer.studies.throughput import Pace, measure_pace

STUDY = "algorithms"
SHARED_STAGES = ("base", "sft", "collect", "reward")
STAGES = ("rl", "compare")
# Best-of-n trains nothing: its answers are in every comparison, so that it stands in every table without a run.
ALGORITHMS: tuple[str, ...] = tuple(name for name in get_args(Algorithm) if name != "best_of_n")
SAMPLING_SETTINGS = ("t1", "t07", "greedy")
JUDGED_AT = "t07"  # the setting of win rate, reward, KL and length
CONTROL = "best_of_8"  # trains nothing: of eight SFT samples at temperature 1 the one with the highest reward
LABELS: Mapping[str, str] = {
    "sft": "SFT, no RL",
    CONTROL: "SFT, best of 8",
    "ppo": "PPO",
    "rloo": "RLOO",
    "grpo": "GRPO",
    "dpo": "DPO",
}
Rows = Sequence[Mapping[str, Any]]  # of a run's compare.jsonl


def study_algorithms(
    config: Config | str | Path | None = None,
    algorithms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    *,
    episodes: int | None = None,
    minutes: float | None = None,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    listeners: Sequence[Listener] = (),
    tell: Tell = silent,
) -> StudyResult:
    """The algorithms of `rl.algorithm` at one budget, from the SFT and reward model of the config, or of the demo without one.

    All that train, if none is named; beside them stand SFT and its best of eight, which need no run. Each is done with each of
    the seeds (the config's, if none is given), which decide RL and the sampling of the comparison alone. The budget is the
    config's `rl.episodes`, or `episodes`, or `minutes` of training: then each algorithm's pace is measured first. `overrides`
    are settings for one of them, as `rloo.group_size=8`. What is finished is skipped, what was interrupted goes on; `out` is
    the run's folder `algorithms` if not given. Raises SawyerError.
    """
    check_one_process("runs")
    source = SharedStart.of(config)
    names = list(ALGORITHMS if algorithms is None else algorithms)
    seeds = [source.config.seed] if seeds is None else list(seeds)
    _check_request(source.config, names, seeds, episodes, minutes, overrides)
    root = out if out is not None else source.layout.study(STUDY)
    cells = tuple(
        Cell(
            row=name,
            config=config_of(source.config, name, seed, root, episodes, overrides),
            label=f"{LABELS[name]}, seed {seed}",
        )
        for name in names
        for seed in seeds
    )
    study = Grid(
        source=source, cells=cells, stages=STAGES, what="runs", shared_stages=SHARED_STAGES, listeners=listeners, tell=tell
    )
    many = f"{len(names)} algorithms with {len(seeds)} seed{'s' * (len(seeds) > 1)} are {len(cells)} runs"
    if minutes is None:
        study.announce(many)
        study.make_shared()
    else:
        compare_seconds = DEMO_SECONDS["compare"] if source.demo else seconds_of(source.layout, ["compare"]) or 0.0
        budget = f", each with {minutes:g} minutes of training, and a short trial of each for its pace"
        study.announce(many + budget, estimate=60 * minutes + compare_seconds)
        study.make_shared()
        first = {cell.row: cell.config for cell in reversed(cells)}
        paces = {name: measure_pace(name, first[name], root, study.lend, listeners, tell) for name in names}
        cells_in_time = (replace(cell, config=within(cell.config, paces[cell.row], minutes)) for cell in cells)
        study = replace(study, cells=tuple(cells_in_time))

    def train(cell: Cell, listeners: Sequence[Listener]) -> CellResult:
        for stage in STAGES:
            run(cell.config, only=stage, listeners=listeners)
        return read_cell(cell)

    result = compare_algorithms(study.run(train), str(root), source.config.seed, overrides)
    write_result(result)
    return result


def config_of(
    config: Config, algorithm: str, seed: int, root: Path, episodes: int | None, overrides: Sequence[str] = ()
) -> Config:
    """The config of one algorithm with one seed, a run below `root`: the config's settings as far as the algorithm knows them.
    Raises ConfigError for `overrides` of this algorithm that it does not know or that do not fit."""
    rl = required_section(config.rl, "rl")
    same = algorithm == rl.algorithm
    values = rl.model_dump(mode="json", exclude_unset=True) | {"algorithm": algorithm}
    if not same:
        # How many answers a prompt gets means something else in each algorithm; batches and passes do where one learns from
        # answers that it samples and the other from judged pairs.
        alike = samples_answers(algorithm) == samples_answers(rl.algorithm)
        incomparable = ("group_size",) if alike else ("group_size", "batch_size", "epochs")
        values = {name: value for name, value in values.items() if name not in incomparable}
    values |= {} if episodes is None else {"episodes": episodes}
    if not samples_answers(algorithm) and not same:
        # It reads the judged answers as the reward model did, as often, and is evaluated as often as RL is.
        reward = required_section(config.reward, "reward")
        eval_every = max(1, rl.eval_every * rl.batch_size // reward.batch_size)
        values |= {"batch_size": reward.batch_size, "epochs": max(1, round(reward.epochs)), "eval_every": eval_every}
    values = {name: value for name, value in values.items() if _knows(algorithm, name)}
    if "kl" in values:
        values["kl"] = {name: value for name, value in values["kl"].items() if _knows(algorithm, f"kl.{name}")}
    compare = required_section(config.compare, "compare").model_dump(mode="json") | {"deliberate_limit": 0}
    changes = {"out": str(root / f"{algorithm}-seed-{seed}"), "seed": seed, "compare": compare, "rl": values}
    settings = [f"rl.{s.removeprefix(f'{algorithm}.')}" for s in overrides if s.startswith(f"{algorithm}.")]
    return with_settings(config, changes, settings)


def samples_answers(algorithm: str) -> bool:
    """Whether it learns from answers that it samples."""
    return _knows(algorithm, "episodes")


def _knows(algorithm: str, name: str) -> bool:
    """Whether a setting of `rl` means anything to the algorithm."""
    return algorithm in USED_BY.get(name, (algorithm,))


def _check_request(
    config: Config,
    algorithms: Sequence[str],
    seeds: Sequence[int],
    episodes: int | None,
    minutes: float | None,
    overrides: Sequence[str],
) -> None:
    """Raise ConfigError for what cannot be done, before anything is trained."""
    for stage in ("sft", "reward", "rl", "compare"):
        required_section(getattr(config, stage), stage)
    check_names("algorithm", algorithms)
    check_seeds(seeds)
    for name in algorithms:
        if name not in ALGORITHMS:
            raise ConfigError(
                f"{name} is no algorithm that trains",
                expected=f"of: {', '.join(ALGORITHMS)}; the best of eight is in every table",
                todo="name another, or leave it out",
            )
    if episodes is not None and minutes is not None:
        raise ConfigError("a budget of episodes and one of minutes", expected="one of the two", todo="leave one out")
    for setting in overrides:
        if setting.partition(".")[0] not in algorithms:
            raise ConfigError(
                f"{setting!r} is for none of the algorithms",
                expected=f"the name of one before the setting, such as {algorithms[0]}.learning_rate=1e-4",
                todo="name it, or leave the setting out",
            )


def within(config: Config, pace: Pace, minutes: float) -> Config:
    """The config with as many answers, or for DPO passes, as fit into the minutes at this pace; one batch or pass at least."""
    rl = required_section(config.rl, "rl")
    updates = pace.updates(60 * minutes, rl.eval_every)
    if samples_answers(rl.algorithm):
        budget = {"episodes": updates * rl.batch_size}
    else:
        budget = {"epochs": max(1, updates * rl.epochs // pace.of)}
    return config.model_copy(update={"rl": rl.model_copy(update=budget)})


def read_cell(cell: Cell) -> CellResult:
    """What a finished cell's RL stage took."""
    rl = required_section(cell.config.rl, "rl")
    state = Manifest(cell.layout.manifest).stage("rl")
    pairs = f"judged pairs, {rl.epochs} time{'s' * (rl.epochs > 1)}"
    figures = {
        "budget": f"{rl.episodes:,} answers" if samples_answers(rl.algorithm) else pairs,  # what it learnt from
        "seconds": state.seconds,  # of the RL stage, evaluations included
        "peak_mb": state.peak_mb,
        "best_step": state.figures.get("best_step"),
        "stopped": str(state.figures.get("stopped") or ""),  # why a guard stopped it
    }
    return cell.result(figures)


def compare_algorithms(cells: Sequence[CellResult], out: str, seed: int, overrides: Sequence[str] = ()) -> StudyResult:
    """The table from the cells' comparisons: prompts that every run answered, intervals by prompt."""
    names = list(dict.fromkeys(cell.row for cell in cells))
    rows = {cell.out: read_rows(Layout(Path(cell.out)).compare) for cell in cells}
    measure = "gold" if any("gold" in row for run_rows in rows.values() for row in run_rows) else "reward"
    runs = {name: [rows[cell.out] for cell in cells if cell.row == name] for name in names}
    every = [run_rows for of_name in runs.values() for run_rows in of_name]
    lines = [_row("sft", every, "sft", measure, [], seed), *_control_row(every, measure, seed)]
    lines += [_row(name, runs[name], "rl", measure, [c.figures for c in cells if c.row == name], seed) for name in names]
    seeds = tuple(dict.fromkeys(cell.seed for cell in cells))
    differences = _differences(runs, measure, seed)
    notes = _algorithm_notes(differences, names, cells, seeds, overrides)
    prompts = len(by_prompt(every, "sft", JUDGED_AT, measure))
    few = [f"Fewer than {FEW} prompts: the intervals say little."] if prompts < FEW else []
    title = (
        f"Algorithms from one SFT and reward model, {prompts} prompts, "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; wins (% against SFT), "
        "reward, KL and tokens at temperature 0.7; 95 % intervals by prompt"
    )
    return StudyResult(
        study=STUDY,
        out=out,
        measure=measure,
        seeds=seeds,
        rows=tuple(lines),
        cells=tuple(cells),
        differences=tuple(differences),
        notes=tuple(notes),
        text=page(title, *_algorithm_table(lines, measure), few + notes),
    )


def by_prompt(runs: Sequence[Rows], model: str, setting: str, key: str) -> dict[int, float]:
    """Each prompt's mean of `key` over the runs; prompts that some run did not answer are left out."""
    values: dict[int, list[float]] = {}
    for row in (row for rows in runs for row in rows):
        if (row["model"], row["setting"]) == (model, setting) and key in row:
            values.setdefault(row["number"], []).append(float(row[key]))
    return {number: fmean(each) for number, each in sorted(values.items()) if len(each) == len(runs)}


def _interval(values: Mapping[int, float], seed: int) -> Interval | None:
    return bootstrap(list(values.values()), seed=seed) if values else None


def _row(name: str, runs: Sequence[Rows], model: str, measure: str, figures: Rows, seed: int) -> dict[str, Any]:
    """A line of the table: what is not known is None, or of the settings left out."""
    scores = {setting: _interval(by_prompt(runs, model, setting, measure), seed) for setting in SAMPLING_SETTINGS}
    memory = [one["peak_mb"] for one in figures if one["peak_mb"] is not None]
    return {
        "name": name,
        "scores": {setting: interval for setting, interval in scores.items() if interval is not None},
        **{key: _interval(by_prompt(runs, model, JUDGED_AT, key), seed) for key in ("reward", "kl", "length")},
        "kl_bound": None,
        "wins": _wins(runs, measure, seed) if model == "rl" else None,
        "budget": figures[0]["budget"] if figures else "",
        "seconds": fmean(one["seconds"] for one in figures) if figures else None,
        "peak_mb": max(memory, default=None),
        "stopped": sum(bool(one["stopped"]) for one in figures),  # seeds that a guard stopped
    }


def _control_row(runs: Sequence[Rows], measure: str, seed: int) -> list[dict[str, Any]]:
    """The best of eight, where the runs have it: it is sampled at temperature 1, so that the rest of its line is empty."""
    from sawyer.maths import best_of_n_kl

    interval = _interval(by_prompt(runs, "sft", CONTROL, measure), seed)
    if interval is None:
        return []
    empty = dict.fromkeys(("reward", "kl", "length", "wins", "seconds", "peak_mb"))
    return [
        {"name": CONTROL, "scores": {"t1": interval}, **empty, "kl_bound": best_of_n_kl(8), "budget": "none; 8 an answer"}
        | {"stopped": 0}
    ]


def _wins(runs: Sequence[Rows], measure: str, seed: int) -> Interval | None:
    """How often RL's answer is better than SFT's of the same run, ties as half; a prompt's share is over the runs."""
    wins: dict[int, list[float]] = {}
    for rows in runs:
        ours, theirs = (by_prompt([rows], model, JUDGED_AT, measure) for model in ("rl", "sft"))
        for number in ours.keys() & theirs.keys():
            a, b = ours[number], theirs[number]
            wins.setdefault(number, []).append(0.5 if a == b else float(a > b))
    shares = [fmean(wins[number]) for number in sorted(wins)]
    return no_narrower_than_wilson(bootstrap(shares, seed=seed), len(shares)) if shares else None


def _differences(runs: Mapping[str, Sequence[Rows]], measure: str, seed: int) -> list[Difference]:
    """In each setting the best against every other, SFT and the best of eight among them, paired by prompt."""
    every = [rows for of_name in runs.values() for rows in of_name]
    differences = []
    for setting in SAMPLING_SETTINGS:
        values = {"sft": by_prompt(every, "sft", setting, measure)}
        values |= {CONTROL: by_prompt(every, "sft", CONTROL, measure)} if setting == "t1" else {}
        values |= {name: by_prompt(of_name, "rl", setting, measure) for name, of_name in runs.items()}
        values = {name: numbers for name, numbers in values.items() if numbers}
        best = max(values, key=lambda name: fmean(values[name].values()), default="")
        for name in values:
            shared_prompts = sorted(values[best].keys() & values[name].keys())
            if name != best and shared_prompts:
                by = bootstrap([values[best][number] - values[name][number] for number in shared_prompts], seed=seed)
                differences.append(Difference(measure=setting, better=best, worse=name, by=by))
    return sorted(differences, key=lambda one: (SAMPLING_SETTINGS.index(one.measure), one.by.value))


def _algorithm_notes(
    differences: Sequence[Difference],
    names: Sequence[str],
    cells: Sequence[CellResult],
    seeds: Sequence[int],
    overrides: Sequence[str],
) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    notes = []
    for setting in SAMPLING_SETTINGS:
        here = [one for one in differences if one.measure == setting]
        if not here:
            continue
        behind, near = ([one for one in here if (one.by.low > 0) == clear] for clear in (True, False))
        groups = [
            f"{words} {', '.join(f'{LABELS[one.worse]} (by {with_interval(one.by)})' for one in group)}"
            for words, group in (("no significant difference to", near), ("better than", behind))
            if group
        ]
        where = "Greedy" if setting == "greedy" else f"At {SETTINGS[setting]}"
        notes.append(f"{where}, {LABELS[here[0].better]} is highest; {'; '.join(groups)}.")
    for name in names:
        stops = [f"seed {c.seed} ({c.figures['stopped']})" for c in cells if c.row == name and c.figures["stopped"]]
        notes += [f"A guard stopped {LABELS[name]}: {'; '.join(stops)}."] if stops else []
    notes += [f"Overrides: {', '.join(overrides)}."] if overrides else []
    if len(seeds) == 1:
        notes.append("One seed: how much of a difference is the seed's luck is not in these intervals, which are by prompt.")
    else:
        notes.append(f"Each is the mean of {len(seeds)} seeds; intervals are by prompt, and seeds do not narrow them.")
    return notes


def _algorithm_table(rows: Rows, measure: str) -> tuple[list[str], list[list[str]]]:
    settings = [f"{measure} {SETTINGS[setting].removeprefix('temperature ')}" for setting in SAMPLING_SETTINGS]
    with_reward = ["reward"] if measure != "reward" else []
    header = ["", *settings, *with_reward, "wins", "KL", "tokens", "learns from", "time", "MB"]
    lines = []
    for row in rows:
        scores = [with_interval(row["scores"].get(setting)) for setting in SAMPLING_SETTINGS]
        reward = [with_interval(row[name]) for name in with_reward]
        kl = with_interval(row["kl"]) if row["kl_bound"] is None else f"at most {figure(row['kl_bound'])}"
        length = figure(row["length"].value if row["length"] else None, 1)
        seconds = NOTHING if row["seconds"] is None else clock(row["seconds"])
        wins = with_interval(row["wins"], 0, scale=100)
        tail = [row["budget"] or NOTHING, seconds, figure(row["peak_mb"], 0)]
        lines.append([LABELS[row["name"]], *scores, *reward, wins, kl, length, *tail])
    return header, lines
