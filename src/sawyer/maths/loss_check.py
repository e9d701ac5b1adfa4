"""Is this function fit to be a reward model's loss? Tried on points, before anything is trained with it.

A loss of a pair is a function of (r_j, r_k, d): it must give one finite number a pair, be differentiable, stay finite and exact
for reward differences out to +-1000, and fall as the preferred reward rises or the other one falls. A failure names the point
at which it happens. A loss of one answer is a function of (r, t) and must fall towards its target t instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from sawyer.maths.reward_losses import AnswerLoss, JudgedBatch, PairLoss, RewardLoss

GAPS = (0.25, 1.0, 1.5, 4.0, 9.0)  # score differences d, as a scale from 1 to 10 has them
TARGETS = (-2.0, -0.7, 0.0, 1.0, 2.5)  # standardised scores
NEAR = (-3.0, -1.3, -0.5, 0.0, 0.5, 0.71, 2.0, 3.0)  # rewards, round and not: where functions have their kinks and jumps
FAR = (0.0, 1.0, 10.0, 100.0, 300.0, 1000.0, -1.0, -10.0, -100.0, -300.0, -1000.0)  # reward differences
STEP, ZOOM = 1e-6, 65  # of numerical gradients; points that an interval is cut by when a jump is looked for
EXACT, SINGLE, ROUNDING = 1e-4, 1e-3, 1e-9  # tolerances: numerical gradients; float32 against float64; float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a loss was tried, e.g. r_j = 500, r_k = -500, d = 0.25."""

    names: tuple[str, ...]
    values: tuple[float, ...]

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value:.6g}" for name, value in zip(self.names, self.values, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: whether it holds, a message and, where it does not hold, the point."""

    name: str
    ok: bool
    message: str
    point: Point | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCheck:
    """The findings, in the order tried; `shift_invariant`: loss(r + c) = loss(r), so that only differences are learnt."""

    findings: tuple[Finding, ...]
    shift_invariant: bool

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    @property
    def failure(self) -> Finding | None:
        """The first check that fails."""
        return next((finding for finding in self.findings if not finding.ok), None)


