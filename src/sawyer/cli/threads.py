"""How long the threads of a product look for more work before they sleep."""

from __future__ import annotations

import os
import time
from pathlib import Path

# How often a waiting thread of GNU OpenMP looks. Its own default is several times slower where another program wants one of the
# cores. What helps there, a short look, costs up to a tenth of the time where nothing else runs, since a core that sleeps
# wakes late (LAB.md, "How long should waiting threads look?").
BESIDE_OTHERS, ALONE = "3000", "10000"
LOAD = Path("/proc/loadavg")  # Linux
LOOKS, APART = 3, 0.004  # seconds apart: whatever ends within a moment is nothing that runs


def set_waiting() -> None:
    """Tell GNU OpenMP, before torch loads it, how often to look, unless the environment does: by whether anything else runs."""
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = BESIDE_OTHERS if _others_run() else ALONE


def _others_run() -> bool:
    """Whether more than this thread runs on the machine all the time; supposed where the system does not tell."""
    running = []
    for look in range(LOOKS):
        time.sleep(APART if look else 0.0)
        try:
            running.append(int(LOAD.read_text().split()[3].partition("/")[0]))
        except (OSError, ValueError, IndexError):
            return True
    return min(running) > 1
