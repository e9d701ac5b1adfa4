"""How far a reward model can be pushed: RL without KL and best-of-n on the built-in world, reward and truth against distance.

Gao et al. 2022, arXiv 2210.10760. The proxy is the reward that RL maximises, gold the world's true score, distance sqrt(KL) to
the SFT model. All points are of the same held-out prompts, the ones that RL evaluates itself on.
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
from sawyer.runs import Layout, Listener, Manifest, clock, read_rows
from sawyer.stats import bootstrap, mean
from sawyer.studies.best_of_n_samples import Samples, sample_answers
from sawyer.studies.grid import (
    DEMO_SECONDS,
    Cell,
    Grid,
    SharedStart,
    Tell,
    check_one_process,
    is_done,
    missing_summary,
    silent,
    stages_in,
)
from sawyer.studies.tables import figure, table, write_result

STUDY = "overoptimisation"
SHARED_STAGES = ("base", "sft", "collect", "reward")
LONGER = 4  # times the config's episodes: what RL with KL never reaches
EVALUATIONS = 80  # over the run: the turn comes early
NO_BUDGET = 1e9  # nats that no answer comes to
CURVE_POINTS = 400  # of a fitted curve
SAMPLE_PROMPTS = 4  # prompts whose answers are shown before, at the turn and at the end
TABLE_ROWS = 12


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
    line: tuple[tuple[float, float], ...]  # (distance, gold) along the curve


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAnswer:
    """What RL's policy answered to a prompt after some update."""

    prompt: str
    at: int
    response: str
    proxy: float
    gold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overoptimisation:
    """Both curves, the answers on the way, and what may be concluded."""

    study: str
    out: str
    prompts: int
    answers: int  # a prompt, that best-of-n chose from
    gold_deviation: float  # of the SFT model's answers
    proxy_deviation: float
    rl: GoldCurve
    best_of_n: GoldCurve
    samples: tuple[PolicyAnswer, ...]
    notes: tuple[str, ...]
    text: str  # some points of both curves and the notes in Markdown


def study_overoptimisation(
    config: Config | str | Path | None = None,
    *,
    episodes: int | None = None,
    limit: int = 128,
    out: Path | None = None,
    listeners: Sequence[Listener] = (),
    tell: Tell = silent,
) -> Overoptimisation:
    """Reward and truth against sqrt(KL), of RL without KL or guards and of the best of 1 to `limit` SFT answers: Gao's curves.

    RL has `episodes` answers, four times the config's if not given. A config without a world is refused.

    SFT and reward model are those of the config's run, or of the demo's where none is given, made first where they are missing;
    `out` is its folder `overoptimisation` if not given. What is finished is skipped, what was interrupted goes on. Writes the
    figures and a page. Raises SawyerError.
    """
    check_one_process("parts")
    source = SharedStart.of(config)
    _check_request(source.config, limit)
    root = out if out is not None else source.layout.study(STUDY)
    without = without_kl(source.config, root, episodes)
    sampling = source.config.model_copy(update={"out": str(root / "best-of-n")})
    study = Grid(
        source=source,
        cells=(
            Cell(row="best_of_n", config=sampling, label=f"best of 1 to {limit}"),
            Cell(row="rl", config=without, label="RL without KL"),
        ),
        stages=("rl",),
        what="parts",
        shared_stages=SHARED_STAGES,
        alike=False,
        listeners=listeners,
        tell=tell,
    )
    tell(_cost(source, without, limit))
    study.make_shared()

    def work(cell: Cell, listeners: Sequence[Listener]) -> Samples | None:
        if cell.row == "best_of_n":
            return sample_answers(cell.config, limit, listeners)
        run(cell.config, only="rl", listeners=listeners)
        return None

    samples, _ = study.run(work)
    assert samples is not None
    result = fit_curves(Layout(Path(without.out)), samples, str(root))
    write_result(result)
    from sawyer.report import build_overoptimisation

    build_overoptimisation(asdict(result), Layout(root).table_page(STUDY))
    return result


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


def _check_request(config: Config, limit: int) -> None:
    required_section(config.rl, "rl")
    required_section(config.reward, "reward")
    if config.world is None:
        raise ConfigError(
            "the config names no `world`",
            expected="the built-in world, where the truth is known",
            why="only a true score shows where a higher reward stops being a better answer",
            todo="leave the config out to study the demo's, or add `world:` and its data (`sawyer world`)",
        )
    if limit < 4:
        raise ConfigError(f"the best of {limit}", expected="at least 4: a curve has two unknowns", todo="ask for more")


def _cost(source: SharedStart, without: Config, limit: int) -> str:
    """Before anything is done: what is, and how long it takes by the demo or by the RL that the run has done."""
    rl, longer = required_section(source.config.rl, "rl"), required_section(without.rl, "rl")
    first = missing_summary(source, SHARED_STAGES)
    what = f"{longer.episodes:,} episodes of RL without KL, {limit} answers to each of at most {rl.eval_prompts} prompts"
    if is_done(Layout(Path(without.out)), "rl"):
        return f"{what}: RL is done{first}"
    took = Manifest(source.layout.manifest).stage("rl").seconds if is_done(source.layout, "rl") else 0.0
    took = took or (DEMO_SECONDS["rl"] if source.demo else 0.0)
    if not took:
        return f"{what}{first}; how long that takes is shown as it goes"
    # Per answer; those of the evaluations count too, and best-of-n's are sampled and scored but not learnt from.
    evaluations = 1 + rl.episodes // rl.batch_size // rl.eval_every
    each = took / (rl.episodes + evaluations * rl.eval_prompts / 2)
    answers = longer.episodes + (EVALUATIONS + limit) * rl.eval_prompts / 2
    missing = [stage for stage in stages_in(source.config, SHARED_STAGES) if not is_done(source.layout, stage)]
    seconds = each * answers + sum(DEMO_SECONDS[stage] for stage in missing if source.demo)
    return f"{what}{first}: about {clock(seconds)} on such a machine"