class _Unfit(Exception):
    """A check fails at a row of points."""

    def __init__(self, message: str, row: Tensor) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """Points along which one reward rises: the loss must not rise, or (where it `rises`) not fall."""

    points: Tensor  # (n, A)
    argument: int
    rises: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A function of A columns, the first `rewards` of which are learnt, and where it is tried; all points (n, A) float64."""

    function: Callable[..., Tensor]
    names: tuple[str, ...]
    rewards: int
    near: Tensor
    far: Tensor
    lines: tuple[_Line, ...]

    def at(self, row: Tensor) -> Point:
        return Point(names=self.names, values=tuple(row.tolist()))

    def value(self, points: Tensor) -> Tensor:
        """(n, A) -> (n,) detached."""
        return self.function(*points.unbind(1)).detach()

    def slopes(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """((n,) values, (n, rewards) gradients by automatic differentiation). `_Unfit` where there is none."""
        columns = [column.clone() for column in points.unbind(1)]
        for column in columns[: self.rewards]:
            column.requires_grad_()
        values = self.function(*columns)
        if not values.requires_grad:
            message = "no gradient comes back: the result does not depend on the rewards by differentiable steps"
            raise _Unfit(message, self.near[0])
        grads = torch.autograd.grad(values.sum(), columns[: self.rewards], allow_unused=True, materialize_grads=True)
        return values.detach(), torch.stack(grads, 1)


def check_loss(loss: RewardLoss) -> LossCheck:
    """Try any loss: of pairs and of whole prompts as a function of two answers, of answers as a function of one."""
    return _check_answer(one_answer(loss)) if loss.counts == "answers" else check_pair(two_answers(loss))


def check_pair(function: PairLoss) -> LossCheck:
    """Try a function of (r_j, r_k, d), each (P,), that gives (P,) losses."""
    far = [row for D in FAR for d in GAPS for row in ((D / 2, -D / 2, d), (D, 0.0, d), (0.0, -D, d))]
    lines = []
    for d, other, reach in [*product(GAPS, (-1.3, 0.0, 2.0), (8.0,)), *product(GAPS, (0.0,), (1000.0,))]:
        rewards = torch.linspace(-reach, reach, 801, dtype=torch.float64)
        still, gap = torch.full_like(rewards, other), torch.full_like(rewards, d)
        columns = (rewards, still, gap), (still, rewards, gap)
        reasons = "must not rise with the preferred answer's reward", "must not fall as the other answer's reward rises"
        for argument, why in enumerate(reasons):
            lines.append(_Line(points=torch.stack(columns[argument], 1), argument=argument, rises=argument == 1, why=why))
    near, names = product(NEAR, NEAR, GAPS), ("r_j", "r_k", "d")
    return _run_checks(
        _Subject(function=function, names=names, rewards=2, near=_points(near), far=_points(far), lines=tuple(lines))
    )


def _check_answer(function: AnswerLoss) -> LossCheck:
    """Try a function of (r, t), each (N,), that gives (N,) losses."""
    lines = []
    for t, reach in product(TARGETS, (8.0, 1000.0)):
        for start, stop, rises in ((t - reach, t, False), (t, t + reach, True)):
            rewards = torch.linspace(start, stop, 401, dtype=torch.float64)
            points = torch.stack([rewards, torch.full_like(rewards, t)], 1)
            lines.append(_Line(points=points, argument=0, rises=rises, why="must fall towards the target, and rise beyond it"))
    near, far = _points(product(NEAR, TARGETS)), _points(product(FAR, TARGETS))
    return _run_checks(_Subject(function=function, names=("r", "t"), rewards=1, near=near, far=far, lines=tuple(lines)))


def one_answer(loss: RewardLoss) -> AnswerLoss:
    """A loss of answers as a function of one: (r, t), each (N,) -> (N,)."""

    def function(rewards: Tensor, targets: Tensor) -> Tensor:
        none, prompts = torch.zeros(0, dtype=torch.int64), torch.arange(len(rewards))
        batch = JudgedBatch(prompts=prompts, scores=targets, better=none, worse=none, difference=targets[:0])
        return loss.losses(rewards, batch)

    return function


def two_answers(loss: RewardLoss) -> PairLoss:
    """Any loss of pairs or prompts as a function of two answers to a prompt: (r_j, r_k, d), each (P,) -> (P,)."""

    def function(better: Tensor, worse: Tensor, difference: Tensor) -> Tensor:
        prompts, gaps = torch.arange(len(better)), difference.detach()
        scores = torch.cat([gaps, torch.zeros_like(gaps)]).double()
        batch = JudgedBatch(
            prompts=prompts.repeat(2), scores=scores, better=prompts, worse=prompts + len(better), difference=difference
        )
        return loss.losses(torch.cat([better, worse]), batch)

    return function


def _run_checks(subject: _Subject) -> LossCheck:
    findings: list[Finding] = []
    for name, check in _CHECKS.items():
        if findings and not findings[0].ok:
            findings.append(Finding(name=name, ok=False, message="not tried"))
            continue
        try:
            findings.append(Finding(name=name, ok=True, message=check(subject)))
        except _Unfit as error:
            findings.append(Finding(name=name, ok=False, message=str(error), point=subject.at(error.row)))
        except Exception as error:  # a user's function may raise anything
            message = f"it raises {type(error).__name__}: {error}"
            findings.append(Finding(name=name, ok=False, message=message, point=subject.at(subject.near[0])))
    return LossCheck(findings=tuple(findings), shift_invariant=findings[0].ok and _shift_invariant(subject))


def _one_loss_each(subject: _Subject) -> str:
    points = subject.near
    values: object = subject.function(*points.unbind(1))
    count = len(points)
    if not isinstance(values, Tensor):
        raise _Unfit(f"it returns {type(values).__name__}, not a tensor", points[0])
    if values.shape != (count,) or not values.is_floating_point():
        shape = f"{values.dtype} of shape {tuple(values.shape)}, not floats of shape ({count},)"
        raise _Unfit(f"for {count} of them it returns {shape}", points[0])
    values = values.detach()
    if (i := _first_index(~torch.isfinite(values))) is not None:
        raise _Unfit(f"the loss is {float(values[i])}", points[i])
    some = slice(None, None, max(1, count // 16))
    alone, among = torch.cat([subject.value(row[None]) for row in points[some]]), values[some]
    if (i := _first_index((alone - among).abs() > ROUNDING * (1 + among.abs()))) is not None:
        message = f"alone the loss is {float(alone[i]):.6g}, among others {float(among[i]):.6g}: each must depend on its own"
        raise _Unfit(message, points[some][i])
    return f"a finite number for each of {count}, the same alone and among others"


def _differentiable(subject: _Subject) -> str:
    """Automatic gradients are the central differences'; at a kink they lie between the slopes of its two sides."""
    points = subject.near
    values, slopes = subject.slopes(points)
    worst, kink = 0.0, ""
    for argument in range(subject.rewards):
        slope = slopes[:, argument]
        right, left = _one_sided(subject, values, argument, STEP)
        numerical = (right + left) / 2
        error = (numerical - slope).abs() / (1 + slope.abs())
        bad = ~(error <= EXACT)
        if bad.any():
            # At a kink each one-sided slope stays as the step shrinks; at a jump it grows.
            closer = _one_sided(subject, values, argument, STEP / 4)
            steady = [((a - b).abs() <= 1e-2 * (1 + a.abs())) for a, b in zip((right, left), closer, strict=True)]
            low, high = torch.minimum(left, right) - EXACT, torch.maximum(left, right) + EXACT
            bent = bad & steady[0] & steady[1] & (low <= slope) & (slope <= high)
            if (i := _first_index(bent)) is not None:
                kink = f"; a kink at {subject.at(points[i])}"
            bad, error = bad & ~bent, torch.where(bent, 0.0, error)
        if (i := _first_index(bad)) is not None:
            ours = f"d loss / d {subject.names[argument]} is {float(slope[i]):.6g} by autograd"
            raise _Unfit(f"{ours} and {float(numerical[i]):.6g} numerically", points[i])
        worst = max(worst, float(error.max()))
    for line in subject.lines:
        if (ends := _jump(subject, line)) is not None:
            values = subject.value(ends)
            raise _Unfit(f"the loss jumps from {float(values[0]):.6g} to {float(values[1]):.6g} there", ends[0])
    return f"autograd is the numerical gradient (float64, worst {worst:.0e}){kink}"


