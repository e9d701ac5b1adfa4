"""Which stages there are, in which order, what each builds on and what it leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sawyer.config import Config, learns_from_collected, start_of
from sawyer.runs import Layout, Run, commit_of, round_before

# A stage's door, imported only when the stage runs: a finished run says so without importing torch.
DOORS: Mapping[str, tuple[str, str]] = {
    "base": ("sawyer.stages.base", "train"),
    "classify": ("sawyer.stages.classify", "train"),
    "sft": ("sawyer.stages.sft", "train"),
    "collect": ("sawyer.stages.collect", "collect"),
    "reward": ("sawyer.stages.reward", "train"),
    "rl": ("sawyer.stages.rl", "train"),
    "compare": ("sawyer.stages.compare", "compare"),
}
STAGES = tuple(DOORS)
# What each stage may build on, besides its own section and the settings in COMMON; `builds_on` says what it does in a run.
PARENTS: Mapping[str, tuple[str, ...]] = {
    "base": (),
    "classify": ("base",),
    "sft": ("base",),
    "collect": ("base", "sft"),
    "reward": ("base", "sft", "collect"),
    "rl": ("base", "sft", "collect", "reward"),
    "compare": ("base", "sft", "reward", "rl"),
}
# Settings that decide every stage's outcome. `micro_batch_tokens` is none: it may be lowered when memory runs out.
COMMON = ("seed", "model", "template", "precision", "device", "world")
# The stages that `lora` decides: the others read what these leave, whole models or adapters.
BY_LORA = ("classify", "sft", "reward", "rl")
# The reward's zero and unit come from answers sampled as RL samples: these settings of `rl` decide the reward stage's outcome.
UNIT = ("rl.max_new_tokens", "rl.temperature")

PIN = "commit "  # stands before a hub id's commit among a stage's parents


def product(layout: Layout, stage: str) -> Path:
    """What a finished stage leaves, and later stages build on: written whole or not there."""
    return {"collect": layout.answers, "compare": layout.compare}.get(stage, layout.model(stage))


def parents_of(config: Config, run: Run, stage: str) -> dict[str, str]:
    """What the stage builds on, by a hash of its content: models, collected answers, the base model's folder.

    A hub id counts by its commit (`pins_of`). Where the stage is still to be done, all of it is read. Raises RunError for a
    damaged model of this run.
    """
    hashes = dict[str, str]()
    reread = run.manifest.stage(stage).status != "done"
    for parent in builds_on(config, stage):
        path = product(run.layout, parent)
        if parent == "base" and config.model is not None:
            path = Path(config.model)
            if not os.path.isdir(path):
                continue
        if path.exists():
            hashes[parent] = run.manifest.content_hash(parent, path, reread=reread)
    if learns_from_collected(config, stage) and run.layout.judgements.exists():
        hashes["judgements"] = run.manifest.content_hash("judgements", run.layout.judgements, reread=reread)
    if stage == "compare" and config.rl is not None and (before := round_before(run.layout)):
        name, path = before
        hashes[name] = run.manifest.content_hash(name, path, reread=reread)
    for name, source in named_models(config, stage).items():
        if os.path.isdir(source):
            hashes[name] = run.manifest.content_hash(name, Path(source), reread=reread)
    return hashes | pins_of(config, stage)


def pins_of(config: Config, stage: str) -> dict[str, str]:
    """The hub ids that the stage loads, each by the commit that the cache has; none for what was never loaded."""
    sources = named_models(config, stage)
    if "base" in builds_on(config, stage) and config.model is not None:
        sources = {"base": config.model, **sources}
    commits = {name: commit_of(source) for name, source in sources.items() if not os.path.isdir(source)}
    return {name: f"{PIN}{commit}" for name, commit in commits.items() if commit is not None}


def builds_on(config: Config, stage: str) -> tuple[str, ...]:
    """What the stage reads in this run, of the stages that the config names; `base` is also the model that the file gives."""
    if stage == "base":
        return ()
    there = {name for name in STAGES if getattr(config, name) is not None} | ({"base"} if config.model is not None else set())
    if stage == "compare":
        return tuple(name for name in PARENTS[stage] if name in there)
    # Adapters are nothing without the base model, to which they belong.
    reads = {"base"} if config.lora is not None and stage != "classify" else set()
    starts = [start_of(config, stage)]
    if stage == "reward":
        reads |= {"collect"}
        starts += [start_of(config, "rl")] if config.has_policy else []  # whose answers set the reward's zero and unit
    if stage == "rl":
        # DPO reads the collected answers itself; the other algorithms know them through the reward model.
        reads |= {"reward"} | ({"collect"} if config.rl is not None and config.rl.algorithm == "dpo" else set())
    reads |= {start.stage or "base" for start in starts if start is not None and (start.stage or start.source == config.model)}
    return tuple(name for name in PARENTS[stage] if name in reads & there)


def named_models(config: Config, stage: str) -> dict[str, str]:
    """Folders or hub ids that a stage's own section names, by the setting that names them."""
    if stage == "classify" and config.classify is not None and config.classify.model is not None:
        return {"classify.model": config.classify.model}
    if stage == "reward" and config.reward is not None and config.reward.model is not None:
        return {"reward.model": config.reward.model}
    if stage == "rl" and config.rl is not None:
        parts = (part for part in config.rl.rewards if part.model is not None and not part.is_stage)
        return {f"rl.rewards.{part.name}": str(part.model) for part in parts}
    if stage == "compare" and config.compare is not None:
        judge = {} if config.compare.reward is None else {"compare.reward": config.compare.reward}
        return {f"compare.models.{name}": source for name, source in config.compare.models.items()} | judge
    return {}
