"""Have glibc's malloc keep the memory that tensors free."""

from __future__ import annotations

import ctypes

# mallopt(3). Its own bounds follow a program's sizes up to 32 MB; a larger tensor comes from the system and goes back to it
# each time, and every page of it is filled with zeros on the way (lab/speed.md#kept-memory).
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER = -1


def keep_freed_memory() -> None:
    """From now on freed memory stays with the process, for the next tensors of its size. Only a command may decide that for its
    process; a program that imports the package keeps its allocator. Where malloc is not glibc's, nothing happens."""
    try:
        libc = ctypes.CDLL(None)
        if libc.gnu_get_libc_version:
            libc.mallopt(MMAP_MAX, 0)
            libc.mallopt(TRIM_THRESHOLD, NEVER)
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