def _one_sided(subject: _Subject, values: Tensor, argument: int, step: float) -> tuple[Tensor, Tensor]:
    """Slopes to the right and to the left of the near points."""
    offset = torch.zeros_like(subject.near)
    offset[:, argument] = step
    right, left = subject.value(subject.near + offset), subject.value(subject.near - offset)
    return (right - values) / step, (values - left) / step


def _jump(subject: _Subject, line: _Line) -> Tensor | None:
    """(2, A): two points very near each other between which the loss changes by more than its gradient explains.

    Between neighbours a loss without a jump changes by an amount between step * the two slopes, to what its curvature adds;
    the worst interval is cut finer and finer, where curvature vanishes and a jump stays.
    """
    points = line.points
    for _ in range(4):
        values, slopes = subject.slopes(points)
        slope = slopes[:, line.argument]
        step = points[1:, line.argument] - points[:-1, line.argument]
        ends = torch.stack([slope[1:] * step, slope[:-1] * step])
        change, slack = values.diff(), EXACT * ends.abs().amax(0) + ROUNDING * (1 + values[1:].abs())
        excess = torch.maximum(change - ends.amax(0), ends.amin(0) - change) - slack
        worst = int(excess.argmax())
        if not float(excess[worst]) > 0:
            return None
        a, b = points[worst], points[worst + 1]
        points = a + torch.linspace(0, 1, ZOOM, dtype=torch.float64)[:, None] * (b - a)
    return torch.stack([a, b])


