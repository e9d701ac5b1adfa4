"""Pure mathematics: tensors and floats in, tensors and floats out. No device, config, tokenizer or file gets in."""

from sawyer.maths.advantages import explained_variance, gae
from sawyer.maths.classification_losses import LABEL_LOSSES
from sawyer.maths.diversity import distinct_n, token_entropies
from sawyer.maths.dpo import DpoLoss, dpo_loss, response_log_ratio
from sawyer.maths.ensembles import COMBINATIONS, disagreement
from sawyer.maths.group_advantages import grpo_advantages, grpo_kl, rloo_advantages, zero_variance
from sawyer.maths.kl import best_of_n_kl, kl_k1
from sawyer.maths.kl_controllers import AdaptiveKL, FixedKL, expected_calibration_error, linear_schedule
from sawyer.maths.least_squares import moments, ridge
from sawyer.maths.logprobs import projected_logprobs, token_logprobs
from sawyer.maths.loss_check import LossCheck, check_loss
from sawyer.maths.loss_curves import LossCurve, LossCurves, WorkedExample, loss_curves, worked_example
from sawyer.maths.masked import masked_mean, masked_sum, whiten
from sawyer.maths.near_duplicates import deduplicate, mean_cosine
from sawyer.maths.overoptimisation_fit import best_of_n_gain, best_of_n_mean, fit_best_of_n, fit_rl, rl_gain
from sawyer.maths.ppo_losses import PolicyLoss, ppo_policy, ppo_value
from sawyer.maths.reward_losses import REWARD_LOSSES, WEIGHTS, JudgedBatch, Objective, RewardLoss, ScoreNormalizer
from sawyer.maths.token_rewards import clip_scores, missing_eos, token_rewards
