"""How members' scores become one reward, by hand."""

from __future__ import annotations

import pytest
import torch

from sawyer.maths import COMBINATIONS, disagreement
from sawyer.maths.ensembles import ensemble_mean, ensemble_mean_minus_variance, ensemble_min

# Three members, two answers. Means 2 and 0; deviations from them (-1, 0, 1) and (-3, 1, 2).
SCORES = torch.tensor([[1.0, -3.0], [2.0, 1.0], [3.0, 2.0]], dtype=torch.float64)
VARIANCE = [2 / 3, 14 / 3]


def test_by_hand() -> None:
    assert ensemble_mean(SCORES, 9.0).tolist() == [2.0, 0.0]
    assert ensemble_min(SCORES, 9.0).tolist() == [1.0, -3.0]
    assert ensemble_mean_minus_variance(SCORES, 0.5).tolist() == pytest.approx([2 - 0.5 * 2 / 3, -0.5 * 14 / 3])
    assert ensemble_mean_minus_variance(SCORES, 0.0).tolist() == [2.0, 0.0]
    assert disagreement(SCORES).tolist() == pytest.approx([value**0.5 for value in VARIANCE])


def test_the_sample_variance_or_a_reward_for_variance_would_be_seen() -> None:
    found = ensemble_mean_minus_variance(SCORES, 0.5).tolist()
    assert found != pytest.approx([2 - 0.5 * 1.0, -0.5 * 7.0])  # divided by M - 1
    assert found != pytest.approx([2 + 0.5 * 2 / 3, 0.5 * 14 / 3])
    assert found != pytest.approx([2 - 0.5 * VARIANCE[0] ** 0.5, -0.5 * VARIANCE[1] ** 0.5])  # the deviation


def test_members_that_agree() -> None:
    same = torch.tensor([[0.5, -1.0]] * 4)
    for combine in COMBINATIONS.values():
        assert combine(same, 3.0).tolist() == pytest.approx([0.5, -1.0])
    assert disagreement(same).tolist() == [0.0, 0.0]
