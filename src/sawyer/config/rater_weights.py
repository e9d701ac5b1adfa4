"""`reward.raters`: how much each rater's judgements count."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sawyer.errors import ConfigError


def parse_rater_weights(value: Any) -> dict[str, float]:
    """`{anna: 0.5, bob: 0}` with the names trimmed. Raises ValueError for a weight that is no finite number from 0 on, and for
    a name that stands there twice, upper and lower case being the same."""
    if not isinstance(value, Mapping):
        raise ValueError(f"`reward.raters` is {value!r:.40}; expected: names with weights, as {{anna: 0.5, bob: 0}}")
    weights: dict[str, float] = {}
    for name, weight in value.items():
        is_named = isinstance(name, str | int) and not isinstance(name, bool) and str(name).strip()
        if not is_named:
            raise ValueError(f"reward.raters: {name!r} is no name; write it in quotes")
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
        if not is_number or weight < 0:
            raise ValueError(f"reward.raters.{name} is {weight!r:.40}; expected: a number, 0 (left out) or more")
        key = str(name).strip()
        if key.casefold() in map(str.casefold, weights):
            raise ValueError(f"reward.raters: {key} stands there twice; upper and lower case are the same")
        weights[key] = float(weight)
    return weights


def rater_weights(settings: Mapping[str, float], rater_names: Sequence[str]) -> dict[str, float]:
    """The weights by the names under which people judged, `rater_names`; who is not in `settings` is not in it either.

    Raises ConfigError for a rater who has judged nothing: a misspelt name would count in full, in silence.
    """
    names = {name.casefold(): name for name in rater_names}
    if unknown := [name for name in settings if name.casefold() not in names]:
        near = difflib.get_close_matches(unknown[0].casefold(), names, n=1, cutoff=0.6)
        raise ConfigError(
            f"reward.raters names {', '.join(unknown)}, who {'has' if len(unknown) == 1 else 'have'} judged nothing here"
            + (f"; did you mean `{names[near[0]]}`?" if near else ""),
            expected=f"raters of this run: {', '.join(rater_names) or 'none so far'}",
            why="a misspelt rater would not be left out",
            todo="mend the name, or take it out of reward.raters",
        )
    return {names[name.casefold()]: weight for name, weight in settings.items()}


def rater_weights_in_words(settings: Mapping[str, float]) -> str:
    """`bob is left out, anna counts 0.5`; empty without settings."""
    return ", ".join(f"{name} {'is left out' if weight == 0 else f'counts {weight:g}'}" for name, weight in settings.items())
