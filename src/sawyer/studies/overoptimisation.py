"""How far a reward model can be pushed: RL without KL and best-of-n on the built-in world, reward and truth against distance.

Gao et al. 2022, arXiv 2210.10760. The proxy is what RL is paid for, gold the world's true score, distance sqrt(KL) to the SFT
model. All points are of the same held-out prompts, the ones that RL evaluates itself on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from sawyer.config import Config, Guard, GuardName, Kl, required_section
from sawyer.errors import ConfigError
from sawyer.pipeline import run
from sawyer.runs import Layout, Listener, Manifest, clock, read_rows, write_json, write_text
from sawyer.stats import Interval, bootstrap, mean
from sawyer.studies.best_of_n_samples import Samples, draw
from sawyer.studies.grid import DEMO_SECONDS, SharedStart, Tell, in_turn, is_done, lend, make_shared, named, silent, source_of
from sawyer.studies.markdown_tables import figure, table

STUDY = "overoptimisation"
SHARED = ("base", "sft", "collect", "reward")
LONGER = 4  # times the config's episodes: what RL with KL never reaches
EVALUATIONS = 80  # over the run: the turn comes early
NO_BUDGET = 1e9  # nats that no answer comes to
DRAWN = 400  # points of a fitted curve
SHOWN = 4  # prompts whose answers are shown before, at the turn and at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldPoint:
    """Reward and truth at one distance, means over the prompts."""

    kl: float  # nats an answer; of best-of-n log n - (n - 1) / n, the bound
    distance: float  # sqrt(kl)
    proxy: float
    gold: float
    at: int  # RL: after which update; best-of-n: n
    gold_low: float | None = None  # 95 % interval by prompt, of best-of-n's
    gold_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldCurve:
    """One way away from the SFT model: its points, Gao's curve through their gold, and where gold is highest."""

    name: str  # rl | best_of_n
    formula: str
    points: tuple[GoldPoint, ...]  # the SFT model first, at distance 0
    a: float | None  # of the formula, gold points; None: too few distances to fit one
    b: float | None
    r_squared: float | None
    turn: float | None  # distance at which the fitted curve is highest; None: it has no top within what was measured
    top: GoldPoint  # the measured point of the highest gold
    last: GoldPoint
    fitted: tuple[tuple[float, float], ...]  # (distance, gold) along the curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What RL's policy answered to a prompt after some update."""

    prompt: str
    at: int
    response: str
    proxy: float
    gold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overoptimisation:
    """Both curves, the answers on the way, and what may be said of them."""

    out: str
    prompts: int
    answers: int  # a prompt, that best-of-n chose from
    gold_deviation: float  # of the SFT model's own answers
    proxy_deviation: float
    rl: GoldCurve
    best_of_n: GoldCurve
    said: tuple[Said, ...]
    notes: tuple[str, ...]


def study_overoptimisation(
    config: Config | str | Path | None = None,
    *,
    episodes: int | None = None,
    most: int = 128,
    out: Path | None = None,
    listeners: Sequence[Listener] = (),
    tell: Tell = silent,
) -> Overoptimisation:
    """Reward and truth against sqrt(KL), of RL without KL or guards and of the best of 1 to `most` SFT answers: Gao's curves.

    RL has `episodes` answers, four times the config's if not given. A config without a world is refused.

    SFT and reward model are those of the config's run, or of the demo's where none is given, made first where they are missing;
    `out` is its folder `overoptimisation` if not given. What is finished is skipped, what was interrupted goes on. Writes the
    figures and a page. Raises SawyerError.
    """
    source = source_of(config)
    _check(source.config, most)
    root = out if out is not None else source.layout.lab(STUDY)
    own = without_kl(source.config, root, episodes)
    tell(_cost(source, own, most))
    make_shared(source, SHARED, listeners)
    drawn: list[Samples] = []

    def do(part: str, heard: Sequence[Listener]) -> None:
        mine = own if part == "rl" else source.config.model_copy(update={"out": str(root / "best-of-n")})
        lend(mine, source, SHARED)
        if part == "rl":
            run(mine, only="rl", listeners=heard)
        else:
            drawn.append(draw(mine, most, heard))

    parts = {"best_of_n": f"best of 1 to {most}", "rl": "RL without KL"}
    in_turn(list(parts), do, name=lambda part: parts[part], what="parts", alike=False, listeners=listeners, tell=tell)
    found = found_in(Layout(Path(own.out)), drawn[0], str(root))
    layout = Layout(root)
    write_json(layout.table(STUDY), asdict(found))
    write_text(layout.table_text(STUDY), markdown(found))
    from sawyer.report import build_overoptimisation

    build_overoptimisation(asdict(found), layout.table_page(STUDY))
    return found


