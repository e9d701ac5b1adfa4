"""From a file and overrides to a checked config, with errors in a user's words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from sawyer.config.schema import Config
from sawyer.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"
WORLD_BASE = Path(__file__).parent.parent / "worlds" / "base"


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run's file and apply `key.path=value` overrides. Raises ConfigError for whatever is not right with either."""
    tree = _read(Path(path))
    for override in overrides:
        _override(tree, override)
    return checked(tree, where=str(path))


def checked(tree: Mapping[str, Any], *, where: str = "config") -> Config:
    """A tree of plain values as a config; unknown names are refused with the nearest known one."""
    _known(tree, Config, "", where)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_told(item, where) for item in error.errors()), todo=f"mend {where}") from error


def demo(out: str, seed: int, rater: str = "honest") -> Config:
    """The demo's config: the built-in world from its packaged base model, its files in `out`/data."""
    tree = yaml.load((PRESETS / "demo.yaml").read_text(encoding="utf-8"), Loader=_Loader)
    data = Path(out) / "data"
    tree |= {"out": out, "seed": seed, "model": str(WORLD_BASE), "world": {"rater": rater}}
    tree["sft"]["data"] = [str(data / "instructions.json")]
    tree["collect"]["prompts"] = tree["rl"]["prompts"] = [str(data / "prompts.jsonl")]
    tree["reward"]["data"] = [str(data / "comparisons.json")]
    tree["compare"]["prompts"] = [str(data / "held_out.jsonl")]
    return checked(tree, where="the demo's preset")


def template_file() -> str:
    """A commented sawyer.yaml to start from."""
    return (PRESETS / "template.yaml").read_text(encoding="utf-8")


def fields() -> list[tuple[str, str, str]]:
    """(dotted name, default, description) of every setting, for the reference."""
    return list(_fields(Config, ""))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats (`1e-3`, `5.0e-4`), and no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(
                    f"line {key_node.start_mark.line + 1}: `{key}` stands there twice",
                    expected="each name once",
                    why="one of the two would be ignored",
                    todo="remove one",
                )
            seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError(
            f"there is no file {path}", expected="a run's file", todo="write one with `sawyer init`, or check the path"
        )
    if path.is_dir():
        raise ConfigError(f"{path} is a folder", expected="a run's file, such as sawyer.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not text in UTF-8 (byte {error.start})", expected="a YAML file", todo="save it as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        tree = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{path}{line} is not YAML: {getattr(error, 'problem', None) or error}",
            todo="check the indentation and the colons near that line",
        ) from error
    if tree is None:
        raise ConfigError(f"{path} is empty", expected="at least a model and a stage", todo="see `sawyer init`")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}", expected="names with values, such as `model: gpt2`")
    return tree


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"override {override!r}", expected="key=value, such as rl.kl.coefficient=0.1")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: {text!r} is not a value", expected="a YAML value") from error
    here = tree
    *path, last = name.split(".")
    for part in path:
        step = here.get(part)
        if step is None:
            step = here[part] = {}
        if not isinstance(step, dict):
            raise ConfigError(f"override {override!r}: `{part}` is a value, not a section")
        here = step
    here[last] = value


def _known(tree: Mapping[str, Any], model: type[BaseModel], prefix: str, where: str) -> None:
    for name, value in tree.items():
        if name not in model.model_fields:
            near = difflib.get_close_matches(str(name), list(model.model_fields), n=1, cutoff=0.5)
            elsewhere = [dotted for dotted, _, _ in _fields(Config, "") if dotted.split(".")[-1] == name]
            guess = f"{prefix}{near[0]}" if near else elsewhere[0] if elsewhere else ""
            raise ConfigError(
                f"{where}: unknown setting `{prefix}{name}`" + (f"; did you mean `{guess}`?" if guess else ""),
                expected=f"one of: {', '.join(model.model_fields)}",
                why="a setting that is not known would be ignored without a word",
            )
        section = _section(model.model_fields[name].annotation)
        if section is not None and isinstance(value, Mapping):
            _known(value, section, f"{prefix}{name}.", where)


def _section(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _fields(model: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    found = []
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        default = "" if field.is_required() else str(field.get_default(call_default_factory=True, validated_data={}))
        found.append((f"{prefix}{name}", "a section" if section else default, field.description or ""))
        if section is not None:
            found += _fields(section, f"{prefix}{name}.")
    return found


_WORDS = {int: "a whole number", float: "a number", str: "text", list: "a list", dict: "names with values", bool: "true or false"}


def _told(item: Any, where: str) -> str:
    """One of pydantic's findings in a user's words."""
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}"
    if item["type"] == "missing":
        return f"{where}: `{name}` is missing; it has no default"
    given = item["input"]
    return f"{where}: `{name}` is {given!r}; expected: {_expected(item, name)}"


def _expected(item: Any, name: str) -> str:
    limits = item.get("ctx") or {}
    signs = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    bounds = [f"{words} {limits[sign]}" for sign, words in signs.items() if sign in limits]
    if bounds:
        return " and ".join(bounds)
    if "expected" in limits:
        return str(limits["expected"])
    annotation: Any = Config
    for part in name.split("."):
        section = _section(annotation)
        if section is None or part not in section.model_fields:
            break
        annotation = section.model_fields[part].annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    names = []
    for option in options:
        kind = get_origin(option) or option
        if kind is Literal:
            names += [str(value) for value in get_args(option)]
        elif kind is not NoneType:
            names.append(_WORDS.get(kind, "a section" if isinstance(kind, type) else str(kind)))
    return " or ".join(names) + (" (at least one)" if item["type"] == "too_short" else "")
