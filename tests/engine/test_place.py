"""Precision is one decision with a reason."""

from __future__ import annotations

import pytest
import torch

from sawyer.engine import choose_place
from sawyer.engine.place import BF16_WIDTH
from sawyer.errors import ConfigError


def test_what_the_config_asks_for_is_taken() -> None:
    assert choose_place("cpu", "bf16", width=8).precision == "bf16"
    assert choose_place("cpu", "fp32", width=8192).precision == "fp32"


def test_a_narrow_model_on_a_processor_stays_in_fp32_and_the_reason_says_so() -> None:
    place = choose_place("cpu", "auto", width=BF16_WIDTH - 1)
    assert place.precision == "fp32"
    assert place.reason.startswith("cpu, fp32: ")


def test_autocast_multiplies_in_the_chosen_precision() -> None:
    weight = torch.ones(2, 2)
    with choose_place("cpu", "bf16", width=8).autocast():
        assert (weight @ weight).dtype == torch.bfloat16
    with choose_place("cpu", "fp32", width=8).autocast():
        assert (weight @ weight).dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        choose_place("cuda", "auto", width=8)
