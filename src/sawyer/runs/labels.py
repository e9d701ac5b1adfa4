"""Names of stages and decoding settings for people, and times in words: once for terminal and page."""

from __future__ import annotations

from collections.abc import Mapping

STAGES: Mapping[str, str] = {  # in the order in which they are done
    "base": "Base model",
    "classify": "Classifier",
    "sft": "Supervised fine-tuning",
    "collect": "Collected answers",
    "reward": "Reward model",
    "rl": "Reinforcement learning",
    "compare": "Comparison",
}
SHORT: Mapping[str, str] = {
    "base": "Base",
    "classify": "Classify",
    "sft": "SFT",
    "collect": "Collect",
    "reward": "Reward",
    "rl": "RL",
    "compare": "Compare",
}
SETTINGS: Mapping[str, str] = {
    "greedy": "greedy",
    "t07": "temperature 0.7",
    "t1": "temperature 1",
    "deliberate": "beam search",
    "best_of_8": "best of 8",
    "sample": "sampled",
}


def clock(seconds: float) -> str:
    """7322 -> 2 h 2 min; 59.7 -> 60 s."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
