"""The same data and the same budget through several losses of the reward model, each over several seeds: one table.

Each loss with each seed is a run of its own, begun from one run's SFT model and collected answers; the pipeline does them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from statistics import fmean, stdev

from sawyer.config import Config, required_section
from sawyer.errors import ConfigError
from sawyer.pipeline import run
from sawyer.runs import Layout, Listener, Manifest, clock, damaged, read_rows, write_json, write_text
from sawyer.studies.grid import (
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

STAGE = "reward"
SHARED = ("sft", "collect")  # what all models are trained from
# Figures that say which loss is better: their names, and whether more is better.
BETTER = {"accuracy": True, "corrupted_win_rate": False, "gold_accuracy": True}
WORDS = {
    "accuracy": "accuracy",
    "calibration": "calibration",
    "corrupted_win_rate": "damaged win",
    "gold_accuracy": "gold accuracy",
    "length_correlation": "with length",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRun:
    """One reward model: a loss with a seed. Figures are those of its own run, on held-out prompts where there are any."""

    loss: str
    seed: int
    out: str  # its run's folder
    accuracy: float
    accuracy_low: float  # 95 % interval by prompt
    accuracy_high: float
    calibration: float | None  # expected calibration error, of the probability `formula`; None: no pairs
    formula: str
    corrupted_win_rate: float | None  # share of damaged answers that beat the whole ones; None: nothing could be damaged
    gold_accuracy: float | None  # None where the true score is not known
    length_correlation: float  # of the reward with the number of words
    eval_prompts: int  # 0: examined on training prompts
    pairs: int  # that accuracy is a share of
    steps: int  # of training
    trained_pairs: int  # those steps' pairs, all together
    seconds: float
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure over the seeds."""

    mean: float
    low: float  # the lowest seed's
    high: float
    deviation: float | None  # sample standard deviation; None with one seed


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRow:
    """A loss in the table. Accuracy's interval is by prompt: the mean of the seeds' intervals, no narrower for more seeds."""

    loss: str
    figures: Mapping[str, Spread]  # by the names of `WORDS`; what is not known is left out
    accuracy_low: float
    accuracy_high: float
    seconds: float  # mean


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanDifference:
    """Every seed of `better` is better in `measure` than every seed of `worse`; `by` is the difference of their means."""

    measure: str
    better: str
    worse: str
    by: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LossStudy:
    """The table, what it is made from, and what may be said of it."""

    out: str
    seeds: tuple[int, ...]
    table: tuple[LossRow, ...]
    cells: tuple[LossRun, ...]
    apart: tuple[MeanDifference, ...]
    notes: tuple[str, ...]


def study_losses(
    config: Config | str | Path,
    losses: Sequence[str],
    seeds: Sequence[int],
    *,
    out: Path | None = None,
    listeners: Sequence[Listener] = (),
    tell: Tell = silent,
) -> LossStudy:
    """Train the config's reward model with each loss and seed, and compare; `out` is the run's `ablation` folder if not given.

    SFT model and collected answers are those of the config's run, made first where they are missing, and the same for all; a
    seed decides the new head, the order of the rows, and the answers that the model is tried on. What is finished is skipped,
    what was interrupted goes on. `tell` hears what is done next. Raises SawyerError; ConfigError where there is no such loss.
    """
    source = source_of(config)
    _check(source.config, losses, seeds)
    root = out if out is not None else source.layout.lab("ablation")
    asked = [config_of(source.config, loss, seed, root) for loss in losses for seed in seeds]
    tell(_cost(source, losses, seeds, asked))
    make_shared(source, _first(source), listeners)

    def do(own: Config, heard: Sequence[Listener]) -> LossRun:
        lend(own, source, SHARED)
        run(own, only=STAGE, listeners=heard)
        return cell_of(own)

    cells = in_turn(asked, do, name=_name, what="reward models", listeners=listeners, tell=tell)
    found = compared(cells, str(root))
    write_json(Layout(root).table("ablation"), asdict(found))
    write_text(Layout(root).table_text("ablation"), markdown(found))
    return found


def _name(own: Config) -> str:
    return f"{required_section(own.reward, STAGE).loss}, seed {own.seed}"


def _first(source: SharedStart) -> list[str]:
    """What is made first where it is missing; a base model that the SFT model no longer needs is not missed."""
    return [*(() if is_done(source.layout, "sft") else ("base",)), *SHARED]


def _cost(source: SharedStart, losses: Sequence[str], seeds: Sequence[int], asked: Sequence[Config]) -> str:
    """Before anything is trained: how many reward models, and how long they take by those that are there."""
    missing = [stage for stage in named(source.config, _first(source)) if not is_done(source.layout, stage)]
    first = f"; before them {', '.join(missing)}" if missing else ""
    what = f"{len(losses)} losses with {len(seeds)} seeds are {len(asked)} reward models"
    known = seconds_of(source.layout, [STAGE])
    return cost_summary(what, [Layout(Path(own.out)) for own in asked], [STAGE], known=known) + first


