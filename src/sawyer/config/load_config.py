"""From a run's file and overrides to a validated config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sawyer.config.error_messages import explain, section_of
from sawyer.config.read_yaml import Empty, parse_yaml, read_yaml
from sawyer.config.schema import Config
from sawyer.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"
STARTS = {  # where a user starts, and the file for it
    "base": "template.yaml",
    "instruct": "instruct.yaml",
    "reward": "reward.yaml",
    "rl": "rl.yaml",
    "dpo": "dpo.yaml",
}
WORLD_BASE = Path(__file__).parent.parent / "worlds" / "base"


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run's file and apply `key.path=value` overrides. Raises ConfigError for any mistake in either."""
    tree = _fill_empty(read_yaml(Path(path)), Config)
    for override in overrides:
        _apply_override(tree, override)
    return parse_config(tree, where=str(path), overrides=overrides)


def parse_config(tree: Mapping[str, Any], *, where: str = "config", overrides: Sequence[str] = ()) -> Config:
    """A tree of plain values as a config. Raises ConfigError: unknown names come with the nearest known one, and each mistake
    with its source, `where` or the override that set the value."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error, where, overrides) from error


def demo_config(out: str, seed: int, rater: str = "honest") -> Config:
    """The demo's config: the built-in world from its packaged base model, with its files in `out`/data."""
    tree = read_yaml(PRESETS / "demo.yaml")
    data = Path(out) / "data"
    tree |= {"out": out, "seed": seed, "model": str(WORLD_BASE), "world": {"rater": rater}}
    tree["sft"]["data"] = [str(data / "instructions.json")]
    tree["collect"]["prompts"] = tree["rl"]["prompts"] = [str(data / "prompts.jsonl")]
    tree["reward"]["data"] = [str(data / "comparisons.json")]
    tree["compare"]["prompts"] = [str(data / "held_out.jsonl")]
    return parse_config(tree, where="the demo's preset")


def with_settings(config: Config, changes: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """The config with some settings or whole sections replaced, then `key.path=value` overrides, validated as a file is."""
    tree = config.model_dump(mode="json") | dict(changes)
    for override in overrides:
        _apply_override(tree, override)
    return parse_config(tree)


def template_file(start: str = "base") -> str:
    """A commented sawyer.yaml for one of `STARTS`. Raises ConfigError for another start."""
    if start not in STARTS:
        raise ConfigError(f"there is no start {start!r}", expected=f"one of: {', '.join(STARTS)}", todo="name one of them")
    return (PRESETS / STARTS[start]).read_text(encoding="utf-8")


def _fill_empty(value: Any, annotation: Any) -> Any:
    """The tree without empty values: a section without settings (`compare:`) has its defaults, anything else is null."""
    section = section_of(annotation)
    if isinstance(value, Empty):
        return {} if section is not None else None
    if isinstance(value, dict):
        fields = section.model_fields if section is not None else {}
        return {k: _fill_empty(v, fields[k].annotation if k in fields else None) for k, v in value.items()}
    return [_fill_empty(item, None) for item in value] if isinstance(value, list) else value


def _apply_override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    path = name.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {override!r}", expected="key=value, such as rl.kl.coefficient=0.1")
    try:
        value = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"override {override!r}: {error.given}", expected="a YAML value") from error
    if isinstance(value, Empty):
        raise ConfigError(
            f"override {override!r} gives no value", expected="key=value", todo=f"to leave it out: {name.strip()}=null"
        )
    section = tree
    for part in path[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise ConfigError(f"override {override!r}: `{part}` is a value, not a section")
    section[path[-1]] = _fill_empty(value, None)
