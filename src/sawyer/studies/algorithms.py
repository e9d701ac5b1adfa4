"""The algorithms side by side: one SFT model, one reward model, the same prompts and the same budget; one table.

Each algorithm with each seed is a run of its own: reinforcement learning and the comparison are done in it, what comes before
is lent. Every interval is by prompt: a prompt's figure is first its mean over the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from sawyer.config import KNOWN_TO, Algorithm, Config, required_section, with_settings
from sawyer.errors import ConfigError
from sawyer.pipeline import run
from sawyer.runs import SETTINGS, Layout, Listener, Manifest, clock, read_rows, write_json, write_text
from sawyer.stats import FEW, Interval, bootstrap, no_narrower_than_wilson
from sawyer.studies.grid import (
    DEMO_SECONDS,
    SharedStart,
    Tell,
    checked_names,
    checked_seeds,
    cost_summary,
    in_turn,
    is_done,
    lend,
    make_shared,
    named,
    seconds_of,
    silent,
    source_of,
)
from sawyer.studies.markdown_tables import NOTHING, figure, table, with_interval
from sawyer.studies.throughput import Pace, measure

STUDY = "bakeoff"
SHARED = ("base", "sft", "collect", "reward")
OWN = ("rl", "compare")
# Best-of-n trains nothing: its answers are in every comparison, so that it stands in every table without a run of its own.
ALGORITHMS: tuple[str, ...] = tuple(name for name in get_args(Algorithm) if name != "best_of_n")
COMPARED = ("t1", "t07", "greedy")
JUDGED_AT = "t07"  # the setting of win rate, reward, KL and length
CONTROL = "best_of_8"  # trains nothing: of eight SFT samples at temperature 1 the one that the reward model likes best
WORDS: Mapping[str, str] = {
    "sft": "SFT, no RL",
    CONTROL: "SFT, best of 8",
    "ppo": "PPO",
    "rloo": "RLOO",
    "grpo": "GRPO",
    "dpo": "DPO",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmRun:
    """One algorithm with one seed: where its run lies, and what its training took."""

    algorithm: str
    seed: int
    out: str
    budget: str  # what it learnt from, in words
    seconds: float  # of the RL stage, evaluations included
    peak_mb: float | None
    kept: int | None  # after which update
    stopped: str  # why a guard stopped it; empty: none did


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmRow:
    """An algorithm in the table; figures are means over its seeds with intervals by prompt. None: not known, or not there."""

    algorithm: str
    scores: Mapping[str, Interval]  # gold, or reward where the truth is not known, by setting
    reward: Interval | None  # at temperature 0.7, as all below
    kl: Interval | None  # nats an answer, to the SFT model
    kl_bound: float | None  # where it chooses among SFT answers: what the KL is at most
    length: Interval | None  # tokens
    wins: Interval | None  # against SFT
    budget: str
    seconds: float | None  # mean
    peak_mb: float | None  # the largest
    stopped: int  # seeds that a guard stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """By how much the best of a setting is better than another, on the same prompts."""

    better: str
    worse: str
    setting: str
    by: Interval  # whose lower end is above 0 where the choice of prompts alone does not explain it


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmStudy:
    """The table, the runs it is made from, and what may be said of it."""

    out: str
    measure: str  # gold | reward
    prompts: int
    seeds: tuple[int, ...]
    table: tuple[AlgorithmRow, ...]
    entries: tuple[AlgorithmRun, ...]
    apart: tuple[PairedDifference, ...]
    notes: tuple[str, ...]


def study_algorithms(
    config: Config | str | Path | None = None,
    algorithms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    *,
    episodes: int | None = None,
    minutes: float | None = None,
    own: Sequence[str] = (),
    out: Path | None = None,
    listeners: Sequence[Listener] = (),
    tell: Tell = silent,
) -> AlgorithmStudy:
    """The algorithms of `rl.algorithm` at one budget, from the SFT and reward model of the config, or of the demo without one.

    All that train, if none is named; beside them stand SFT and its best of eight, which need no run. Each is done with each of
    the seeds (the config's, if none is given), which decide RL and the sampling of the comparison alone. The budget is the
    config's `rl.episodes`, or `episodes`, or `minutes` of training: then each algorithm's pace is measured first. `own` are
    settings for one of them, as `rloo.group_size=8`. What is finished is skipped, what was interrupted goes on; `out` is the
    run's folder `study_algorithms` if not given. Raises SawyerError.
    """
    source = source_of(config)
    chosen = list(ALGORITHMS if algorithms is None else algorithms)
    dealt = [source.config.seed] if seeds is None else list(seeds)
    _check(source.config, chosen, dealt, episodes, minutes, own)
    root = out if out is not None else source.layout.lab(STUDY)
    settings = {name: _settings(name, own) for name in chosen}
    first = {name: config_of(source.config, name, dealt[0], root, episodes, settings[name]) for name in chosen}
    tell(_cost(source, chosen, dealt, root, minutes))
    make_shared(source, SHARED, listeners)
    paces = _paces(source, first, root, minutes, listeners, tell)
    jobs = [
        _within(config_of(source.config, name, seed, root, episodes, settings[name]), paces.get(name), minutes)
        for name in chosen
        for seed in dealt
    ]

    def do(job: Config, heard: Sequence[Listener]) -> AlgorithmRun:
        lend(job, source, SHARED)
        for stage in OWN:
            run(job, only=stage, listeners=heard)
        return entry_of(job)

    entries = in_turn(jobs, do, name=_name, what="runs", listeners=listeners, tell=tell)
    found = judged(entries, str(root), source.config.seed, [f"{n}: {', '.join(s)}" for n, s in settings.items() if s])
    write_json(Layout(root).table(STUDY), asdict(found))
    write_text(Layout(root).table_text(STUDY), markdown(found))
    return found


def config_of(
    config: Config, algorithm: str, seed: int, root: Path, episodes: int | None, settings: Sequence[str] = ()
) -> Config:
    """The config of one algorithm with one seed, a run below `root`: the config's own settings as far as they mean anything to
    it. Raises ConfigError for settings that it does not know or that do not fit."""
    asked = required_section(config.rl, "rl")
    same = algorithm == asked.algorithm
    given = asked.model_dump(mode="json", exclude_unset=True) | {"algorithm": algorithm}
    if not same:
        # How many answers a prompt gets means something else in each algorithm; batches and passes do where one learns from
        # answers that it samples and the other from judged pairs.
        another = (
            ("group_size",) if _samples(algorithm) == _samples(asked.algorithm) else ("group_size", "batch_size", "epochs")
        )
        given = {name: value for name, value in given.items() if name not in another}
    given |= {} if episodes is None else {"episodes": episodes}
    if not _samples(algorithm) and not same:
        # It reads the judged answers as the reward model did, as often, and is looked at as often as RL is.
        reward = required_section(config.reward, "reward")
        looks = max(1, asked.eval_every * asked.batch_size // reward.batch_size)
        given |= {"batch_size": reward.batch_size, "epochs": max(1, round(reward.epochs)), "eval_every": looks}
    rl = {name: value for name, value in given.items() if _knows(algorithm, name)}
    if "kl" in rl:
        rl["kl"] = {name: value for name, value in rl["kl"].items() if _knows(algorithm, f"kl.{name}")}
    compare = required_section(config.compare, "compare").model_dump(mode="json") | {"deliberate_limit": 0}
    changed = {"out": str(root / f"{algorithm}-seed-{seed}"), "seed": seed, "compare": compare, "rl": rl}
    return with_settings(config, changed, [f"rl.{setting}" for setting in settings])


def _samples(algorithm: str) -> bool:
    """Whether it learns from answers that it samples."""
    return _knows(algorithm, "episodes")


def _knows(algorithm: str, name: str) -> bool:
    """Whether a setting of `rl` means anything to the algorithm."""
    return algorithm in KNOWN_TO.get(name, (algorithm,))


def _settings(algorithm: str, own: Sequence[str]) -> list[str]:
    """The settings among `own` that are for this algorithm, without its name."""
    return [setting.removeprefix(f"{algorithm}.") for setting in own if setting.startswith(f"{algorithm}.")]


def _check(
    config: Config,
    algorithms: Sequence[str],
    seeds: Sequence[int],
    episodes: int | None,
    minutes: float | None,
    own: Sequence[str],
) -> None:
    """What is asked for can be done, found out before anything is trained."""
    for stage in ("sft", "reward", "rl", "compare"):
        required_section(getattr(config, stage), stage)
    checked_names("algorithm", algorithms)
    checked_seeds(seeds)
    for name in algorithms:
        if name not in ALGORITHMS:
            raise ConfigError(
                f"{name} is no algorithm that trains",
                expected=f"of: {', '.join(ALGORITHMS)}; the best of eight is in every table",
                todo="name another, or leave it out",
            )
    if episodes is not None and minutes is not None:
        raise ConfigError("a budget of episodes and one of minutes", expected="one of the two", todo="leave one out")
    for setting in own:
        if setting.partition(".")[0] not in algorithms:
            raise ConfigError(
                f"{setting!r} is for none of the algorithms",
                expected=f"the name of one before the setting, such as {algorithms[0]}.learning_rate=1e-4",
                todo="name it, or leave the setting out",
            )


def _paces(
    source: SharedStart,
    first: Mapping[str, Config],
    root: Path,
    minutes: float | None,
    listeners: Sequence[Listener],
    tell: Tell,
) -> dict[str, Pace]:
    """What a few updates of each algorithm take; nothing where the budget is no time."""
    if minutes is None:
        return {}
    found = {}
    for name, config in first.items():
        found[name] = measure(name, config, root, lambda own: lend(own, source, SHARED), listeners, tell)
    return found


def _within(config: Config, pace: Pace | None, minutes: float | None) -> Config:
    """The config with as many answers, or for DPO passes, as fit into the minutes at this pace; one batch or pass at least."""
    if pace is None or minutes is None:
        return config
    rl = required_section(config.rl, "rl")
    updates = pace.updates(60 * minutes, rl.eval_every)
    if _samples(rl.algorithm):
        budget = {"episodes": updates * rl.batch_size}
    else:
        budget = {"epochs": max(1, updates * rl.epochs // pace.of)}
    return config.model_copy(update={"rl": rl.model_copy(update=budget)})


def _name(own: Config) -> str:
    return f"{WORDS[required_section(own.rl, 'rl').algorithm]}, seed {own.seed}"


def _cost(source: SharedStart, algorithms: Sequence[str], seeds: Sequence[int], root: Path, minutes: float | None) -> str:
    """Before anything is done: how many runs, and how long they take by those that are there."""
    layout = source.layout
    missing = [stage for stage in named(source.config, SHARED) if not is_done(layout, stage)]
    first = f"; before them {', '.join(missing)}" if missing else ""
    known = seconds_of(layout, OWN)
    if known is None and source.demo:
        known = sum(DEMO_SECONDS[stage] for stage in OWN)
    if minutes is not None:
        known = 60 * minutes + (DEMO_SECONDS["compare"] if source.demo else seconds_of(layout, ["compare"]) or 0.0)
    runs = [Layout(root / f"{name}-seed-{seed}") for name in algorithms for seed in seeds]
    budget = "" if minutes is None else f", each with {minutes:g} minutes of training, and a short trial of each for its pace"
    what = f"{len(algorithms)} algorithms with {len(seeds)} seed{'s' * (len(seeds) > 1)} are {len(runs)} runs{budget}"
    return cost_summary(what, runs, OWN, known=known) + first


def entry_of(own: Config) -> AlgorithmRun:
    """What a finished run's RL stage took."""
    rl = required_section(own.rl, "rl")
    state = Manifest(Layout(Path(own.out)).manifest).stage("rl")
    if _samples(rl.algorithm):
        budget = f"{rl.episodes:,} answers"
    else:
        budget = f"judged pairs, {rl.epochs} time{'s' * (rl.epochs > 1)}"
    return AlgorithmRun(
        algorithm=rl.algorithm,
        seed=own.seed,
        out=own.out,
        budget=budget,
        seconds=state.seconds,
        peak_mb=state.peak_mb,
        kept=state.figures.get("best_step"),
        stopped=str(state.figures.get("stopped") or ""),
    )


def judged(entries: Sequence[AlgorithmRun], out: str, seed: int, settings: Sequence[str] = ()) -> AlgorithmStudy:
    """The table from the runs' comparisons: prompts that every run answered, intervals by prompt."""
    names = list(dict.fromkeys(entry.algorithm for entry in entries))
    rows = {entry.out: read_rows(Layout(Path(entry.out)).compare) for entry in entries}
    measure = "gold" if any("gold" in row for found in rows.values() for row in found) else "reward"
    runs = {name: [rows[entry.out] for entry in entries if entry.algorithm == name] for name in names}
    every = [found for each in runs.values() for found in each]
    base, control = _line("sft", every, "sft", measure, [], seed), _control(every, measure, seed)
    lines = [_line(name, runs[name], "rl", measure, [e for e in entries if e.algorithm == name], seed) for name in names]
    seeds = tuple(dict.fromkeys(entry.seed for entry in entries))
    apart = _apart(runs, measure, seed)
    return AlgorithmStudy(
        out=out,
        measure=measure,
        prompts=len(_by_prompt(every, "sft", JUDGED_AT, measure)),
        seeds=seeds,
        table=(base, *([control] if control.scores else []), *lines),
        entries=tuple(entries),
        apart=tuple(apart),
        notes=tuple(_notes(apart, names, entries, seeds, settings)),
    )


def _control(runs: Sequence[Sequence[Mapping[str, Any]]], measure: str, seed: int) -> AlgorithmRow:
    """The best of eight: it is sampled at temperature 1, so that the rest of its line is empty."""
    from sawyer.maths import best_of_n_kl

    values = list(_by_prompt(runs, "sft", CONTROL, measure).values())
    return AlgorithmRow(
        algorithm=CONTROL,
        scores={"t1": bootstrap(values, seed=seed)} if values else {},
        reward=None,
        kl=None,
        kl_bound=best_of_n_kl(8),
        length=None,
        wins=None,
        budget="none; 8 an answer",
        seconds=None,
        peak_mb=None,
        stopped=0,
    )


def _line(
    name: str, runs: Sequence[Sequence[Mapping[str, Any]]], model: str, measure: str, entries: Sequence[AlgorithmRun], seed: int
) -> AlgorithmRow:
    def by_prompt(key: str, setting: str = JUDGED_AT) -> Interval | None:
        values = list(_by_prompt(runs, model, setting, key).values())
        return bootstrap(values, seed=seed) if values else None

    scores = {setting: found for setting in COMPARED if (found := by_prompt(measure, setting)) is not None}
    memory = [entry.peak_mb for entry in entries if entry.peak_mb is not None]
    return AlgorithmRow(
        algorithm=name,
        scores=scores,
        reward=by_prompt("reward"),
        kl=by_prompt("kl"),
        kl_bound=None,
        length=by_prompt("length"),
        wins=_wins(runs, measure, seed) if model == "rl" else None,
        budget=entries[0].budget if entries else "",
        seconds=fmean(entry.seconds for entry in entries) if entries else None,
        peak_mb=max(memory) if memory else None,
        stopped=sum(bool(entry.stopped) for entry in entries),
    )


def _by_prompt(runs: Sequence[Sequence[Mapping[str, Any]]], model: str, setting: str, key: str) -> dict[int, float]:
    """Each prompt's mean of `key` over the runs; prompts that some run did not answer are left out."""
    found: dict[int, list[float]] = {}
    for rows in runs:
        for row in rows:
            if (row["model"], row["setting"]) == (model, setting) and key in row:
                found.setdefault(row["number"], []).append(float(row[key]))
    return {number: fmean(values) for number, values in sorted(found.items()) if len(values) == len(runs)}


def _wins(runs: Sequence[Sequence[Mapping[str, Any]]], measure: str, seed: int) -> Interval | None:
    """How often RL's answer is better than SFT's of the same run, ties as half; a prompt's share is over the runs."""
    won: dict[int, list[float]] = {}
    for rows in runs:
        ours, theirs = (_by_prompt([rows], model, JUDGED_AT, measure) for model in ("rl", "sft"))
        for number in ours.keys() & theirs.keys():
            a, b = ours[number], theirs[number]
            won.setdefault(number, []).append(0.5 if a == b else float(a > b))
    shares = [fmean(won[number]) for number in sorted(won)]
    return no_narrower_than_wilson(bootstrap(shares, seed=seed), len(shares)) if shares else None


def _apart(runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], measure: str, seed: int) -> list[PairedDifference]:
    """In each setting the best against every other, SFT and the best of eight among them, prompt by prompt."""
    every = [found for each in runs.values() for found in each]
    found = []
    for setting in COMPARED:
        values = {"sft": _by_prompt(every, "sft", setting, measure)}
        values |= {CONTROL: _by_prompt(every, "sft", CONTROL, measure)} if setting == "t1" else {}
        values |= {name: _by_prompt(those, "rl", setting, measure) for name, those in runs.items()}
        values = {name: those for name, those in values.items() if those}
        if not values:
            continue
        best = max(values, key=lambda name: fmean(values[name].values()))
        for name in values:
            both = sorted(values[best].keys() & values[name].keys())
            if name != best and both:
                by = bootstrap([values[best][number] - values[name][number] for number in both], seed=seed)
                found.append(PairedDifference(better=best, worse=name, setting=setting, by=by))
    return sorted(found, key=lambda one: (COMPARED.index(one.setting), one.by.value))


