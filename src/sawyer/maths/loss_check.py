"""Is this function fit to be a reward model's loss? Tried on points, before anything is trained with it.

A loss of a pair is a function of (r_j, r_k, d): it must give one finite number a pair, be differentiable, stay finite and exact
for reward differences out to +-1000, and fall as the preferred reward rises or the other one falls. What fails is told with
the point at which it does. A loss of one answer is a function of (r, t) and must fall towards its target t instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from sawyer.maths.reward_losses import JudgedBatch, PairLoss, RewardLoss

GAPS = (0.25, 1.0, 1.5, 4.0, 9.0)  # score differences d, as a scale from 1 to 10 has them
NEAR = (-3.0, -1.3, -0.5, 0.0, 0.5, 0.71, 2.0, 3.0)  # rewards, round and not: where functions have their kinks and jumps
FAR = (0.0, 1.0, 10.0, 100.0, 300.0, 1000.0)  # reward differences
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
    """One check: whether it holds, in words what was found and, where it does not, the point."""

    name: str
    ok: bool
    message: str
    point: Point | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCheck:
    """What was found, in the order tried; `shift_invariant`: loss(r + c) = loss(r), so that only differences are learnt."""

    findings: tuple[Finding, ...]
    shift_invariant: bool

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    @property
    def failure(self) -> Finding | None:
        """The first check that fails."""
        return next((finding for finding in self.findings if not finding.ok), None)


class _NoGradient(Exception):
    """The loss does not depend on the rewards by differentiable steps."""


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
        """((n,) values, (n, rewards) gradients by automatic differentiation). `_NoGradient` where there is none."""
        columns = [column.clone() for column in points.unbind(1)]
        for column in columns[: self.rewards]:
            column.requires_grad_()
        values = self.function(*columns)
        if not values.requires_grad:
            raise _NoGradient("no gradient comes back: the result does not depend on the rewards by differentiable steps")
        found = torch.autograd.grad(values.sum(), columns[: self.rewards], allow_unused=True)
        grads = [torch.zeros_like(c) if g is None else g for c, g in zip(columns, found, strict=False)]
        return values.detach(), torch.stack(grads, 1)


def check_loss(loss: RewardLoss) -> LossCheck:
    """Try any loss: of pairs and of whole prompts as a function of two answers, of answers as a function of one."""
    return check_answer(loss) if loss.counts == "answers" else check_pair(two_answers(loss))


def check_pair(function: PairLoss) -> LossCheck:
    """Try a function of (r_j, r_k, d), each (P,), that gives (P,) losses."""
    near = _rows(product(NEAR, NEAR, GAPS))
    ends = [(D, d) for D in (*FAR, *(-D for D in FAR[1:])) for d in GAPS]
    far = _rows([place for D, d in ends for place in ((D / 2, -D / 2, d), (D, 0.0, d), (0.0, -D, d))])
    lines = []
    for d, other, reach in [*product(GAPS, (-1.3, 0.0, 2.0), (8.0,)), *product(GAPS, (0.0,), (1000.0,))]:
        moving = torch.linspace(-reach, reach, 801, dtype=torch.float64)
        still, gap = torch.full_like(moving, other), torch.full_like(moving, d)
        told = ("must not rise with the preferred answer's reward", "must not fall as the other answer's reward rises")
        lines.append(_Line(points=torch.stack([moving, still, gap], 1), argument=0, rises=False, why=told[0]))
        lines.append(_Line(points=torch.stack([still, moving, gap], 1), argument=1, rises=True, why=told[1]))
    names = ("r_j", "r_k", "d")
    return _checked(_Subject(function=function, names=names, rewards=2, near=near, far=far, lines=tuple(lines)))


def check_answer(loss: RewardLoss) -> LossCheck:
    """Try a loss of one answer: a function of (r, t), each (N,), that gives (N,) losses."""

    def function(rewards: Tensor, targets: Tensor) -> Tensor:
        none = torch.zeros(0, dtype=torch.int64)
        prompts = torch.arange(len(rewards))
        judged = JudgedBatch(prompts=prompts, scores=targets, better=none, worse=none, difference=targets[:0])
        return loss.losses(rewards, judged)

    targets = (-2.0, -0.7, 0.0, 1.0, 2.5)
    near = _rows(product(NEAR, targets))
    far = _rows(product((*FAR, *(-D for D in FAR[1:])), targets))
    lines = []
    for t, reach in product(targets, (8.0, 1000.0)):
        for start, stop, rises in ((t - reach, t, False), (t, t + reach, True)):
            moving = torch.linspace(start, stop, 401, dtype=torch.float64)
            points = torch.stack([moving, torch.full_like(moving, t)], 1)
            lines.append(_Line(points=points, argument=0, rises=rises, why="must fall towards the target, and rise beyond it"))
    subject = _Subject(function=function, names=("r", "t"), rewards=1, near=near, far=far, lines=tuple(lines))
    return _checked(subject)


def two_answers(loss: RewardLoss) -> PairLoss:
    """Any loss of pairs or prompts as a function of two answers to a prompt: (r_j, r_k, d), each (P,) -> (P,)."""

    def function(better: Tensor, worse: Tensor, difference: Tensor) -> Tensor:
        count = len(better)
        places, gaps = torch.arange(count), difference.detach()
        judged = JudgedBatch(
            prompts=places.repeat(2),
            scores=torch.cat([gaps, torch.zeros_like(gaps)]).double(),
            better=places,
            worse=places + count,
            difference=difference,
        )
        return loss.losses(torch.cat([better, worse]), judged)

    return function


def _checked(subject: _Subject) -> LossCheck:
    findings: list[Finding] = []
    for name, check in _CHECKS.items():
        if findings and not findings[0].ok:
            findings.append(Finding(name=name, ok=False, message="not tried"))
            continue
        try:
            findings.append(check(subject, name))
        except Exception as error:  # a user's function may raise anything
            words = str(error) if isinstance(error, _NoGradient) else f"it raises {type(error).__name__}: {error}"
            findings.append(Finding(name=name, ok=False, message=words, point=subject.at(subject.near[0])))
    return LossCheck(findings=tuple(findings), shift_invariant=findings[0].ok and _shift_invariant(subject))


def _one_a_row(subject: _Subject, name: str) -> Finding:
    points, first = subject.near, subject.at(subject.near[0])
    values: object = subject.function(*points.unbind(1))
    rows = len(points)
    if not isinstance(values, Tensor):
        message = f"it returns {type(values).__name__}, not a tensor"
        return Finding(name=name, ok=False, message=message, point=first)
    if values.shape != (rows,) or not values.is_floating_point():
        message = f"for {rows} of them it returns {values.dtype} of shape {tuple(values.shape)}, not floats of shape ({rows},)"
        return Finding(name=name, ok=False, message=message, point=first)
    values = values.detach()
    if (bad := ~torch.isfinite(values)).any():
        return _failed(subject, name, points, bad, lambda i: f"the loss is {float(values[i])}")
    alone = torch.cat([subject.value(row[None]) for row in points[:: max(1, rows // 16)]])
    again = values[:: max(1, rows // 16)]
    if (bad := (alone - again).abs() > ROUNDING * (1 + again.abs())).any():

        def words(i: int) -> str:
            return f"alone the loss is {float(alone[i]):.6g}, among others {float(again[i]):.6g}: each must depend on its own"

        return _failed(subject, name, points[:: max(1, rows // 16)], bad, words)
    return Finding(name=name, ok=True, message=f"a finite number for each of {rows}, the same alone and among others")


def _differentiable(subject: _Subject, name: str) -> Finding:
    """Automatic gradients are the central differences'; at a kink they lie between the slopes of its two sides."""
    points = subject.near
    values, slopes = subject.slopes(points)
    worst, kink = 0.0, ""
    for argument in range(subject.rewards):
        slope = slopes[:, argument]
        right, left = _one_sided(subject, values, argument, STEP)
        error = ((right + left) / 2 - slope).abs() / (1 + slope.abs())
        bad = ~(error <= EXACT)
        if bad.any():
            closer = _one_sided(subject, values, argument, STEP / 4)
            smooth = [((a - b).abs() <= 1e-2 * (1 + a.abs())) for a, b in zip((right, left), closer, strict=True)]
            low, high = torch.minimum(left, right) - EXACT, torch.maximum(left, right) + EXACT
            bent = bad & smooth[0] & smooth[1] & (low <= slope) & (slope <= high)
            if bent.any():
                kink = f"; a kink at {subject.at(points[int(bent.nonzero()[0])])}"
            bad, error = bad & ~bent, torch.where(bent, 0.0, error)
        if bad.any():
            wrt, numerical = subject.names[argument], (right + left) / 2

            def words(i: int, wrt: str = wrt, slope: Tensor = slope, numerical: Tensor = numerical) -> str:
                return f"d loss / d {wrt} is {float(slope[i]):.6g} by autograd and {float(numerical[i]):.6g} numerically"

            return _failed(subject, name, points, bad, words)
        worst = max(worst, float(error.max()))
    for line in subject.lines:
        if (place := _jump(subject, line)) is not None:
            values = subject.value(place)
            message = f"the loss jumps from {float(values[0]):.6g} to {float(values[1]):.6g} there"
            return Finding(name=name, ok=False, message=message, point=subject.at(place[0]))
    return Finding(name=name, ok=True, message=f"autograd is the numerical gradient (float64, worst {worst:.0e}){kink}")


