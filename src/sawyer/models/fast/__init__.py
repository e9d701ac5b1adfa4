"""Faster ways to what a plain forward pass also computes: packed rows, a static cache, prepacked weights. Its one door.

`SAWYER_FAST=off` in the environment switches all of it off; results stay the same, to rounding.
"""

from sawyer.models.fast.compat import (
    is_adapter_layer,
    is_conv1d,
    keep_cache_rows,
    model_families,
    set_active_adapter,
    tanh_gelus,
)
from sawyer.models.fast.cpu_features import multiplies_bf16
from sawyer.models.fast.kv_cache import StaticCacheDecoder, rows_that_fit, static_cache_problem
from sawyer.models.fast.packing import missing_to_multiple, packs_exactly, real_states
from sawyer.models.fast.path import FastPath, fast_path
from sawyer.models.fast.prepacked_linear import freeze_for_inference, prepack_weights
