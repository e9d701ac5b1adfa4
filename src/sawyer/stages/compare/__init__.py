"""Comparison: the same prompts to the base, SFT and RL model, side by side, with rewards, gold where known, and win rates."""

from sawyer.stages.compare.compare_stage import compare
