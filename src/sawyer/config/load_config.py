"""From a file and overrides to a checked config, with errors in a user's words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from sawyer.config.former_names import RENAMED, RENAMED_GUARDS, RENAMED_VALUES
from sawyer.config.schema import Config
from sawyer.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"
PATHS = ("out", "model", "reward", "template", "data", "prompts", "text")  # settings that name files or folders
STARTS = {  # where one starts, and the file for it
    "base": "template.yaml",
    "instruct": "instruct.yaml",
    "reward": "reward.yaml",
    "rl": "rl.yaml",
    "dpo": "dpo.yaml",
}
OFF = ("guards", "action")  # settings that may be `off`, which YAML reads as false
LONGEST_SHOWN = 120  # letters of a value in a message
MOST_DIGITS = 1_000  # of a number, before it is read
MOST_VALUES = 100_000  # in a config, aliases written out
WORLD_BASE = Path(__file__).parent.parent / "worlds" / "base"


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run's file and apply `key.path=value` overrides. Raises ConfigError for whatever is not right with either."""
    tree = _filled(_read(Path(path)), Config)
    for override in overrides:
        _override(tree, override)
    return checked(tree, where=str(path), overrides=overrides)


def checked(tree: Mapping[str, Any], *, where: str = "config", overrides: Sequence[str] = ()) -> Config:
    """A tree of plain values as a config; unknown names are refused with the nearest known one, `~` in a path is the home.

    What is wrong is told as that of `where`, or of the override that set it.
    """
    _known(tree, Config, "", where, overrides)
    try:
        return Config.model_validate(_at_home(tree))
    except ValidationError as error:
        # A default that is taken from another setting cannot be made where that one is wrong: the other is told.
        found = [item for item in error.errors() if item["type"] != "default_factory_not_called"]
        names = [_name(item, overrides) for item in found]
        told = "\n".join(_told(item, _source(name, where, overrides)) for item, name in zip(found, names, strict=True))
        raise ConfigError(told, todo=f"mend {_to_mend(names, where, overrides)}") from error


def _name(item: Any, overrides: Sequence[str]) -> str:
    """The setting that a finding of pydantic's is about; of a section that does not fit together, one that was overridden."""
    stated = str(item["ctx"]["error"]).partition(":")[0] if item["type"] == "value_error" else ""
    if any(_named_by(override) == stated for override in overrides):
        return stated
    return ".".join(str(part) for part in item["loc"] if part != "[key]")


def _source(name: str, where: str, overrides: Sequence[str]) -> str:
    """Where the setting `name` was given: in an override of it or of its section (the last one counts), else in `where`."""
    mine = [one for one in overrides if f"{name}.".startswith(f"{_named_by(one)}.")]
    return f"override {_cut(repr(mine[-1]))}" if mine else where


def _to_mend(names: Sequence[str], where: str, overrides: Sequence[str]) -> str:
    """Overrides and file that may be wrong: of a section that does not fit together, what was overridden in it as well."""
    found = []
    for name in names:
        source = _source(name, where, overrides)
        inside = [one for one in overrides if not name or _named_by(one).startswith(f"{name}.")] if source == where else []
        found += [*(f"override {_cut(repr(one))}" for one in inside), source]
    return " or ".join(dict.fromkeys(found))


def _named_by(override: str) -> str:
    return override.partition("=")[0].strip()


