"""The reward model's losses: the same data and budget with each loss and seed, from one SFT model and its collected answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from pathlib import Path
from statistics import fmean
from typing import Any

from sawyer.config import LOSSES as CONFIG_LOSSES
from sawyer.config import Config, required_section
from sawyer.pipeline import run
from sawyer.runs import Listener, Manifest, clock, damage_error, read_rows
from sawyer.stats import Interval
from sawyer.studies.grid import Cell, Grid, SharedStart, Tell, check_names, check_one_process, check_seeds, is_done, silent
from sawyer.studies.tables import NOTHING, CellResult, Difference, Spread, StudyResult, page, spread_of, write_result

STUDY = "losses"
STAGE = "reward"
LOSSES = ("bradley_terry", *(loss for loss in CONFIG_LOSSES if loss != "bradley_terry"))  # the control first
# Figures in the table, with their titles; those that say which loss is better, and whether more is better.
TITLES = {
    "accuracy": "accuracy",
    "calibration": "calibration",
    "corrupted_win_rate": "damaged win",
    "gold_accuracy": "gold accuracy",
    "length_correlation": "with length",
}
BETTER = {"accuracy": True, "corrupted_win_rate": False, "gold_accuracy": True}


def study_losses(
    config: Config | str | Path | None = None,
    losses: Sequence[str] = LOSSES,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    out: Path | None = None,
    listeners: Sequence[Listener] = (),
    tell: Tell = silent,
) -> StudyResult:
    """Train the reward model of the config, or of the demo without one, with each loss and seed, and compare.

    SFT model and collected answers are those of the config's run, made first where they are missing, and the same for all; a
    seed decides the new head, the order of the rows, and the answers that the model is tried on. `out` is the run's folder
    `losses` if not given. What is finished is skipped, what was interrupted goes on. Raises SawyerError; ConfigError where
    there is no such loss.
    """
    check_one_process("reward models")
    source = SharedStart.of(config)
    check_losses(source.config, losses, seeds)
    root = out if out is not None else source.layout.study(STUDY)
    study = Grid(
        source=source,
        cells=tuple(Cell(row=loss, config=config_of(source.config, loss, s, root)) for loss in losses for s in seeds),
        stages=(STAGE,),
        what="reward models",
        # A base model that the SFT model no longer needs is not made again.
        shared_stages=(*(() if is_done(source.layout, "sft") else ("base",)), "sft", "collect"),
        listeners=listeners,
        tell=tell,
    )
    study.announce(f"{len(losses)} losses with {len(seeds)} seeds are {len(study.cells)} reward models")
    study.make_shared()

    def train(cell: Cell, listeners: Sequence[Listener]) -> CellResult:
        run(cell.config, only=STAGE, listeners=listeners)
        return read_cell(cell)

    result = compare_losses(study.run(train), str(root))
    write_result(result)
    return result


def check_losses(config: Config, losses: Sequence[str], seeds: Sequence[int]) -> None:
    """Before anything is trained: there are such losses, and they can train. Raises ConfigError."""
    required_section(config.reward, STAGE)
    check_names("loss", losses)
    check_seeds(seeds)
    from sawyer.stages.reward.loss_choice import checked_loss, open_loss

    for loss in losses:
        open_loss(loss)
    for loss in (loss for loss in losses if ":" in loss):
        checked_loss(loss)


def config_of(config: Config, loss: str, seed: int, root: Path) -> Config:
    """The config of one loss with one seed, a run below `root`."""
    reward = required_section(config.reward, STAGE).model_copy(update={"loss": loss})
    folder = root / f"{loss.replace(':', '.')}-seed-{seed}"  # no colon: not every system can name such a folder
    return config.model_copy(update={"out": str(folder), "seed": seed, "reward": reward})


def read_cell(cell: Cell) -> CellResult:
    """The figures of a finished cell, as its manifest and trust report have them. Raises RunError where those are damaged."""
    layout = cell.layout
    state = Manifest(layout.manifest).stage(STAGE)
    try:
        trust = json.loads(layout.trust.read_text(encoding="utf-8"))
        side, damage = trust["sides"][0], trust["corrupted_win_rate"]
        calibration = side["calibration"][0] if side["calibration"] else None
        pairs = [int(row["pairs"]) for row in read_rows(layout.metrics) if row.get("stage") == STAGE and "pairs" in row]
        names = ("accuracy", "accuracy_low", "accuracy_high", "length_correlation", "eval_prompts", "verdict")
        figures = {name: state.figures[name] for name in names} | {
            "calibration": calibration["error"]["value"] if calibration else None,  # of the probability `formula`
            "formula": calibration["formula"] if calibration else "",
            "corrupted_win_rate": damage["value"] if damage["cases"] else None,
            "gold_accuracy": state.figures.get("gold_accuracy"),
            "pairs": side["pairs"],  # that accuracy is a share of
            "steps": len(pairs),  # of training
            "trained_pairs": sum(pairs),
            "seconds": state.seconds,
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise damage_error(layout.trust, error, f"delete {layout.folder(STAGE)}, then run the same command again") from error
    return cell.result(figures)


def compare_losses(cells: Sequence[CellResult], out: str) -> StudyResult:
    """The table of the cells, in the order in which their losses come, and what may be concluded."""
    by_loss = {loss: [cell.figures for cell in cells if cell.row == loss] for loss in dict.fromkeys(c.row for c in cells)}
    seeds = tuple(dict.fromkeys(cell.seed for cell in cells))
    spreads = {loss: _spreads(figures) for loss, figures in by_loss.items()}
    rows = [
        {
            "name": loss,
            **spreads[loss],
            # By prompt: the mean of the seeds' intervals, no narrower for more seeds.
            "accuracy_low": fmean(one["accuracy_low"] for one in figures),
            "accuracy_high": fmean(one["accuracy_high"] for one in figures),
            "seconds": fmean(one["seconds"] for one in figures),
        }
        for loss, figures in by_loss.items()
    ]
    differences = _differences(spreads) if len(seeds) > 1 else []
    notes = _chance_notes(spreads, len(seeds), differences) + _data_notes(by_loss)
    total = clock(sum(cell.figures["seconds"] for cell in cells))
    title = f"Losses of the reward model, seeds {', '.join(map(str, seeds))}; mean (lowest to highest seed); {total} in all"
    return StudyResult(
        study=STUDY,
        out=out,
        measure="accuracy",
        seeds=seeds,
        rows=tuple(rows),
        cells=tuple(cells),
        differences=tuple(differences),
        notes=tuple(notes),
        text=page(title, *_loss_table(rows), notes),
    )


def _spreads(figures: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    """Each figure over the seeds; what is not known is left out."""
    values = {name: [float(one[name]) for one in figures if one[name] is not None] for name in TITLES}
    return {name: spread_of(numbers) for name, numbers in values.items() if numbers}


def _differences(spreads: Mapping[str, Mapping[str, Spread]]) -> list[Difference]:
    """Pairs of losses of which every seed of one beats every seed of the other, for each measure that has a better end. The
    interval is from the nearest two seeds to the farthest."""
    differences = []
    for name, more in BETTER.items():
        for pair in combinations((loss for loss in spreads if name in spreads[loss]), 2):
            low, high = sorted(pair, key=lambda loss: spreads[loss][name].value)
            below, above = spreads[low][name], spreads[high][name]
            if above.low > below.high:
                by = Interval(value=above.value - below.value, low=above.low - below.high, high=above.high - below.low)
                better, worse = (high, low) if more else (low, high)
                differences.append(Difference(measure=name, better=better, worse=worse, by=by))
    return differences


def _chance_notes(spreads: Mapping[str, Mapping[str, Spread]], seeds: int, differences: Sequence[Difference]) -> list[str]:
    """Which differences exceed the spread of the seeds, and how often chance alone would say so."""
    measures = [name for name in BETTER if any(name in figures for figures in spreads.values())]
    comparisons = comb(len(spreads), 2) * len(measures)
    if not comparisons:
        return []
    if seeds < 2:
        return ["One seed says nothing of what chance does: it shows no difference between these losses."]
    notes = []
    for name in dict.fromkeys(one.measure for one in differences):
        pairs = [f"{d.better} than {d.worse} by {100 * d.by.value:.1f} points" for d in differences if d.measure == name]
        notes.append(f"More than the seeds' spread, {TITLES[name]}: better is {'; '.join(pairs)}.")
    if not differences:
        titles = ", ".join(TITLES[name] for name in measures)
        notes.append(f"No difference between these losses exceeds the spread of their seeds ({titles}).")
    chance = comb(2 * seeds, seeds) / 2
    notes.append(
        f"That means: every seed of one is better than every seed of the other. {seeds} seeds say little: of two equal losses "
        f"that happens by chance in 1 of {chance:,.0f} comparisons, and {comparisons:,} were made."
    )
    return notes


def _data_notes(by_loss: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What the figures are of, and where the losses do not share it."""
    if not any(one["eval_prompts"] for figures in by_loss.values() for one in figures):
        notes = ["No prompt was held out: these are figures on training prompts."]
    else:
        notes = [
            "Intervals are by prompt, over the held-out prompts that all share: seeds do not narrow them, and on other prompts "
            "a loss may fall anywhere inside."
        ]
    for name, words in (
        ("steps", "A loss decides which prompts teach it, so the budgets differ. Steps"),
        ("pairs", "A loss decides which prompts examine it, so accuracies are not of the same pairs. Pairs"),
    ):
        counts = {loss: sorted({one[name] for one in figures}) for loss, figures in by_loss.items()}
        if len({tuple(count) for count in counts.values()}) > 1:
            each = ", ".join(f"{loss} {' or '.join(map(str, count))}" for loss, count in counts.items())
            notes.append(f"{words}: {each}.")
    formulas = {loss: figures[0]["formula"] for loss, figures in by_loss.items() if figures[0]["formula"]}
    if len(set(formulas.values())) > 1:
        losses = {f: ", ".join(loss for loss in formulas if formulas[loss] == f) for f in dict.fromkeys(formulas.values())}
        each = "; ".join(f"{formula} for {names}" for formula, names in losses.items())
        notes.append(f"Calibration is of the probability that belongs to the loss; it compares where that agrees: {each}.")
    return notes


def _loss_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and a line a loss: mean and, of several seeds, lowest and highest; what no loss has is left out."""
    names = [name for name in TITLES if any(name in row for row in rows)]
    lines = []
    for row in rows:
        accuracy, *others = (_percent(row.get(name), with_sign=name == "length_correlation") for name in names)
        by_prompt = f"{100 * row['accuracy_low']:.1f}–{100 * row['accuracy_high']:.1f}"
        lines.append([row["name"], accuracy, by_prompt, *others, f"{row['seconds']:.0f}"])
    return ["loss", "accuracy", "by prompt", *(TITLES[name] for name in names[1:]), "s"], lines


def _percent(spread: Spread | None, *, with_sign: bool) -> str:
    if spread is None:
        return NOTHING
    mean = f"{spread.value:+.2f}" if with_sign else f"{spread.value:.1%}"
    if spread.deviation is None:
        return mean
    bounds = f"{spread.low:+.2f},{spread.high:+.2f}" if with_sign else f"{100 * spread.low:.1f}–{100 * spread.high:.1f}"
    return f"{mean} ({bounds})"