def config_of(config: Config, loss: str, seed: int, root: Path) -> Config:
    """The config of one loss with one seed, a run below `root`."""
    asked = required_section(config.reward, STAGE)
    folder = root / f"{loss.replace(':', '.')}-seed-{seed}"
    reward = asked.model_copy(update={"loss": loss})
    return config.model_copy(update={"out": str(folder), "seed": seed, "reward": reward})


def _check(config: Config, losses: Sequence[str], seeds: Sequence[int]) -> None:
    """What is asked for can be done, found out before anything is trained."""
    if config.reward is None:
        raise ConfigError(
            "the config has no section `reward`",
            expected="the reward model whose losses are compared",
            todo="add `reward:` to the file",
        )
    checked_names("loss", losses)
    checked_seeds(seeds)
    from sawyer.stages.reward.loss_choice import checked_loss, open_loss

    for loss in losses:
        open_loss(loss)
    for loss in (loss for loss in losses if ":" in loss):
        checked_loss(loss)


def cell_of(own: Config) -> LossRun:
    """The figures of a finished run, as its manifest and trust report have them. Raises RunError where those are damaged."""
    asked = required_section(own.reward, STAGE)
    layout = Layout(Path(own.out))
    state = Manifest(layout.manifest).stage(STAGE)
    figures = state.figures
    try:
        trust = json.loads(layout.trust.read_text(encoding="utf-8"))
        side, damage = trust["sides"][0], trust["corrupted_win_rate"]
        first = side["calibration"][0] if side["calibration"] else None
        steps = [int(row["pairs"]) for row in read_rows(layout.metrics) if row.get("stage") == STAGE and "pairs" in row]
        return LossRun(
            loss=asked.loss,
            seed=own.seed,
            out=own.out,
            accuracy=figures["accuracy"],
            accuracy_low=figures["accuracy_low"],
            accuracy_high=figures["accuracy_high"],
            calibration=first["error"]["value"] if first else None,
            formula=first["formula"] if first else "",
            corrupted_win_rate=damage["value"] if damage["cases"] else None,
            gold_accuracy=figures.get("gold_accuracy"),
            length_correlation=figures["length_correlation"],
            eval_prompts=figures["eval_prompts"],
            pairs=side["pairs"],
            steps=len(steps),
            trained_pairs=sum(steps),
            seconds=state.seconds,
            verdict=figures["verdict"],
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise damaged(layout.trust, error, f"delete {layout.folder(STAGE)}, then run the same command again") from error


def compared(cells: Sequence[LossRun], out: str) -> LossStudy:
    """The table of the cells, in the order in which their losses come, and what may be said of it."""
    losses = list(dict.fromkeys(cell.loss for cell in cells))
    by_loss = {loss: [cell for cell in cells if cell.loss == loss] for loss in losses}
    seeds = tuple(dict.fromkeys(cell.seed for cell in cells))
    apart = tuple(_apart(by_loss)) if len(seeds) > 1 else ()
    return LossStudy(
        out=out,
        seeds=seeds,
        table=tuple(_line(loss, found) for loss, found in by_loss.items()),
        cells=tuple(cells),
        apart=apart,
        notes=tuple(_notes(by_loss, seeds, apart)),
    )


def _line(loss: str, cells: Sequence[LossRun]) -> LossRow:
    return LossRow(
        loss=loss,
        figures={name: _spread(values) for name in WORDS if (values := _values(cells, name))},
        accuracy_low=fmean(cell.accuracy_low for cell in cells),
        accuracy_high=fmean(cell.accuracy_high for cell in cells),
        seconds=fmean(cell.seconds for cell in cells),
    )


def _values(cells: Sequence[LossRun], name: str) -> list[float]:
    return [float(value) for cell in cells if (value := getattr(cell, name)) is not None]


def _spread(values: Sequence[float]) -> Spread:
    deviation = stdev(values) if len(values) > 1 else None
    return Spread(mean=fmean(values), low=min(values), high=max(values), deviation=deviation)


def _apart(by_loss: Mapping[str, Sequence[LossRun]]) -> list[MeanDifference]:
    """Pairs of losses whose seeds do not overlap, for each measure that has a better end."""
    found = []
    for name, more in BETTER.items():
        for pair in combinations(by_loss, 2):
            spreads = {loss: _spread(values) for loss in pair if (values := _values(by_loss[loss], name))}
            if len(spreads) < 2:
                continue
            low, high = sorted(pair, key=lambda loss: spreads[loss].mean)
            if spreads[high].low > spreads[low].high:
                by = spreads[high].mean - spreads[low].mean
                found.append(MeanDifference(measure=name, better=high if more else low, worse=low if more else high, by=by))
    return found


def _notes(by_loss: Mapping[str, Sequence[LossRun]], seeds: Sequence[int], apart: Sequence[MeanDifference]) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    cells = [cell for found in by_loss.values() for cell in found]
    known = [name for name in BETTER if _values(cells, name)]
    made = comb(len(by_loss), 2) * len(known)
    measures = ", ".join(WORDS[name] for name in known)
    notes = []
    if made and len(seeds) < 2:
        notes.append("One seed says nothing of what chance does: no difference between these losses is told from it.")
    elif made:
        for name in dict.fromkeys(one.measure for one in apart):
            told = [f"{a.better} than {a.worse} by {100 * a.by:.1f} points" for a in apart if a.measure == name]
            notes.append(f"More than the seeds' spread, {WORDS[name]}: better is {'; '.join(told)}.")
        if not apart:
            notes.append(f"No difference between these losses exceeds the spread of their seeds ({measures}).")
        chance = comb(2 * len(seeds), len(seeds)) / 2
        notes.append(
            f"That means: every seed of one is better than every seed of the other. {len(seeds)} seeds say little: of two "
            f"equal losses that happens by chance in 1 of {chance:,.0f} comparisons, and {made:,} were made."
        )
    prompts = sorted({cell.eval_prompts for cell in cells})
    if prompts == [0]:
        notes.append("No prompt was held out: these are figures on training prompts.")
    else:
        notes.append(
            "Intervals are by prompt, over the held-out prompts that all share: seeds do not narrow them, and on other prompts "
            "a loss may fall anywhere inside."
        )
    for name, words in (
        ("steps", "A loss decides which prompts teach it, so the budgets differ. Steps"),
        ("pairs", "A loss decides which prompts examine it, so accuracies are not of the same pairs. Pairs"),
    ):
        counts = {loss: sorted({getattr(cell, name) for cell in found}) for loss, found in by_loss.items()}
        if len({tuple(count) for count in counts.values()}) > 1:
            each = ", ".join(f"{loss} {' or '.join(map(str, count))}" for loss, count in counts.items())
            notes.append(f"{words}: {each}.")
    formulas = {loss: found[0].formula for loss, found in by_loss.items() if found[0].formula}
    if len(set(formulas.values())) > 1:
        those = {f: ", ".join(loss for loss in formulas if formulas[loss] == f) for f in dict.fromkeys(formulas.values())}
        each = "; ".join(f"{formula} for {found}" for formula, found in those.items())
        notes.append(f"Calibration is of the probability that belongs to the loss; it compares where that agrees: {each}.")
    return notes


def shown(found: LossStudy) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """The table as words: its header, and a row a loss. Each cell is a mean over the seeds, and its lowest and highest seed;
    "by prompt" is accuracy's interval. What there is not is empty."""
    names = [name for name in WORDS if any(name in line.figures for line in found.table)]
    header = ["loss", "accuracy", "by prompt", *(WORDS[name] for name in names if name != "accuracy"), "s"]
    rows = []
    for line in found.table:
        rest = [_told(line.figures.get(name), signed=name == "length_correlation") for name in names if name != "accuracy"]
        interval = ("", f"{100 * line.accuracy_low:.1f}–{100 * line.accuracy_high:.1f}")
        accuracy = _told(line.figures["accuracy"], signed=False)
        rows.append([(line.loss, ""), accuracy, interval, *rest, (f"{line.seconds:.0f}", "")])
    return header, rows


def _told(spread: Spread | None, *, signed: bool) -> tuple[str, str]:
    if spread is None:
        return "–", ""
    mean = f"{spread.mean:+.2f}" if signed else f"{spread.mean:.1%}"
    if spread.deviation is None:
        return mean, ""
    return mean, f"{spread.low:+.2f},{spread.high:+.2f}" if signed else f"{100 * spread.low:.1f}–{100 * spread.high:.1f}"


def markdown(found: LossStudy) -> str:
    """The table and its notes as Markdown."""
    header, rows = shown(found)
    cells = [[f"{mean} ({spread})" if mean and spread else mean or spread for mean, spread in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    table = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
    seeds = ", ".join(map(str, found.seeds))
    spent = clock(sum(cell.seconds for cell in found.cells))
    title = f"# Losses of the reward model\n\nSeeds {seeds}; mean, and lowest to highest seed. {spent} in all."
    return "\n".join([title, "", *table, "", *(f"- {note}" for note in found.notes), ""])