def _notes(
    apart: Sequence[PairedDifference],
    names: Sequence[str],
    entries: Sequence[AlgorithmRun],
    seeds: Sequence[int],
    settings: Sequence[str],
) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    notes = []
    for setting in COMPARED:
        here = [one for one in apart if one.setting == setting]
        if not here:
            continue
        behind, near = ([one for one in here if (one.by.low > 0) == clear] for clear in (True, False))
        said = [
            f"{words} {', '.join(f'{WORDS[a.worse]} (by {with_interval(a.by)})' for a in those)}"
            for words, those in (("not told apart from it", near), ("behind it", behind))
            if those
        ]
        where = "Greedy" if setting == "greedy" else f"At {SETTINGS[setting]}"
        notes.append(f"{where}, {WORDS[here[0].better]} is highest; {'; '.join(said)}.")
    for name in names:
        stopped = [f"seed {e.seed} ({e.stopped})" for e in entries if e.algorithm == name and e.stopped]
        notes += [f"A guard stopped {WORDS[name]}: {'; '.join(stopped)}."] if stopped else []
    notes += [f"Settings of its own: {words}." for words in settings]
    if len(seeds) == 1:
        notes.append("One seed: how much of a difference is the seed's luck is not in these intervals, which are by prompt.")
    else:
        notes.append(f"Each is the mean of {len(seeds)} seeds; intervals are by prompt, and seeds do not narrow them.")
    return notes


