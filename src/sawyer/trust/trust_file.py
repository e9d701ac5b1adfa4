"""trust.json: written and read by one definition, the dataclasses of `trust_values`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sawyer.trust.trust_values import Trust, Verdict


def as_json(report: Trust, verdict: Verdict) -> dict[str, Any]:
    """Verdict and figures as plain values, for trust.json; the names are those of the fields."""
    return {"verdict": asdict(verdict), **asdict(report)}


def from_json(values: Any) -> tuple[Trust, Verdict]:
    """What `as_json` gave, read back: (figures, verdict). A field that has a default may be absent: an older version wrote it.

    Raises ValueError, naming the field, for a value of another type, a number that is not finite, and a report without a side.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"a trust report is an object, not a {type(values).__name__}")
    trust: Trust = _record(Trust, values, "")
    if not trust.sides:
        raise ValueError("sides: there is none")
    verdict: Verdict = _record(Verdict, values.get("verdict"), "verdict")
    return trust, verdict


def _record(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: an object is expected, not {values!r:.60}")
    hints, read = get_type_hints(kind), {}
    for field in fields(kind):
        name = f"{where}.{field.name}".lstrip(".")
        if field.name in values:
            read[field.name] = _value(hints[field.name], values[field.name], name)
        elif field.default is MISSING:
            raise ValueError(f"{name} is missing")
    return kind(**read)


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value`, checked, as the type hint `kind` has it."""
    origin, inside = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _record(kind, value, where)
    if origin in (Union, UnionType):
        if value is None and NoneType in inside:
            return None
        return _value(next(one for one in inside if one is not NoneType), value, where)
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        kinds = [inside[0]] * len(value) if inside[-1] is Ellipsis else list(inside)
        if len(kinds) == len(value):
            return tuple(_value(one, item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(kinds, value, strict=True)))
    elif origin is Literal and value in inside:
        return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value  # a count stays a whole number
    elif kind in (int, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{where}: {value!r:.60} is not as it was written")
