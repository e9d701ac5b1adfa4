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

# Where each name lives; `a as b` is a under another name.
_EXPORTS = {
    "sawyer.chat": "Chat, Reply",
    "sawyer.config": "Config, load_config",
    "sawyer.errors": "ConfigError, DataError, Interrupted, ModelError, RunError, SawyerError, TrainingError, WorldError",
    "sawyer.models": "Classifier, RewardScorer, TextScorer as Scorer",
    "sawyer.pipeline": "demo",
    "sawyer.report": "build as report",
    "sawyer.studies": "study_algorithms, study_losses, study_overoptimisation, study_seeds",
    "sawyer.version": "__version__",
}
_ORIGINS = {
    export.split(" as ")[-1]: (module, export.split(" as ")[0])
    for module, exports in _EXPORTS.items()
    for export in exports.split(", ")
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
