"""Least squares in closed form, from sums over observations that can be added up and forgotten."""

from __future__ import annotations

import torch
from torch import Tensor

NOTHING = 1e-6  # a variance below this share of the mean square is rounding of fp32 sums


def moments(features: Tensor, targets: Tensor) -> Tensor:
    """features (N, d), targets (N,) -> (d + 2, d + 2) float64: the sum over observations of z z', z = (features, 1, target).

    Those of two sets of observations added up are those of both; multiplied by c, those of observations that count c each. The
    products are summed in the features' own precision.
    """
    z = torch.cat([features, torch.ones_like(features[:, :1]), targets.unsqueeze(1).to(features)], 1)
    return (z.T @ z).double()


def ridge(sums: Tensor, strength: float) -> Tensor:
    """(d + 1,) float64: w and, last, c which make sum (y - w x - c)^2 + strength v |w|^2 least, v the features' mean variance.

    `sums` (d + 2, d + 2) are `moments` of at least one observation. `strength` is in observations: about as many have to
    support a weight before it grows. The constant is not drawn towards 0. Features that do not vary have v = 1, so that
    their weights are 0. (Hoerl and Kennard 1970.)
    """
    products, count = sums[:-1, :-1], sums[-2, -2]
    squares, means = products.diagonal()[:-1] / count, products[-1, :-1] / count
    variance = float((squares - means.square()).mean())
    varies = variance > NOTHING * float(squares.mean())
    penalty = torch.full_like(products[0], strength * variance if varies else 1.0)
    penalty[-1] = 0.0
    weights: Tensor = torch.linalg.solve(products + penalty.diag(), sums[:-1, -1])
    return weights
