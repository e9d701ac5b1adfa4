"""What can be found out before anything is trained: hours may lie between a mistake and the stage that trips over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sawyer.config import BUILT_IN_SOURCE, Config, parse_function_name, user_function_source
from sawyer.errors import ModelError, RunError
from sawyer.pipeline.stage_graph import builds_on, product
from sawyer.runs import Layout, Run, read_manifest
from sawyer.worlds import VERSION


def check_only(config: Config, only: str, required_section: Sequence[str]) -> None:
    if only not in required_section:
        raise RunError(
            f"the config has no section `{only}`",
            expected=f"one of: {', '.join(required_section)}",
            todo=f"add `{only}:` to the file, or name another stage",
        )
    layout = Layout(Path(config.out))
    state = read_manifest(layout.manifest).get("stages", {})
    missing = [
        p
        for p in builds_on(config, only)
        if p in required_section and not (state.get(p, {}).get("status") in ("done", "waiting") and product(layout, p).exists())
    ]
    if missing:
        raise RunError(
            f"{only} builds on {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not done in {layout.root}",
            todo=f"run `sawyer {missing[0]}` with the same file first, or `sawyer run` for all stages",
        )


def check_world(config: Config) -> None:
    """The packaged base model must come from the world as it is now."""
    if config.world is None or config.model is None:
        return
    note = Path(config.model) / "world.txt"
    if note.exists() and note.read_text().strip() != VERSION:
        raise ModelError(
            f"the base model in {config.model} was trained on world version {note.read_text().strip()}",
            expected=f"version {VERSION}",
            why="it would be asked about facts it was never told",
            todo="train it again: `make world-base`",
        )


def foreign_code(config: Config, stage: str) -> str:
    """Which code the config names for a stage, and of which files; empty where it is ours. A config may come from others."""
    loss = config.reward.loss if stage == "reward" and config.reward is not None else ""
    losses = [loss] if parse_function_name(loss) else []
    rewards = [part.function for part in config.rl.rewards if part.function] if stage == "rl" and config.rl is not None else []
    foreign = [name for name in dict.fromkeys([*losses, *rewards]) if user_function_source(name) != BUILT_IN_SOURCE]
    return ", ".join(f"{name} ({user_function_source(name)})" for name in foreign)


def name_code(config: Config, run: Run, todo: Sequence[str]) -> None:
    """Say which code the config names before any of it is imported."""
    if config.trust_remote_code:
        for stage in [stage for stage in todo if run.manifest.stage(stage).status != "done"][:1]:
            run.journal.event(stage, "code", message="trust_remote_code: Python that lies with the models may run")
    for stage in ("reward", "rl"):
        named = foreign_code(config, stage)
        if named and stage in todo and run.manifest.stage(stage).status != "done":
            run.journal.event(stage, "code", message=f"{stage} runs Python that the config names: {named}")