def without_kl(config: Config, root: Path, episodes: int | None) -> Config:
    """The config with nothing that ties RL to the SFT model, a run below `root`. Raises ConfigError for no whole batches."""
    rl = required_section(config.rl, "rl")
    count = LONGER * rl.episodes if episodes is None else episodes
    if count < rl.batch_size or count % rl.batch_size:
        near = max(1, round(count / rl.batch_size)) * rl.batch_size
        raise ConfigError(f"{count} episodes", expected=f"a whole number of batches of {rl.batch_size}", todo=f"ask for {near}")
    changes: dict[str, Any] = {
        "episodes": count,
        "kl": Kl(coefficient=0.0, target=None, horizon=rl.kl.horizon, budget=NO_BUDGET),
        "eval_every": max(1, count // rl.batch_size // EVALUATIONS),
        "guards": {
            name: Guard(threshold=None, patience=None, action="stop" if name == "non_finite" else "off")
            for name in get_args(GuardName)
        },
    }
    return config.model_copy(update={"out": str(root / "rl"), "rl": rl.model_copy(update=changes)})


def _check(config: Config, most: int) -> None:
    required_section(config.rl, "rl")
    required_section(config.reward, "reward")
    if config.world is None:
        raise ConfigError(
            "the config names no `world`",
            expected="the built-in world, where the truth is known",
            why="without a true score nobody can see where a higher reward stops being a better answer",
            todo="leave the config out to study the demo's, or add `world:` and its data (`sawyer world`)",
        )
    if most < 4:
        raise ConfigError(f"the best of {most}", expected="at least 4: a curve has two unknowns", todo="ask for more")


def _cost(source: SharedStart, own: Config, most: int) -> str:
    """Before anything is done: what is, and how long it takes by the demo or by the RL that the run has done."""
    asked, longer = required_section(source.config.rl, "rl"), required_section(own.rl, "rl")
    layout = source.layout
    missing = [stage for stage in named(source.config, SHARED) if not is_done(layout, stage)]
    first = f"; before them {', '.join(missing)}" if missing else ""
    what = f"{longer.episodes:,} episodes of RL without KL, {most} answers to each of at most {asked.eval_prompts} prompts"
    if is_done(Layout(Path(own.out)), "rl"):
        return f"{what}: RL is done{first}"
    done = Manifest(layout.manifest).stage("rl").seconds if is_done(layout, "rl") else 0.0
    took = done or (DEMO_SECONDS["rl"] if source.demo else 0.0)
    if not took:
        return f"{what}{first}; how long that takes is shown as it goes"
    # Per answer; those of the evaluations count too, and best-of-n's are sampled and judged but not learnt from.
    looks = 1 + asked.episodes // asked.batch_size // asked.eval_every
    each = took / (asked.episodes + looks * asked.eval_prompts / 2)
    answers = longer.episodes + (EVALUATIONS + most) * asked.eval_prompts / 2
    seconds = each * answers + sum(DEMO_SECONDS[stage] for stage in missing if source.demo)
    return f"{what}{first}: about {clock(seconds)} on such a machine"


def found_in(layout: Layout, drawn: Samples, out: str) -> Overoptimisation:
    """Both curves from RL's journal and best-of-n's answers."""
    rows = [row for row in read_rows(layout.metrics) if row.get("stage") == "rl" and "eval_gold" in row]
    points = {int(row["step"]): _rl_point(row) for row in rows}  # an update evaluated twice keeps its last
    rl = curve_of("rl", [points[step] for step in sorted(points)])
    best = curve_of("best_of_n", [_best_point(drawn, n) for n in drawn.numbers])
    return Overoptimisation(
        out=out,
        prompts=len(drawn.prompts),
        answers=drawn.answers,
        gold_deviation=drawn.deviation("gold"),
        proxy_deviation=drawn.deviation("proxy"),
        rl=rl,
        best_of_n=best,
        said=tuple(_said(read_rows(layout.samples), (0, rl.top.at, rl.last.at))),
        notes=tuple(_notes(rl, best)),
    )


def _rl_point(row: dict[str, Any]) -> GoldPoint:
    kl = float(row["eval_kl"])
    # The estimate is a mean of log-ratios: near the SFT model chance can make it negative, the KL itself cannot be.
    distance = math.sqrt(max(kl, 0.0))
    return GoldPoint(kl=kl, distance=distance, proxy=row["eval_score"], gold=row["eval_gold"], at=int(row["step"]))


def _best_point(drawn: Samples, n: int) -> GoldPoint:
    from sawyer.maths import best_of_n_kl

    gold: Interval = bootstrap(drawn.best(n, "gold"), seed=0)
    kl = best_of_n_kl(n)
    return GoldPoint(
        kl=kl,
        distance=math.sqrt(kl),
        proxy=mean(drawn.best(n, "proxy")),
        gold=gold.value,
        at=n,
        gold_low=gold.low,
        gold_high=gold.high,
    )


def curve_of(name: str, points: Sequence[GoldPoint]) -> GoldCurve:
    """Gao's curve through the gold of the points, of which the first is the SFT model."""
    from sawyer.maths import best_of_n_gain, fit_best_of_n, fit_rl, rl_gain

    fit, gain, formula = {
        "rl": (fit_rl, rl_gain, "d (a − b log d)"),
        "best_of_n": (fit_best_of_n, best_of_n_gain, "d (a − b d)"),
    }[name]
    start, farthest = points[0].gold, max(point.distance for point in points)
    try:
        found = fit([point.distance for point in points], [point.gold - start for point in points])
    except ValueError:
        found = None
    steps = [farthest * i / DRAWN for i in range(DRAWN + 1)]
    return GoldCurve(
        name=name,
        formula=formula,
        points=tuple(points),
        a=found.a if found else None,
        b=found.b if found else None,
        r_squared=found.r_squared if found else None,
        turn=found.turn if found and found.turn is not None and found.turn <= farthest else None,
        top=max(points, key=lambda point: point.gold),
        last=points[-1],
        fitted=tuple((d, start + gain(d, found.a, found.b)) for d in steps) if found else (),
    )


def _said(samples: Sequence[dict[str, Any]], looks: Sequence[int]) -> list[Said]:
    """The first prompts' answers at these updates."""
    rows = [row for row in samples if row.get("stage") == "rl"]
    found = []
    for prompt in list(dict.fromkeys(str(row["prompt"]) for row in rows))[:SHOWN]:
        for at in dict.fromkeys(looks):
            row = next((row for row in rows if (row["prompt"], row["step"]) == (prompt, at)), None)
            if row is not None:
                one = Said(prompt=prompt, at=at, response=row["response"], proxy=row["reward"], gold=row["gold"])
                found.append(one)
    return found


def _notes(rl: GoldCurve, best: GoldCurve) -> list[str]:
    """What is seen in the curves, a sentence each."""
    notes = []
    start = rl.points[0]
    if rl.last.gold < rl.top.gold and rl.top.at < rl.last.at:
        notes.append(
            f"RL without KL: gold rises from {figure(start.gold)} to {figure(rl.top.gold)} at sqrt(KL) "
            f"{figure(rl.top.distance)} (update {rl.top.at}) and falls to {figure(rl.last.gold)} at "
            f"{figure(rl.last.distance)} (update {rl.last.at}), while the proxy goes from {figure(rl.top.proxy, sign=True)} to "
            f"{figure(rl.last.proxy, sign=True)}."
        )
    else:
        notes.append(
            f"RL without KL: gold goes from {figure(start.gold)} to {figure(rl.last.gold)} at sqrt(KL) "
            f"{figure(rl.last.distance)} and has not turned; more episodes go further."
        )
    falls = best.last.gold_high is not None and best.last.gold_high < best.top.gold
    notes.append(
        f"Best-of-n: gold goes from {figure(best.points[0].gold)} to {figure(best.last.gold)} at n = {best.last.at}, sqrt(KL) "
        f"{figure(best.last.distance)}"
        + (f"; its highest is {figure(best.top.gold)} at n = {best.top.at}." if falls else ", and does not fall.")
    )
    for found, name in ((rl, "RL"), (best, "Best-of-n")):
        if found.a is None or found.b is None:
            notes.append(f"{name}: no curve is fitted, its points lie at fewer than two distances.")
            continue
        turn = f"highest at d = {figure(found.turn)}" if found.turn is not None else "no turn within what was measured"
        notes.append(
            f"{name}, gain in gold = {found.formula}: a = {figure(found.a)}, b = {figure(found.b, 3)}, "
            f"R² {figure(found.r_squared)}; {turn}."
        )
    notes.append("The highest of many measured points is in part luck; the fitted curve's turn is not, where R² is near 1.")
    return notes


def markdown(found: Overoptimisation) -> str:
    """Some points of both curves and the notes as Markdown."""
    parts = [f"Over-optimisation: reward and truth against d = sqrt(KL), {found.prompts} held-out prompts", ""]
    for curve, at in ((found.rl, "update"), (found.best_of_n, "n")):
        rows = [[str(p.at), figure(p.kl), figure(p.distance), figure(p.proxy, sign=True), figure(p.gold)] for p in _some(curve)]
        parts += [table([at, "KL", "d", "proxy", "gold"], rows), ""]
    return "\n".join([*parts, *(f"- {note}" for note in found.notes), ""])


def _some(curve: GoldCurve, most: int = 12) -> list[GoldPoint]:
    """At most so many points, evenly spread in distance, the first, the top and the last among them."""
    if len(curve.points) <= most:
        return list(curve.points)
    farthest = max(point.distance for point in curve.points)
    marks = [farthest * i / (most - 3) for i in range(most - 2)]
    near = [min(curve.points, key=lambda point: abs(point.distance - mark)) for mark in marks]
    chosen = {id(point) for point in (*near, curve.points[0], curve.top, curve.last)}
    return [point for point in curve.points if id(point) in chosen]
