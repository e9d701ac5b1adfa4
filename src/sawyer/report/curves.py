"""The plots of each stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sawyer.report.run_facts import Facts
from sawyer.report.svg_plots import Level, Panel, PlotLine, Tone

Rows = Sequence[Mapping[str, Any]]

# RL's smaller plots: title, note, metric of a batch, metric of an evaluation, and whether it is a share.
RL_PLOTS = (
    ("Length", "tokens per response; a drift to either extreme is a warning", "length", "eval_length", False),
    ("Ended by EOS", "share of responses that end with EOS before the length limit", "eos_rate", "eval_eos_rate", True),
    ("Entropy", "nats per token; near zero, all samples are alike", "sampled_entropy", "eval_entropy", False),
    ("Distinct bigrams", "share of a batch's bigrams that are distinct; a fall is mode collapse", "distinct_2", "", True),
    ("Most common response", "share of different prompts that get the same response", "mode_response_rate", "", True),
    ("Clip fraction", "share of tokens whose ratio was clipped; a few per cent is usual", "clip_fraction", "", True),
    ("KL of one update", "nats per token between the old and the new policy", "approx_kl", "", False),
    ("Value loss", "squared error of the predicted returns", "value_loss", "", False),
    ("Explained variance", "of the returns by the values; 1 is perfect, 0 is a constant", "explained_variance", "", False),
    ("KL coefficient", "reward units per nat", "kl_coefficient", "", False),
)


def panels(facts: Facts, stage: str) -> list[Panel]:
    """The stage's plots; lines and plots without a point are left out, and so is a constant KL coefficient."""
    makers = {"base": _base, "classify": _classify, "sft": _sft, "reward": _reward, "rl": _rl}
    rows = facts.metrics.get(stage, ())
    plots = []
    for panel in makers[stage](facts, rows) if stage in makers else ():
        lines = [line for line in panel.lines if line.xs]
        if lines and not (panel.title == "KL coefficient" and len(set(lines[0].ys)) == 1):
            plots.append(replace(panel, lines=lines))
    return plots


def line(rows: Rows, key: str, name: str, tone: Tone, *, dots: bool = False) -> PlotLine:
    """The values of `key` over the steps. A repeated step keeps its last value."""
    points = {
        row["step"]: float(row[key])
        for row in rows
        if isinstance(row.get(key), int | float) and isinstance(row.get("step"), int | float)
    }
    return PlotLine(name=name, tone=tone, xs=list(points), ys=list(points.values()), dots=dots, smooth=not dots)


def _level(name: str, tone: Tone, at: Any) -> list[Level]:
    return [Level(name=name, tone=tone, at=float(at))] if isinstance(at, int | float) else []


def _base(facts: Facts, rows: Rows) -> Iterator[Panel]:
    yield _loss(rows, "base", "nats per token; falls fast, then slowly")


def _sft(facts: Facts, rows: Rows) -> Iterator[Panel]:
    base_loss = next((row["base_eval_loss"] for row in reversed(rows) if "base_eval_loss" in row), None)
    note = "nats per response token; held-out loss below the base model's is learning, far above training loss is memorising"
    yield replace(_loss(rows, "sft", note), levels=_level("base model, held out", "base", base_loss))
    grad_norm = line(rows, "grad_norm", "before clipping", "sft")
    note = "spikes are unusual rows, or too high a learning rate"
    yield Panel(title="Gradient norm", note=note, lines=[grad_norm], zero=True)


def _classify(facts: Facts, rows: Rows) -> Iterator[Panel]:
    figures = facts.figures("classify")
    eval_name = "held out" if figures.get("eval_rows") else "all training texts"
    yield from _loss_and_accuracy(
        rows,
        "base",
        eval_name,
        "nats per text; held-out loss far above training loss is memorising",
        "share of texts with exactly the right label or labels; must beat the most common label",
        _level("most common label", "bad", figures.get("baseline_majority")),
    )


def _reward(facts: Facts, rows: Rows) -> Iterator[Panel]:
    figures = facts.figures("reward")
    eval_name = "all training pairs" if figures.get("eval_prompts") == 0 else "held out"
    yield from _loss_and_accuracy(
        rows,
        "reward",
        eval_name,
        "its level depends on the loss function; it should fall",
        "share of pairs ranked as the judges did; must beat ranking by length",
        _level("longer wins", "bad", figures.get("baseline_longer")),
    )


def _loss_and_accuracy(
    rows: Rows, tone: Tone, eval_name: str, loss: str, accuracy: str, baseline: Sequence[Level]
) -> Iterator[Panel]:
    """Loss and accuracy. The last row holds the held-out figures, some under the names of training metrics."""
    steps = [row for row in rows if "loss" in row]
    evaluation = [row for row in rows if "eval_loss" in row]
    yield Panel(
        title="Loss",
        note=loss,
        lines=[line(steps, "loss", "training", tone), line(evaluation, "eval_loss", eval_name, "ink", dots=True)],
        zero=True,
    )
    yield Panel(
        title="Accuracy",
        note=accuracy,
        lines=[line(steps, "accuracy", "training", tone), line(evaluation, "accuracy", eval_name, "ink", dots=True)],
        levels=baseline,
        share=True,
    )


def _loss(rows: Rows, tone: Tone, note: str) -> Panel:
    lines = [line(rows, "loss", "training", tone), line(rows, "eval_loss", "held out", "ink", dots=True)]
    return Panel(title="Loss", note=note, lines=lines)


def _rl(facts: Facts, rows: Rows) -> Iterator[Panel]:
    rl: Mapping[str, Any] = facts.config.get("rl") or {}
    # Without an SFT stage RL starts from the run's own model.
    start = "SFT model" if facts.config.get("sft") else "starting model"
    unit = "in the components' own units" if rl.get("rewards") else f"in standard deviations of the {start}'s answers"

    def plot(title: str, note: str, batch: str, evaluation: str, **options: Any) -> Panel:
        lines = [line(rows, batch, "batch", "rl"), line(rows, evaluation, "held out", "ink", dots=True)]
        best = facts.figures("rl").get("best_step")
        return Panel(title=title, note=note, lines=lines, mark=best, x_name="update", **options)

    note = f"{unit}; the held-out reward, less the penalty for a missing EOS, should rise with it"
    yield plot("Reward", note, "score", "eval_reward", zero=True)
    note = "true score of held-out answers, 0 to 10; if it falls while the reward rises, the policy exploits the reward model"
    yield plot("Gold", note, "", "eval_gold")
    note = "nats per response; how far the policy has moved"
    yield plot(f"KL to the {start}", note, "kl", "eval_kl", levels=_kl_levels(rl.get("kl") or {}, rows), zero=True)
    yield plot("Reward less KL penalty", "the objective that RL maximises", "reward", "", zero=True)
    for title, note, batch, evaluation, share in RL_PLOTS:
        yield plot(title, note, batch, evaluation, share=share, zero=True)


def _kl_levels(kl: Mapping[str, Any], rows: Rows) -> list[Level]:
    """The budget and the target, unless they are so far above the curve that it would look flat."""
    highest = max((float(row["kl"]) for row in rows if "kl" in row), default=0.0)
    levels = _level("budget", "bad", kl.get("budget")) + _level("target", "faint", kl.get("target"))
    return [level for level in levels if level.at <= 4 * highest]
