"""`SAWYER_FAST=off` in the environment switches all fast paths off: the same results, more slowly."""

from __future__ import annotations

import os

OFF = "SAWYER_FAST=off"


def fast_enabled() -> bool:
    """Whether fast paths may be taken. Read at each call, so that a test can switch them within one process."""
    return os.environ.get("SAWYER_FAST", "").lower() != "off"