def _at_home(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with `~` written out in the paths of the run and of its sections."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and name in Config.model_fields:
            found[name] = _at_home(value)
        elif name == "models" and isinstance(value, Mapping):
            found[name] = {key: os.path.expanduser(item) if isinstance(item, str) else item for key, item in value.items()}
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            found[name] = [_at_home(item) for item in value]
        elif name in PATHS and isinstance(value, list):
            found[name] = [os.path.expanduser(item) if isinstance(item, str) else item for item in value]
        else:
            found[name] = os.path.expanduser(value) if name in PATHS and isinstance(value, str) else value
    return found


def demo(out: str, seed: int, rater: str = "honest") -> Config:
    """The demo's config: the built-in world from its packaged base model, its files in `out`/data."""
    tree = _filled(_read(PRESETS / "demo.yaml"), Config)
    data = Path(out) / "data"
    tree |= {"out": out, "seed": seed, "model": str(WORLD_BASE), "world": {"rater": rater}}
    tree["sft"]["data"] = [str(data / "instructions.json")]
    tree["collect"]["prompts"] = tree["rl"]["prompts"] = [str(data / "prompts.jsonl")]
    tree["reward"]["data"] = [str(data / "comparisons.json")]
    tree["compare"]["prompts"] = [str(data / "held_out.jsonl")]
    return checked(tree, where="the demo's preset")


def with_settings(config: Config, changes: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """The config with some settings or whole sections replaced, then `key.path=value` overrides, checked as a file is."""
    tree = config.model_dump(mode="json") | dict(changes)
    for override in overrides:
        _override(tree, override)
    return checked(tree)


def template_file(start: str = "base") -> str:
    """A commented sawyer.yaml for where one starts: one of `STARTS`. Raises ConfigError for another."""
    if start not in STARTS:
        raise ConfigError(f"there is no start {start!r}", expected=f"one of: {', '.join(STARTS)}", todo="name one of them")
    return (PRESETS / STARTS[start]).read_text(encoding="utf-8")


def fields() -> list[tuple[str, str, str]]:
    """(dotted name, default, description) of every setting, for the reference."""
    return list(_fields(Config, ""))


class _Nothing:
    """What follows a name with nothing after the colon, as in `compare:`; `null` and `~` are None."""


_NOTHING = _Nothing()


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats (`1e-3`, `5.0e-4`), no dates, no key twice, nothing inside itself, and nothing told apart from null."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConfigError(f"line {key_node.start_mark.line + 1}: {key!r} stands where a name should")
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

    def construct_null(self, node: Any) -> Any:
        return None if self.construct_scalar(node) else _NOTHING

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return _NOTHING
        if _size(node, {}) > MOST_VALUES:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: its aliases (`*name`) stand for more than {MOST_VALUES:,} values",
                expected="a config of some dozens",
                why="aliases of aliases double with each line, and reading them would never end",
                todo="write the values out",
            )
        return self.construct_document(node)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if "\0" in value:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: the text {_shown(value)} holds the character NUL",
                expected="text without it",
                why="no file or model can be called so",
                todo="take it out",
            )
        return value

    def construct_number(self, node: Any) -> int:
        # Python reads no more than some thousand digits.
        value = self.construct_yaml_int(node) if len(node.value) <= MOST_DIGITS else 2**63
        if not -(2**63) <= value < 2**63:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: the number {_cut(node.value)} is too large",
                expected="a whole number of up to 18 digits",
                todo="put it in quotes if it is meant as text",
            )
        return int(value)

    def construct_text(self, node: Any) -> Any:
        return self.construct_yaml_str(node)

    def construct_list(self, node: Any) -> list[Any]:
        return self.construct_sequence(node, deep=True)  # at once: an alias of what is not built yet is refused

    def construct_section(self, node: Any) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "names with values are expected here", node.start_mark)
        return self.construct_mapping(node, deep=True)


def _size(node: Any, known: dict[int, int]) -> int:
    """How many values a YAML node holds with its aliases written out; what is inside itself is refused when it is built."""
    if id(node) not in known:
        known[id(node)] = 0
        inside = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for pair in inside for part in pair] if isinstance(node, yaml.MappingNode) else inside
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


_Loader.add_constructor("tag:yaml.org,2002:null", _Loader.construct_null)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_text)
_Loader.add_constructor("tag:yaml.org,2002:binary", _Loader.construct_text)
_Loader.add_constructor("tag:yaml.org,2002:seq", _Loader.construct_list)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_section)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(
            f"there is no file {path}", expected="a run's file", todo="write one with `sawyer init`, or check the path"
        ) from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder", expected="a run's file, such as sawyer.yaml") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not text in UTF-8 (byte {error.start})", expected="a YAML file", todo="save it as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is not a path: {error}", expected="a run's file") from error
    try:
        tree = _parsed(text)
    except ConfigError as error:
        raise ConfigError(f"{path}, {error.given}", expected=error.expected, why=error.why, todo=error.todo) from error
    if tree is None or isinstance(tree, _Nothing):
        raise ConfigError(f"{path} is empty", expected="at least a model and a stage", todo="see `sawyer init`")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {_shown(tree)}", expected="names with values, such as `model: gpt2`")
    return tree