def _finite(subject: _Subject) -> str:
    doubles, singles = subject.slopes(subject.far), subject.slopes(subject.far.float())
    for what, double, single in zip(("loss", "gradient"), doubles, singles, strict=True):
        double, single = (numbers.reshape(len(numbers), -1) for numbers in (double, single))
        for kind, numbers in (("float64", double), ("float32", single)):
            if (i := _first_index(~torch.isfinite(numbers).all(1))) is not None:
                worst = next(x for x in numbers[i].tolist() if x - x != 0)
                raise _Unfit(f"the {what} is {worst} in {kind}", subject.far[i])
        off = (single.double() - double).abs() > SINGLE * (1 + double.abs())
        if (i := _first_index(off.any(1))) is not None:
            texts = [", ".join(f"{x:.6g}" for x in numbers[i].tolist()) for numbers in (single, double)]
            raise _Unfit(f"the {what} is {texts[0]} in float32 and {texts[1]} in float64", subject.far[i])
    return "value and gradient out to ±1,000, alike in float32 and float64"


def _falls(subject: _Subject) -> str:
    largest_change = {line.argument: 0.0 for line in subject.lines}
    largest_slope = dict(largest_change)
    for line in subject.lines:
        values, slopes = subject.slopes(line.points)
        sign = 1.0 if line.rises else -1.0
        change = values.diff() * sign
        if (i := _first_index(~(change >= -ROUNDING * (1 + values[1:].abs())))) is not None:
            if not torch.isfinite(values[i : i + 2]).all():
                raise _Unfit("the loss is not finite, so it cannot be seen to fall", line.points[i])
            there = f"{subject.names[line.argument]} = {float(line.points[i + 1, line.argument]):.6g}"
            here = f"it {line.why}: {float(values[i]):.6g} here"
            raise _Unfit(f"{here}, {float(values[i + 1]):.6g} at {there}", line.points[i])
        largest_change[line.argument] = max(largest_change[line.argument], float(change.max()))
        largest_slope[line.argument] = max(largest_slope[line.argument], float((slopes[:, line.argument] * sign).max()))
    for argument, size in largest_change.items():
        if min(size, largest_slope[argument]) <= ROUNDING:
            what = "the loss never changes with" if size <= ROUNDING else "the gradient is 0 everywhere in"
            raise _Unfit(f"{what} {subject.names[argument]}: nothing can be learnt from it", subject.lines[0].points[0])
    if subject.rewards == 1:
        return "towards its target, from either side"
    return "as the preferred reward rises, and as the other one falls"


def _shift_invariant(subject: _Subject) -> bool:
    """Whether adding one number to all rewards of the near points leaves the loss as it is."""
    values = subject.value(subject.near)
    for shift in (0.7, -3.0, 100.0):
        points = subject.near.clone()
        points[:, : subject.rewards] += shift
        if not bool(((subject.value(points) - values).abs() <= ROUNDING * (1 + values.abs())).all()):
            return False
    return True


_CHECKS: dict[str, Callable[[_Subject], str]] = {
    "one loss each": _one_loss_each,
    "differentiable": _differentiable,
    "finite": _finite,
    "falling": _falls,
}


def _first_index(flags: Tensor) -> int | None:
    """The index of the first True."""
    return int(flags.nonzero()[0]) if bool(flags.any()) else None


def _points(rows: Iterable[Sequence[float]]) -> Tensor:
    return torch.tensor(list(rows), dtype=torch.float64)
