"""Which curves each stage is read by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.report.run_facts import Facts
from sawyer.report.svg_plots import Level, Panel, PlotLine, Tone

Rows = Sequence[Mapping[str, Any]]


def panels(facts: Facts, stage: str) -> list[Panel]:
    """The stage's plots, those without a single point left out."""
    makers = {"base": _base, "classify": _classify, "sft": _sft, "reward": _reward, "rl": _rl}
    rows = facts.metrics.get(stage, ())
    found = makers[stage](facts, rows) if stage in makers else []
    kept = []
    for panel in found:
        lines = [line for line in panel.lines if line.xs]
        if lines and not (panel.title == "KL coefficient" and len(set(lines[0].ys)) == 1):
            levels = [level for level in panel.levels if level.at is not None]
            kept.append(
                Panel(
                    title=panel.title,
                    note=panel.note,
                    lines=lines,
                    levels=levels,
                    mark=panel.mark,
                    share=panel.share,
                    zero=panel.zero,
                    x_name=panel.x_name,
                )
            )
    return kept


def line(rows: Rows, key: str, name: str, tone: Tone, *, dots: bool = False, smooth: bool = True, needs: str = "") -> PlotLine:
    """The values of `key` over the steps. With `needs`, only rows that have that key too; a step twice keeps its last."""
    points = {
        row["step"]: float(row[key])
        for row in rows
        if isinstance(row.get(key), int | float) and isinstance(row.get("step"), int | float) and (not needs or needs in row)
    }
    return PlotLine(name=name, tone=tone, xs=list(points), ys=list(points.values()), dots=dots, smooth=smooth and not dots)


def _level(name: str, tone: Tone, at: Any) -> list[Level]:
    return [Level(name=name, tone=tone, at=float(at))] if isinstance(at, int | float) else []


def _last(rows: Rows, key: str) -> Any:
    return next((row[key] for row in reversed(rows) if key in row), None)


def _base(facts: Facts, rows: Rows) -> list[Panel]:
    return [
        Panel(
            title="Loss",
            note="nats a token; falls fast, then slowly",
            lines=[line(rows, "loss", "training", "base"), line(rows, "eval_loss", "held out", "ink", dots=True)],
        )
    ]


def _sft(facts: Facts, rows: Rows) -> list[Panel]:
    return [
        Panel(
            title="Loss",
            note="nats a token of the response; held out below the base model's is learning, far above training is memorising",
            lines=[line(rows, "loss", "training", "sft"), line(rows, "eval_loss", "held out", "ink", dots=True)],
            levels=_level("base model, held out", "base", _last(rows, "base_eval_loss")),
        ),
        Panel(
            title="Gradient norm",
            note="spikes are rows unlike the others, or too high a learning rate",
            lines=[line(rows, "grad_norm", "before clipping", "sft")],
            zero=True,
        ),
    ]


def _classify(facts: Facts, rows: Rows) -> list[Panel]:
    # The last row holds the held-out figures, under the same name where the figure is the same one.
    steps = [row for row in rows if "loss" in row]
    judged = [row for row in rows if "eval_loss" in row]
    figures = facts.figures("classify")
    held = "held out" if figures.get("eval_rows") else "all training texts"
    return [
        Panel(
            title="Loss",
            note="nats a text; held out far above training is memorising",
            lines=[line(steps, "loss", "training", "base"), line(judged, "eval_loss", held, "ink", dots=True)],
            zero=True,
        ),
        Panel(
            title="Accuracy",
            note="share of texts whose label, or labels, are named exactly; must clear what the commonest would get",
            lines=[line(steps, "accuracy", "training", "base"), line(judged, "accuracy", held, "ink", dots=True)],
            levels=_level("always the commonest", "bad", figures.get("baseline_majority")),
            share=True,
        ),
    ]


