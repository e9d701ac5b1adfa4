"""What pydantic finds wrong with a config, in a user's words."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sawyer.config.former_names import FORMER_GUARDS, FORMER_SETTINGS, FORMER_VALUES
from sawyer.config.read_yaml import shorten, show_value
from sawyer.config.schema import Config
from sawyer.errors import ConfigError

WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "names with values",
}
BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
EXPECTED = {
    "finite_number": "a finite number",
    "string_too_short": "text that is not empty",
    "too_short": "a list with at least one entry",
}


def explain(error: ValidationError, where: str, overrides: Sequence[str]) -> ConfigError:
    """All findings as one error, each as a finding in the file `where` or in the override that set the value.

    An unknown name is reported alone: settings that it was meant for would be reported as missing.
    """
    # A default that is computed from another setting cannot be made where that one is wrong: only the other is reported.
    items: list[Any] = [item for item in error.errors() if item["type"] != "default_factory_not_called"]
    for item in items:
        if item["type"] in ("extra_forbidden", "invalid_key"):
            return _unknown_setting(item["loc"], where, overrides)
        if item["loc"][-1:] == ("[key]",):
            return _unknown_entry(item["loc"][:-1], where, overrides)
    names = [_setting_of(item, overrides) for item in items]
    messages = [f"{_source_of(name, where, overrides)}: {_message(item)}" for item, name in zip(items, names, strict=True)]
    return ConfigError("\n".join(messages), todo=f"mend {_suspects(names, where, overrides)}")


def setting_fields(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted name, default, description) of every setting, for the reference."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        default = "" if field.is_required() else str(field.get_default(call_default_factory=True, validated_data={}))
        yield f"{prefix}{name}", "a section" if section else default, field.description or ""
        if section is not None:
            yield from setting_fields(section, f"{prefix}{name}.")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a setting of this type is, if it is one."""
    return next((o for o in _options(annotation) if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _type_at(loc: Sequence[int | str]) -> Any:
    """The type of the setting at `loc`, or of what a list or a table of sections holds there."""
    annotation: Any = Config
    for part in loc:
        section, origin, inside = section_of(annotation), get_origin(annotation), get_args(annotation)
        if section is not None and part in section.model_fields:
            annotation = section.model_fields[str(part)].annotation
        elif origin in (list, dict) and section_of(inside[-1]) is not None:
            annotation = inside[-1]
        else:
            annotation = str  # lists and column names hold text
    return annotation


def _unknown_setting(loc: Sequence[int | str], where: str, overrides: Sequence[str]) -> ConfigError:
    name, section = ".".join(map(str, loc)), section_of(_type_at(loc[:-1])) or Config
    similar = _similar_setting(str(loc[-1]), section, name.removesuffix(str(loc[-1])))
    guess = f"; did you mean `{similar}`?" if similar else ""
    return ConfigError(
        f"{_source_of_unknown(name, where, overrides)}: unknown setting `{shorten(name)}`{guess}",
        expected=f"one of: {', '.join(section.model_fields)}",
        why="an unknown setting would be ignored in silence",
    )


def _unknown_entry(loc: Sequence[int | str], where: str, overrides: Sequence[str]) -> ConfigError:
    """For a name that a table does not have, such as a guard's."""
    *table, entry = map(str, loc)
    names = get_args(get_args(_type_at(loc[:-1]))[0])
    similar = [FORMER_GUARDS.get(entry), *difflib.get_close_matches(entry, names, n=1)]
    guess = next((f"; did you mean `{'.'.join(table)}.{name}`?" for name in similar if name in names), "")
    name = ".".join([*table, entry])
    return ConfigError(
        f"{_source_of_unknown(name, where, overrides)}: unknown name `{shorten(name)}`{guess}",
        expected=f"one of: {', '.join(names)}",
    )


def _similar_setting(name: str, section: type[BaseModel], prefix: str) -> str:
    """The setting that `name` was probably meant for: in the same section, or of that name in another."""
    if FORMER_SETTINGS.get(name) in section.model_fields:
        return f"{prefix}{FORMER_SETTINGS[name]}"
    near = difflib.get_close_matches(name, list(section.model_fields), n=1, cutoff=0.5)
    if near and difflib.SequenceMatcher(None, name, near[0]).ratio() >= 0.75:
        return f"{prefix}{near[0]}"
    paths: dict[str, str] = {}  # each last name with the first setting that has it
    for path, _, _ in setting_fields():
        paths.setdefault(path.rpartition(".")[2], path)
    alike = [name] if name in paths else difflib.get_close_matches(name, list(paths), n=1, cutoff=0.8)
    return paths[alike[0]] if alike else f"{prefix}{near[0]}" if near else ""


def _setting_of(item: Any, overrides: Sequence[str]) -> str:
    """The setting that a finding is about. Where settings of a section contradict each other: the one that was overridden."""
    first_word = str(item["ctx"]["error"]).partition(":")[0] if item["type"] == "value_error" else ""
    if any(_override_name(override) == first_word for override in overrides):
        return first_word
    return ".".join(map(str, item["loc"]))


def _source_of(name: str, where: str, overrides: Sequence[str]) -> str:
    """Where the setting was given: the last override of it or of its section, else the file `where`."""
    sources = [override for override in overrides if f"{name}.".startswith(f"{_override_name(override)}.")]
    return f"override {shorten(repr(sources[-1]))}" if sources else where


def _source_of_unknown(name: str, where: str, overrides: Sequence[str]) -> str:
    """As `_source_of`, or the last override of something inside `name`: such an override makes the entry that it names."""
    inside = [override for override in overrides if _override_name(override).startswith(f"{name}.")]
    return f"override {shorten(repr(inside[-1]))}" if inside else _source_of(name, where, overrides)


def _suspects(names: Sequence[str], where: str, overrides: Sequence[str]) -> str:
    """The overrides and the file that may be wrong; of a section in the file, the overrides inside it as well."""
    suspects: list[str] = []
    for name in names:
        source = _source_of(name, where, overrides)
        if source == where:
            inside = [one for one in overrides if not name or _override_name(one).startswith(f"{name}.")]
            suspects += [f"override {shorten(repr(override))}" for override in inside]
        suspects.append(source)
    return " or ".join(dict.fromkeys(suspects))


def _override_name(override: str) -> str:
    return override.partition("=")[0].strip()


def _message(item: Any) -> str:
    name, value = ".".join(map(str, item["loc"])), item["input"]
    if item["type"] == "missing":
        return f"`{name}` is missing; it has no default"
    message = f"`{name}` is {show_value(value)}; expected: {_expected(item)}"
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
    current = FORMER_VALUES.get(value) if isinstance(value, str) else None
    return message + (f"; did you mean `{current}`?" if current and current in message else "")


def _expected(item: Any) -> str:
    limits = item.get("ctx") or {}
    if bounds := [f"{words} {limits[sign]}" for sign, words in BOUNDS.items() if sign in limits]:
        return " and ".join(bounds)
    if item["type"] in EXPECTED:
        return EXPECTED[item["type"]]
    words = _type_words(_type_at(item["loc"]))
    if words == WORDS[list] and isinstance(item["input"], str):
        return f"a list, such as [{item['input']}]"
    if words.startswith(WORDS[str]) and isinstance(item["input"], int | float) and not isinstance(item["input"], bool):
        return f"{words}: put it in quotes"
    return words


def _type_words(annotation: Any) -> str:
    names = []
    for option in _options(annotation):
        kind = get_origin(option) or option
        if kind is Annotated:
            names.append(_type_words(get_args(option)[0]))
        elif kind is Literal:
            names += map(str, get_args(option))
        elif kind is not NoneType:
            names.append(WORDS.get(kind, "a section"))
    return " or ".join(names)