def _one_sided(subject: _Subject, values: Tensor, argument: int, step: float) -> tuple[Tensor, Tensor]:
    """Slopes to the right and to the left of the near points."""
    moved = torch.zeros_like(subject.near)
    moved[:, argument] = step
    right, left = subject.value(subject.near + moved), subject.value(subject.near - moved)
    return (right - values) / step, (values - left) / step


def _jump(subject: _Subject, line: _Line) -> Tensor | None:
    """(2, A): two points very near each other between which the loss changes by what its gradient does not account for.

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


def _finite(subject: _Subject, name: str) -> Finding:
    exact = subject.slopes(subject.far)
    single = subject.slopes(subject.far.float())
    for what, double, short in zip(("loss", "gradient"), exact, single, strict=True):
        for kind, found in (("float64", double), ("float32", short)):
            rows = found.reshape(len(found), -1)
            if (bad := ~torch.isfinite(rows).all(1)).any():

                def told(i: int, what: str = what, kind: str = kind, rows: Tensor = rows) -> str:
                    worst = next(x for x in rows[i].tolist() if x - x != 0)
                    return f"the {what} is {worst} in {kind}"

                return _failed(subject, name, subject.far, bad, told)
        off = (short.double() - double).abs() > SINGLE * (1 + double.abs())
        if (bad := off.reshape(len(off), -1).any(1)).any():

            def said(i: int, what: str = what, double: Tensor = double, short: Tensor = short) -> str:
                pair = [", ".join(f"{x:.6g}" for x in rows[i].reshape(-1).tolist()) for rows in (short, double)]
                return f"the {what} is {pair[0]} in float32 and {pair[1]} in float64"

            return _failed(subject, name, subject.far, bad, said)
    return Finding(name=name, ok=True, message="value and gradient out to ±1,000, alike in float32 and float64")


def _falling(subject: _Subject, name: str) -> Finding:
    moves = {line.argument: 0.0 for line in subject.lines}
    pulls = dict(moves)
    for line in subject.lines:
        values, slopes = subject.slopes(line.points)
        sign = 1.0 if line.rises else -1.0
        change = values.diff() * sign
        if (bad := ~(change >= -ROUNDING * (1 + values[1:].abs()))).any():

            def words(i: int, line: _Line = line, values: Tensor = values) -> str:
                if not torch.isfinite(values[i : i + 2]).all():
                    return "the loss is not finite, so it cannot be seen to fall"
                there = f"{subject.names[line.argument]} = {float(line.points[i + 1, line.argument]):.6g}"
                return f"it {line.why}: {float(values[i]):.6g} here, {float(values[i + 1]):.6g} at {there}"

            return _failed(subject, name, line.points, bad, words)
        moves[line.argument] = max(moves[line.argument], float(change.max()))
        pulls[line.argument] = max(pulls[line.argument], float((slopes[:, line.argument] * sign).max()))
    for argument, size in moves.items():
        if size <= ROUNDING or pulls[argument] <= ROUNDING:
            what = "the loss never changes with" if size <= ROUNDING else "the gradient is 0 everywhere in"
            message = f"{what} {subject.names[argument]}: nothing can be learnt from it"
            return Finding(name=name, ok=False, message=message, point=subject.at(subject.lines[0].points[0]))
    towards = "towards its target, from either side"
    message = towards if subject.rewards == 1 else "as the preferred reward rises, and as the other one falls"
    return Finding(name=name, ok=True, message=message)


def _shift_invariant(subject: _Subject) -> bool:
    """Whether adding one number to all rewards of the near points leaves the loss as it is."""
    values = subject.value(subject.near)
    for shift in (0.7, -3.0, 100.0):
        moved = subject.near.clone()
        moved[:, : subject.rewards] += shift
        if not bool(((subject.value(moved) - values).abs() <= ROUNDING * (1 + values.abs())).all()):
            return False
    return True


_CHECKS: dict[str, Callable[[_Subject, str], Finding]] = {
    "one loss each": _one_a_row,
    "differentiable": _differentiable,
    "finite": _finite,
    "falling": _falling,
}


def _failed(subject: _Subject, name: str, points: Tensor, bad: Tensor, words: Callable[[int], str]) -> Finding:
    i = int(bad.nonzero()[0])
    return Finding(name=name, ok=False, message=words(i), point=subject.at(points[i]))


def _rows(points: Iterator[Sequence[float]] | Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(list(points), dtype=torch.float64)
