"""Pure mathematics: tensors and floats in, tensors and floats out. No device, config, tokenizer or file gets in."""

from sawyer.maths.advantages import Advantages, explained_variance, gae
from sawyer.maths.control import AdaptiveKL, FixedKL, calibration_error, linear_schedule
from sawyer.maths.diversity import distinct_n
from sawyer.maths.ensembles import COMBINATIONS, disagreement, ensemble_cautious, ensemble_mean, ensemble_min
from sawyer.maths.groups import grpo_advantages, grpo_kl, rloo_advantages
from sawyer.maths.kl import best_of_n_kl, kl_k1, kl_k2, kl_k3
from sawyer.maths.labels import LABEL_LOSSES, each_label, one_label
from sawyer.maths.logprobs import token_logprobs
from sawyer.maths.loss_check import Finding, LossCheck, Point, check_loss, check_pair
from sawyer.maths.loss_curves import Example, LossCurve, LossCurves, loss_curves, worked_example
from sawyer.maths.losses import PolicyLoss, ppo_policy, ppo_value
from sawyer.maths.losses_reward import (
    PAIR_LOSSES,
    REWARD_LOSSES,
    WEIGHTS,
    Judged,
    Objective,
    OfPairs,
    RewardLoss,
    Standard,
    Weights,
    by_item,
    by_prompt,
    centering,
    listwise,
    margin,
    plain,
    regression,
    scaled,
    squared,
)
from sawyer.maths.masked import keep, masked_mean, masked_sum, masked_var, whiten
from sawyer.maths.preference import DpoLoss, dpo_loss, response_log_ratio
from sawyer.maths.rewards import clip_scores, missing_eos, token_rewards
from sawyer.maths.thin import Thinned, mean_cosine, thin

__all__ = [
    "COMBINATIONS",
    "LABEL_LOSSES",
    "PAIR_LOSSES",
    "REWARD_LOSSES",
    "WEIGHTS",
    "AdaptiveKL",
    "Advantages",
    "DpoLoss",
    "Example",
    "Finding",
    "FixedKL",
    "Judged",
    "LossCheck",
    "LossCurve",
    "LossCurves",
    "Objective",
    "OfPairs",
    "Point",
    "PolicyLoss",
    "RewardLoss",
    "Standard",
    "Thinned",
    "Weights",
    "best_of_n_kl",
    "by_item",
    "by_prompt",
    "calibration_error",
    "centering",
    "check_loss",
    "check_pair",
    "clip_scores",
    "disagreement",
    "distinct_n",
    "dpo_loss",
    "each_label",
    "ensemble_cautious",
    "ensemble_mean",
    "ensemble_min",
    "explained_variance",
    "gae",
    "grpo_advantages",
    "grpo_kl",
    "keep",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "linear_schedule",
    "listwise",
    "loss_curves",
    "margin",
    "masked_mean",
    "masked_sum",
    "masked_var",
    "mean_cosine",
    "missing_eos",
    "one_label",
    "plain",
    "ppo_policy",
    "ppo_value",
    "regression",
    "response_log_ratio",
    "rloo_advantages",
    "scaled",
    "squared",
    "thin",
    "token_logprobs",
    "token_rewards",
    "whiten",
    "worked_example",
]
