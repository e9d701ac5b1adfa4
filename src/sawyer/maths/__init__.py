"""Pure mathematics: tensors and floats in, tensors and floats out. No device, config, tokenizer or file gets in."""

from sawyer.maths.advantages import Advantages, explained_variance, gae
from sawyer.maths.control import AdaptiveKL, FixedKL, calibration_error, linear_schedule
from sawyer.maths.diversity import distinct_n
from sawyer.maths.kl import best_of_n_kl, kl_k1, kl_k2, kl_k3
from sawyer.maths.logprobs import token_logprobs
from sawyer.maths.losses import (
    PAIR_LOSSES,
    PolicyLoss,
    centering,
    margin,
    plain,
    ppo_policy,
    ppo_value,
    scaled,
    squared,
)
from sawyer.maths.masked import keep, masked_mean, masked_sum, masked_var, whiten
from sawyer.maths.rewards import clip_scores, missing_eos, token_rewards

__all__ = [
    "PAIR_LOSSES",
    "AdaptiveKL",
    "Advantages",
    "FixedKL",
    "PolicyLoss",
    "best_of_n_kl",
    "calibration_error",
    "centering",
    "clip_scores",
    "distinct_n",
    "explained_variance",
    "gae",
    "keep",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "linear_schedule",
    "margin",
    "masked_mean",
    "masked_sum",
    "masked_var",
    "missing_eos",
    "plain",
    "ppo_policy",
    "ppo_value",
    "scaled",
    "squared",
    "token_logprobs",
    "token_rewards",
    "whiten",
]
