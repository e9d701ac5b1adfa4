"""`SAWYER_FAST=off` in the environment switches all fast paths off: the same results, more slowly."""

from __future__ import annotations

import os

from sawyer.errors import ConfigError

OFF = "SAWYER_FAST=off"


def fast_enabled() -> bool:
    """Whether fast paths may be taken. Read at each call, so that a test can switch them within one process.

    Raises ConfigError for any other value than on and off.
    """
    value = os.environ.get("SAWYER_FAST", "")
    if value.lower() not in ("", "on", "off"):
        raise ConfigError(
            f"SAWYER_FAST is {value!r} in the environment",
            expected="on or off",
            why="fast paths would be taken although the value may have meant the opposite",
            todo="set SAWYER_FAST=off, or unset it",
        )
    return value.lower() != "off"
