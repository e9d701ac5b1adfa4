"""Reward model: learn from scored answers which of two people prefer.

Loss of a pair, s_j > s_k: -log sigmoid((r_j - r_k) * (s_j - s_k)^2) by default. All pairs of a prompt are in one batch and
each answer runs through the network once. Afterwards the SFT model's own answers set the reward's zero and unit.
"""

from sawyer.stages.reward.reward_stage import train
