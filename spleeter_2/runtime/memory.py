"""Less memory in a process that does nothing but separate."""

from __future__ import annotations

import contextlib
import ctypes

ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def use_one_arena() -> None:
    """Let glibc, where it is the C library, have one heap for all threads.

    By default every thread has its own, and each keeps the largest arrays that its thread has
    freed.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(ARENA_MAX, 1)
