"""SAWYER: an RLHF system for one machine.

    import sawyer

    summary = sawyer.run("sawyer.yaml", "rl.kl.coefficient=0.1")
    for reply in sawyer.Chat(summary["out"]).ask("What is Google?"):
        print(reply.model, reply.reward, reply.response)
    print(sawyer.Scorer(summary["out"])(["What is Google?"], ["A company."]))

Everything is imported when it is first used: `import sawyer` alone is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sawyer.chat import Chat, Reply
    from sawyer.config import Config, load_config
    from sawyer.errors import (
        ConfigError,
        DataError,
        Interrupted,
        ModelError,
        RunError,
        SawyerError,
        TrainingError,
        WorldError,
    )
    from sawyer.models import Classifier, RewardScorer
    from sawyer.models import TextScorer as Scorer
    from sawyer.pipeline import demo
    from sawyer.report import build as report
    from sawyer.studies import study_algorithms, study_losses, study_overoptimisation, study_seeds
    from sawyer.version import __version__

# Our name -> (where it lives, what it is called there).
_ORIGINS = {
    "Chat": ("sawyer.chat", "Chat"),
    "Classifier": ("sawyer.models", "Classifier"),
    "Config": ("sawyer.config", "Config"),
    "ConfigError": ("sawyer.errors", "ConfigError"),
    "DataError": ("sawyer.errors", "DataError"),
    "Interrupted": ("sawyer.errors", "Interrupted"),
    "ModelError": ("sawyer.errors", "ModelError"),
    "Reply": ("sawyer.chat", "Reply"),
    "RewardScorer": ("sawyer.models", "RewardScorer"),
    "RunError": ("sawyer.errors", "RunError"),
    "SawyerError": ("sawyer.errors", "SawyerError"),
    "Scorer": ("sawyer.models", "TextScorer"),
    "TrainingError": ("sawyer.errors", "TrainingError"),
    "WorldError": ("sawyer.errors", "WorldError"),
    "__version__": ("sawyer.version", "__version__"),
    "demo": ("sawyer.pipeline", "demo"),
    "load_config": ("sawyer.config", "load_config"),
    "report": ("sawyer.report", "build"),
    "study_algorithms": ("sawyer.studies", "study_algorithms"),
    "study_losses": ("sawyer.studies", "study_losses"),
    "study_overoptimisation": ("sawyer.studies", "study_overoptimisation"),
    "study_seeds": ("sawyer.studies", "study_seeds"),
}

__all__ = [
    "Chat",
    "Classifier",
    "Config",
    "ConfigError",
    "DataError",
    "Interrupted",
    "ModelError",
    "Reply",
    "RewardScorer",
    "RunError",
    "SawyerError",
    "Scorer",
    "TrainingError",
    "WorldError",
    "__version__",
    "demo",
    "load_config",
    "report",
    "run",
    "study_algorithms",
    "study_losses",
    "study_overoptimisation",
    "study_seeds",
]


def run(
    config: Config | str | Path,
    *overrides: str,
    only: str | None = None,
    listeners: Sequence[Callable[[str, dict[str, Any]], None]] = (),
) -> dict[str, Any]:
    """Do what a config, or a run's file with `key=value` overrides, asks for; returns the figures of summary.json.

    `only` names one stage. `listeners` are called as (kind, row) with every metric, event, sample and step. Raises SawyerError.
    """
    from sawyer.config import load_config
    from sawyer.errors import ConfigError
    from sawyer.pipeline import run as run_config

    if isinstance(config, str | Path):
        return run_config(load_config(config, overrides), only=only, listeners=listeners)
    if overrides:
        raise ConfigError(
            "overrides were given beside a config that is already loaded",
            expected="overrides with a file",
            todo="give them to sawyer.load_config(path, overrides)",
        )
    return run_config(config, only=only, listeners=listeners)


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module 'sawyer' has no attribute {name!r}")
    module, origin = _ORIGINS[name]
    value = getattr(import_module(module), origin)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