def _parsed(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(
            f"{line}this is not YAML: {problem}", todo="check the indentation and the colons near that line"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:  # as PyYAML lets them through
        raise ConfigError(f"there is a value that YAML cannot hold: {error}", todo="put text in quotes") from error


def _filled(value: Any, annotation: Any) -> Any:
    """The tree with nothing in it left open: a section without settings (`compare:`) is one of defaults, else null."""
    section = _section(annotation)
    if isinstance(value, _Nothing):
        return {} if section is not None else None
    if isinstance(value, dict):
        known = section.model_fields if section is not None else {}
        return {k: _filled(v, known[k].annotation if k in known else None) for k, v in value.items()}
    return [_filled(item, None) for item in value] if isinstance(value, list) else value


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    path = name.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {override!r}", expected="key=value, such as rl.kl.coefficient=0.1")
    try:
        value = _parsed(text)
    except ConfigError as error:
        raise ConfigError(f"override {override!r}: {error.given}", expected="a YAML value") from error
    if isinstance(value, _Nothing):
        raise ConfigError(
            f"override {override!r} gives no value", expected="key=value", todo=f"to leave it out: {name.strip()}=null"
        )
    here = tree
    for part in path[:-1]:
        step = here.get(part)
        if step is None:
            step = here[part] = {}
        if not isinstance(step, dict):
            raise ConfigError(f"override {override!r}: `{part}` is a value, not a section")
        here = step
    here[path[-1]] = _filled(value, None)


def _known(tree: Mapping[str, Any], model: type[BaseModel], prefix: str, where: str, overrides: Sequence[str] = ()) -> None:
    """Refuse names that are not settings, and true or false (YAML's yes, no, on and off), which pydantic takes for 1 or 0."""
    for name, value in tree.items():
        if name not in model.model_fields:
            guess = _guess(str(name), model, prefix)
            raise ConfigError(
                f"{_source(f'{prefix}{name}', where, overrides)}: unknown setting `{prefix}{_cut(str(name))}`"
                + (f"; did you mean `{guess}`?" if guess else ""),
                expected=f"one of: {', '.join(model.model_fields)}",
                why="a setting that is not known would be ignored without a word",
            )
        annotation = model.model_fields[name].annotation
        section = _section(annotation)
        if isinstance(value, bool) and annotation is not bool and not (value is False and name in OFF):
            told = f"{_source(f'{prefix}{name}', where, overrides)}: `{prefix}{name}` is {_shown(value)}"
            raise ConfigError(f"{told}; expected: {_words(annotation)}")
        if section is not None and isinstance(value, Mapping):
            _known(value, section, f"{prefix}{name}.", where, overrides)
        item = _item(annotation)
        if item is not None and isinstance(value, list):
            for place, inside in enumerate(value):
                if isinstance(inside, Mapping):
                    _known(inside, item, f"{prefix}{name}.{place}.", where, overrides)
        named = _named(annotation)
        if named is not None and isinstance(value, Mapping):
            for entry, inside in value.items():
                if entry not in named[0]:
                    near = [RENAMED_GUARDS.get(str(entry)), *difflib.get_close_matches(str(entry), named[0], n=1)]
                    guess = next((f"; did you mean `{prefix}{name}.{one}`?" for one in near if one in named[0]), "")
                    source = _source(f"{prefix}{name}.{entry}", where, overrides)
                    raise ConfigError(
                        f"{source}: unknown name `{prefix}{name}.{_cut(str(entry))}`{guess}",
                        expected=f"one of: {', '.join(named[0])}",
                    )
                if isinstance(inside, Mapping):
                    _known(inside, named[1], f"{prefix}{name}.{entry}.", where, overrides)


def _guess(name: str, model: type[BaseModel], prefix: str) -> str:
    """The known setting nearest to `name`: of the same section, or of the same name in another."""
    if RENAMED.get(name) in model.model_fields:
        return f"{prefix}{RENAMED[name]}"
    near = difflib.get_close_matches(name, list(model.model_fields), n=1, cutoff=0.5)
    everywhere = {dotted: dotted.split(".")[-1] for dotted, _, _ in fields()}
    same = [dotted for dotted, last in everywhere.items() if last == name]
    if near and difflib.SequenceMatcher(None, name, near[0]).ratio() >= 0.75:
        return f"{prefix}{near[0]}"
    if same:
        return same[0]
    alike = difflib.get_close_matches(name, list(everywhere.values()), n=1, cutoff=0.8)
    if alike:
        return next(dotted for dotted, last in everywhere.items() if last == alike[0])
    return f"{prefix}{near[0]}" if near else ""


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _section(annotation: Any) -> type[BaseModel] | None:
    return next((o for o in _options(annotation) if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _item(annotation: Any) -> type[BaseModel] | None:
    """The section that each entry of a list is, if it is one."""
    return next((_section(inside) for inside in get_args(annotation) if get_origin(annotation) is list), None)


def _named(annotation: Any) -> tuple[tuple[str, ...], type[BaseModel]] | None:
    """The names that a setting's entries may have, and the section that each is, where it is such a table."""
    if get_origin(annotation) is not dict:
        return None
    names, inside = get_args(annotation)
    section = _section(inside)
    return (get_args(names), section) if get_origin(names) is Literal and section is not None else None


def _fields(model: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    found = []
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        default = "" if field.is_required() else str(field.get_default(call_default_factory=True, validated_data={}))
        found.append((f"{prefix}{name}", "a section" if section else default, field.description or ""))
        if section is not None:
            found += _fields(section, f"{prefix}{name}.")
    return found


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "names with values",
}
_SIGNS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def _told(item: Any, where: str) -> str:
    """One of pydantic's findings in a user's words."""
    name = ".".join(str(part) for part in item["loc"] if part != "[key]")
    if item["type"] == "missing":
        return f"{where}: `{name}` is missing; it has no default"
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
    else:
        message = f"`{name}` is {_shown(item['input'])}; expected: {_expected(item)}"
    renamed = RENAMED_VALUES.get(item["input"]) if isinstance(item["input"], str) else None
    return f"{where}: {message}" + (f"; did you mean `{renamed}`?" if renamed and renamed in message else "")


def _expected(item: Any) -> str:
    limits = item.get("ctx") or {}
    bounds = [f"{words} {limits[sign]}" for sign, words in _SIGNS.items() if sign in limits]
    if bounds:
        return " and ".join(bounds)
    if item["type"] == "finite_number":
        return "a finite number"
    if item["type"] == "string_too_short":
        return "text that is not empty"
    if item["type"] == "too_short":
        return "a list with at least one entry"
    words = _words(_annotation(item["loc"]))
    if words == _WORDS[list] and isinstance(item["input"], str):
        return f"a list, such as [{item['input']}]"
    if words.startswith(_WORDS[str]) and isinstance(item["input"], int | float):
        return f"{words}: put it in quotes"
    return words


def _annotation(loc: Sequence[int | str]) -> Any:
    """The type that the tree gives to the place `loc`: of a field, or of what is inside a field's list or names."""
    annotation: Any = Config
    for part in loc:
        section = _section(annotation)
        if isinstance(part, int) and _item(annotation) is not None:
            annotation = _item(annotation)
        elif section is not None and part in section.model_fields:
            annotation = section.model_fields[str(part)].annotation
        elif _named(annotation) is not None and part in _named(annotation)[0]:  # type: ignore[index]
            annotation = _named(annotation)[1]  # type: ignore[index]
        else:
            annotation = str  # lists and column names hold text
    return annotation


def _words(annotation: Any) -> str:
    """A type in a user's words."""
    names = []
    for option in _options(annotation):
        kind = get_origin(option) or option
        if kind is Annotated:
            names.append(_words(get_args(option)[0]))
        elif kind is Literal:
            names += [str(value) for value in get_args(option)]
        elif kind is not NoneType:
            names.append(_WORDS.get(kind, "a section"))
    return " or ".join(names)


def _shown(value: Any) -> str:
    """A value as a user would know it from the file."""
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return f"{str(value).lower()} (so YAML reads true, yes and on; false, no and off)"
    return "null" if value is None else _cut(repr(value))


def _cut(text: str) -> str:
    """Text from a file, short enough for a message."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
