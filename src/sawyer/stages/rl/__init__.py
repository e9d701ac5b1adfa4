"""Reinforcement learning: PPO with a KL penalty to the SFT model (Stiennon et al. 2020; details as in Huang et al. 2024).

How this differs from the textbook: one whole response is an episode and a token an action; the reward is a penalty
`-coefficient * log(pi/pi_ref)` at each token and the reward model's score at the last one; the kept model is not the last
one but the best on held-out prompts within the KL budget.
"""

from sawyer.stages.rl.reward_sources import open_scorer
from sawyer.stages.rl.rl_prompts import load_prompts
from sawyer.stages.rl.rl_stage import train
from sawyer.stages.rl.rollout import RolloutSettings, collect_rollout