def _reward(facts: Facts, rows: Rows) -> list[Panel]:
    # The last row holds the held-out figures, under the same name where the figure is the same one.
    steps = [row for row in rows if "loss" in row]
    judged = [row for row in rows if "eval_loss" in row]
    figures = facts.figures("reward")
    held = "all training pairs" if figures.get("eval_prompts") == 0 else "held out"
    return [
        Panel(
            title="Loss",
            note="where it starts depends on the loss chosen, that it falls does not",
            lines=[line(steps, "loss", "training", "reward"), line(judged, "eval_loss", held, "ink", dots=True)],
            zero=True,
        ),
        Panel(
            title="Accuracy",
            note="share of pairs ranked as the judges did; must clear what length alone would get",
            lines=[line(steps, "accuracy", "training", "reward"), line(judged, "accuracy", held, "ink", dots=True)],
            levels=_level("longer wins", "bad", figures.get("baseline_longer")),
            share=True,
        ),
    ]


def _rl(facts: Facts, rows: Rows) -> list[Panel]:
    kl = (facts.config.get("rl") or {}).get("kl") or {}
    figures = facts.figures("rl")
    best = figures.get("best_step")

    def panel(title: str, note: str, *lines: PlotLine, **more: Any) -> Panel:
        return Panel(title=title, note=note, lines=lines, mark=best, x_name="update", **more)

    def one(key: str, name: str = "batch") -> PlotLine:
        return line(rows, key, name, "rl")

    def held(key: str) -> PlotLine:
        return line(rows, key, "held out", "ink", dots=True)

    return [
        panel(
            "Reward",
            "what the reward model gives, in standard deviations of the SFT model's answers; held out must rise with it, and "
            "is less the penalty of answers that do not end",
            one("score"),
            held("eval_reward"),
            zero=True,
        ),
        panel(
            "Gold",
            "the true worth of held-out answers, 0 to 10; falling while the reward rises is gaming",
            held("eval_gold"),
        ),
        panel(
            "KL to the SFT model",
            "nats a response; how far the policy has moved",
            one("kl"),
            held("eval_kl"),
            levels=_kl_levels(kl, rows),
            zero=True,
        ),
        panel("Reward less KL penalty", "what PPO maximises", one("reward"), zero=True),
        panel("Length", "tokens a response; a slide to either end is a warning", one("length"), held("eval_length"), zero=True),
        panel(
            "Ended by themselves",
            "share of responses that end with EOS before the limit",
            one("eos_rate"),
            held("eval_eos_rate"),
            share=True,
            zero=True,
        ),
        panel("Entropy", "nats a token; near zero all are alike", one("sampled_entropy"), held("eval_entropy"), zero=True),
        panel(
            "Distinct bigrams",
            "share of a batch's word pairs that differ; a fall is collapse",
            one("distinct_2"),
            share=True,
            zero=True,
        ),
        panel(
            "Same answer",
            "share of different prompts given one and the same answer",
            one("mode_response_rate"),
            share=True,
            zero=True,
        ),
        panel(
            "Clip fraction",
            "share of tokens whose ratio was clipped; a few per cent is usual",
            one("clip_fraction"),
            share=True,
            zero=True,
        ),
        panel("KL of one update", "nats a token between old and new policy", one("approx_kl"), zero=True),
        panel("Value loss", "how far the predicted returns are off", one("value_loss"), zero=True),
        panel(
            "Explained variance",
            "of the returns by the values; 1 is perfect, 0 is a constant",
            one("explained_variance"),
            zero=True,
        ),
        panel("KL coefficient", "reward units a nat costs", one("kl_coefficient"), zero=True),
    ]


def _kl_levels(kl: Mapping[str, Any], rows: Rows) -> list[Level]:
    """The budget and target, unless they lie so far above the curve that it would be pressed flat."""
    seen = max((float(row["kl"]) for row in rows if "kl" in row), default=0.0)
    budget = _level("budget", "bad", kl.get("budget"))
    return [level for level in [*budget, *_level("target", "faint", kl.get("target"))] if level.at <= 4 * seen]
