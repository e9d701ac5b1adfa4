"""What was asked: the typed tree, and reading it."""

from sawyer.config.load import WORLD_BASE, checked, demo, fields, load, template_file, with_settings
from sawyer.config.own import OURS, own_file, own_files, own_function, own_names, own_source
from sawyer.config.schema import (
    KNOWN_TO,
    LOSSES,
    Algorithm,
    Collect,
    Config,
    Ensemble,
    Guard,
    GuardName,
    Kl,
    Reward,
    RewardPart,
    Rl,
    Sft,
    wanted,
)
from sawyer.config.sections import Base, Classify, Compare, Lora, World
from sawyer.config.start import Start, start_of

__all__ = [
    "KNOWN_TO",
    "LOSSES",
    "OURS",
    "WORLD_BASE",
    "Algorithm",
    "Base",
    "Classify",
    "Collect",
    "Compare",
    "Config",
    "Ensemble",
    "Guard",
    "GuardName",
    "Kl",
    "Lora",
    "Reward",
    "RewardPart",
    "Rl",
    "Sft",
    "Start",
    "World",
    "checked",
    "demo",
    "fields",
    "load",
    "own_file",
    "own_files",
    "own_function",
    "own_names",
    "own_source",
    "start_of",
    "template_file",
    "wanted",
    "with_settings",
]
