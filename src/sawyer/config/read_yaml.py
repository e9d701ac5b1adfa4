"""A run's file as plain values: YAML read safely, with errors that name the line."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sawyer.errors import ConfigError

MAX_DIGITS = 1_000  # of a number, checked before Python parses it: Python refuses more than some thousand
MAX_VALUES = 100_000  # in a file, with its aliases expanded
MAX_SHOWN = 120  # characters of a value in a message


class Empty:
    """The value of a name with nothing after its colon, as in `compare:`; `null` and `~` are None."""


EMPTY = Empty()


def read_yaml(path: Path) -> dict[str, Any]:
    """The names and values of a run's file. Raises ConfigError for a file that cannot be read or that holds anything else."""
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
        tree = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}, {error.given}", expected=error.expected, why=error.why, todo=error.todo) from error
    if tree is None or isinstance(tree, Empty):
        raise ConfigError(f"{path} is empty", expected="at least a model and a stage", todo="see `sawyer init`")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {show_value(tree)}", expected="names with values, such as `model: gpt2`")
    return tree


def parse_yaml(text: str) -> Any:
    """The value of a YAML document; EMPTY where it has none. Raises ConfigError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(
            f"{line}this is not YAML: {problem}", todo="check the indentation and the colons near that line"
        ) from error
    # PyYAML lets these through for tags that do not fit their values and for documents nested too deeply.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"there is a value that YAML cannot hold: {error}", todo="put text in quotes") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats (`1e-3`, `5.0e-4`), no dates, no duplicate keys, no recursive values, and EMPTY apart from null."""

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return EMPTY
        # Aliases of aliases double with each line: count before anything is built.
        if _value_count(node, {}) > MAX_VALUES:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: its aliases (`*name`) stand for more than {MAX_VALUES:,} values",
                expected="a config of some dozens",
                why="aliases of aliases double with each line, and reading them would never end",
                todo="write the values out",
            )
        return self.construct_document(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise ConfigError(f"line {line}: {key!r} stands where a name should")
            if key in keys:
                raise ConfigError(
                    f"line {line}: `{key}` stands there twice",
                    expected="each name once",
                    why="one of the two would be ignored",
                    todo="remove one",
                )
            keys.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_section(self, node: Any) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "names with values are expected here", node.start_mark)
        return self.construct_mapping(node, deep=True)

    def construct_list(self, node: Any) -> list[Any]:
        return self.construct_sequence(node, deep=True)  # deep: an alias of a list that is not built yet is refused

    def construct_null(self, node: Any) -> Any:
        return None if self.construct_scalar(node) else EMPTY

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if "\0" in value:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: the text {show_value(value)} holds the character NUL",
                expected="text without it",
                why="no file or model has such a name",
                todo="take it out",
            )
        return value

    def construct_number(self, node: Any) -> int:
        value = self.construct_yaml_int(node) if len(node.value) <= MAX_DIGITS else 2**63
        if not -(2**63) <= value < 2**63:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: the number {shorten(node.value)} is too large",
                expected="a whole number of up to 18 digits",
                todo="put it in quotes if it is meant as text",
            )
        return int(value)


for _tag, _construct in {
    "null": _Loader.construct_null,
    "int": _Loader.construct_number,
    "timestamp": _Loader.construct_yaml_str,
    "binary": _Loader.construct_yaml_str,
    "seq": _Loader.construct_list,
    "map": _Loader.construct_section,
}.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def _value_count(node: Any, counts: dict[int, int]) -> int:
    """The number of values of a YAML node with its aliases expanded. One inside itself counts as 0; building it is refused."""
    if id(node) not in counts:
        counts[id(node)] = 0
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        counts[id(node)] = 1 + sum(_value_count(child, counts) for child in children)
    return counts[id(node)]


def show_value(value: Any) -> str:
    """A value as its user would recognise it from the file."""
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return f"{str(value).lower()} (so YAML reads true, yes and on; false, no and off)"
    return "null" if value is None else shorten(repr(value))


def shorten(text: str) -> str:
    """Text from a file, short enough for a message."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
