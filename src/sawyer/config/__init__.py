"""What was asked: the typed tree, and reading it."""

from sawyer.config.load import WORLD_BASE, checked, demo, fields, load, template_file, with_settings
from sawyer.config.own import own_file, own_files, own_function, own_names
from sawyer.config.schema import (
    LOSSES,
    Base,
    Classify,
    Collect,
    Compare,
    Config,
    Ensemble,
    Kl,
    Reward,
    RewardPart,
    Rl,
    Sft,
    World,
    wanted,
)

__all__ = [
    "LOSSES",
    "WORLD_BASE",
    "Base",
    "Classify",
    "Collect",
    "Compare",
    "Config",
    "Ensemble",
    "Kl",
    "Reward",
    "RewardPart",
    "Rl",
    "Sft",
    "World",
    "checked",
    "demo",
    "fields",
    "load",
    "own_file",
    "own_files",
    "own_function",
    "own_names",
    "template_file",
    "wanted",
    "with_settings",
]