def fit_curves(layout: Layout, samples: Samples, out: str) -> Overoptimisation:
    """Both curves from RL's journal and best-of-n's answers."""
    rows = [row for row in read_rows(layout.metrics) if row.get("stage") == "rl" and "eval_gold" in row]
    points = {int(row["step"]): _rl_point(row) for row in rows}  # an update evaluated twice keeps its last
    rl = curve_of("rl", [points[step] for step in sorted(points)])
    best = curve_of("best_of_n", [_best_point(samples, n) for n in samples.numbers])
    notes = _curve_notes(rl, best)
    return Overoptimisation(
        study=STUDY,
        out=out,
        prompts=len(samples.prompts),
        answers=samples.answers,
        gold_deviation=samples.deviation("gold"),
        proxy_deviation=samples.deviation("proxy"),
        rl=rl,
        best_of_n=best,
        samples=tuple(_policy_answers(read_rows(layout.samples), (0, rl.top.at, rl.last.at))),
        notes=tuple(notes),
        text=_text(len(samples.prompts), rl, best, notes),
    )


def _rl_point(row: dict[str, Any]) -> GoldPoint:
    kl = float(row["eval_kl"])
    # The estimate is a mean of log-ratios: near the SFT model chance can make it negative, the KL itself cannot be.
    distance = math.sqrt(max(kl, 0.0))
    return GoldPoint(kl=kl, distance=distance, proxy=row["eval_score"], gold=row["eval_gold"], at=int(row["step"]))


def _best_point(samples: Samples, n: int) -> GoldPoint:
    from sawyer.maths import best_of_n_kl

    gold, kl = bootstrap(samples.best(n, "gold"), seed=0), best_of_n_kl(n)
    return GoldPoint(
        kl=kl,
        distance=math.sqrt(kl),
        proxy=mean(samples.best(n, "proxy")),
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
        parameters = fit([point.distance for point in points], [point.gold - start for point in points])
    except ValueError:  # too few distances
        parameters = None
    steps = [farthest * i / CURVE_POINTS for i in range(CURVE_POINTS + 1)]
    return GoldCurve(
        name=name,
        formula=formula,
        points=tuple(points),
        a=parameters.a if parameters else None,
        b=parameters.b if parameters else None,
        r_squared=parameters.r_squared if parameters else None,
        turn=parameters.turn if parameters and parameters.turn is not None and parameters.turn <= farthest else None,
        top=max(points, key=lambda point: point.gold),
        last=points[-1],
        line=tuple((d, start + gain(d, parameters.a, parameters.b)) for d in steps) if parameters else (),
    )


def _policy_answers(samples: Sequence[dict[str, Any]], updates: Sequence[int]) -> list[PolicyAnswer]:
    """The first prompts' answers after these updates."""
    rows = {(str(row["prompt"]), row["step"]): row for row in reversed(samples) if row.get("stage") == "rl"}
    prompts = list(dict.fromkeys(str(row["prompt"]) for row in samples if row.get("stage") == "rl"))[:SAMPLE_PROMPTS]
    return [
        PolicyAnswer(prompt=prompt, at=at, response=row["response"], proxy=row["reward"], gold=row["gold"])
        for prompt in prompts
        for at in dict.fromkeys(updates)
        if (row := rows.get((prompt, at))) is not None
    ]


def _curve_notes(rl: GoldCurve, best: GoldCurve) -> list[str]:
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
    for curve, name in ((rl, "RL"), (best, "Best-of-n")):
        if curve.a is None or curve.b is None:
            notes.append(f"{name}: no curve is fitted, its points lie at fewer than two distances.")
            continue
        turn = f"highest at d = {figure(curve.turn)}" if curve.turn is not None else "no turn within what was measured"
        notes.append(
            f"{name}, gain in gold = {curve.formula}: a = {figure(curve.a)}, b = {figure(curve.b, 3)}, "
            f"R² {figure(curve.r_squared)}; {turn}."
        )
    notes.append("The highest of many measured points is in part luck; the fitted curve's turn is not, where R² is near 1.")
    return notes


def _text(prompts: int, rl: GoldCurve, best: GoldCurve, notes: Sequence[str]) -> str:
    """Some points of both curves and the notes as Markdown."""
    parts = [f"Over-optimisation: reward and truth against d = sqrt(KL), {prompts} held-out prompts", ""]
    for curve, at in ((rl, "update"), (best, "n")):
        points = table_points(curve)
        rows = [[str(p.at), figure(p.kl), figure(p.distance), figure(p.proxy, sign=True), figure(p.gold)] for p in points]
        parts += [table([at, "KL", "d", "proxy", "gold"], rows), ""]
    return "\n".join([*parts, *(f"- {note}" for note in notes), ""])


def table_points(curve: GoldCurve, limit: int = TABLE_ROWS) -> list[GoldPoint]:
    """At most about so many points, evenly spread in distance, the first, the top and the last among them."""
    if len(curve.points) <= limit:
        return list(curve.points)
    farthest = max(point.distance for point in curve.points)
    marks = [farthest * i / (limit - 3) for i in range(limit - 2)]
    nearest = [min(curve.points, key=lambda point: abs(point.distance - mark)) for mark in marks]
    chosen = {id(point) for point in (*nearest, curve.points[0], curve.top, curve.last)}
    return [point for point in curve.points if id(point) in chosen]