def markdown(found: AlgorithmStudy) -> str:
    """The table and its notes as Markdown."""
    settings = [SETTINGS[setting].removeprefix("temperature ") for setting in COMPARED]
    header = ["", *(f"{found.measure} {setting}" for setting in settings), "wins", "KL", "tokens", "learns from", "time", "MB"]
    if found.measure != "reward":
        header.insert(4, "reward")
    rows = []
    for line in found.table:
        told = [with_interval(line.scores.get(setting)) for setting in COMPARED]
        told += [with_interval(line.reward)] if found.measure != "reward" else []
        wins = None if line.wins is None else Interval(**{k: 100 * v for k, v in asdict(line.wins).items()})
        kl = with_interval(line.kl) if line.kl_bound is None else f"at most {figure(line.kl_bound)}"
        told += [with_interval(wins, 0), kl, figure(line.length.value if line.length else None, 1)]
        took = NOTHING if line.seconds is None else clock(line.seconds)
        rows.append([WORDS[line.algorithm], *told, line.budget or NOTHING, took, figure(line.peak_mb, 0)])
    seeds = ", ".join(map(str, found.seeds))
    title = (
        f"Algorithms from one SFT and reward model, {found.prompts} prompts, seed{'s' * (len(found.seeds) > 1)} {seeds}; "
        "wins (% against SFT), reward, KL and tokens at temperature 0.7; 95 % intervals by prompt"
    )
    few = [f"- Fewer than {FEW} prompts: the intervals say little."] if found.prompts < FEW else []
    return "\n".join([title, "", table(header, rows), "", *few, *(f"- {note}" for note in found.notes), ""])
