"""What PPO, RLOO and GRPO differ in: how an answer's advantage is found, and where the KL to the SFT model is paid.

| | advantage | KL | value network |
|---|---|---|---|
| ppo | GAE over tokens, whitened over the batch | k1, in the reward of each token | its own, a head on the policy, or none |
| rloo | reward less the mean of the prompt's other answers | k1, in the reward | none |
| grpo | score, standardised within the prompt's answers | k3, in the loss | none |

Sampling, scoring, the clipped policy loss, epochs and minibatches are the same. All three see the same scores.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sawyer.config import Rl
from sawyer.maths import gae, grpo_advantages, rloo_advantages, token_rewards, whiten


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """B responses, T tokens; 0 where not counted."""

    rewards: Tensor  # (B, T), the score on the last token, with the KL penalties where they are paid here
    advantages: Tensor  # (B, T)
    returns: Tensor | None  # (B, T), what the values are to become; None where there are none
    kl_in_loss: float  # what a nat of k3 costs in the loss; 0 where the KL is paid in the rewards


def advantages_of(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor | None,
    mask: Tensor,
    coefficient: float,
    asked: Rl,
) -> Estimated:
    """The rewards and advantages of the algorithm that is asked for. scores (B,); the others (B, T).

    The answers to one prompt stand next to each other, `asked.group_size` of them.
    """
    in_loss = coefficient if asked.algorithm == "grpo" else 0.0
    rewards = token_rewards(scores, logprobs, ref_logprobs, mask, coefficient - in_loss)
    if asked.algorithm == "ppo":
        assert values is not None
        found = gae(rewards, values, mask, asked.gamma, asked.gae_lambda)
        return Estimated(rewards=rewards, advantages=whiten(found.advantages, mask), returns=found.returns, kl_in_loss=in_loss)
    if asked.algorithm == "rloo":
        advantages = rloo_advantages(rewards, mask, asked.group_size)
    else:
        advantages = grpo_advantages(scores, mask, asked.group_size)
    return Estimated(rewards=rewards, advantages=advantages, returns=None, kl_in_loss=in_loss)
