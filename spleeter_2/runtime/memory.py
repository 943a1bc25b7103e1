"""Less memory of the C library's heap."""

from __future__ import annotations

import contextlib
import ctypes

ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def use_one_arena() -> None:
    """Let glibc, where it is the C library, have one heap for all threads of this process.

    By default every thread has its own, and each keeps the largest arrays that its thread has
    freed.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(ARENA_MAX, 1)


def return_free_memory() -> None:
    """Return what was freed to the system, where glibc is the C library.

    A network's kernels are rearranged when it is loaded, which leaves as much free memory again.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
