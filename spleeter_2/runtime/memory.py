"""Less memory of the C library's heap."""

from __future__ import annotations

import contextlib
import ctypes

ARENA_MAX, MMAP_THRESHOLD = -8, -3  # M_ARENA_MAX and M_MMAP_THRESHOLD of malloc.h
LARGE = 2**20  # bytes of a block that is returned at once


def use_one_arena() -> None:
    """Let glibc, where it is the C library, have one heap for all threads of this process.

    By default every thread has its own, and each keeps the largest arrays that its thread has
    freed.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(ARENA_MAX, 1)


def return_large_blocks() -> None:
    """Let glibc, where it is the C library, return large blocks as soon as they are freed.

    By default it keeps blocks of up to 32 MB for later ones, which are other sizes in a network.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE)


def return_free_memory() -> None:
    """Return what was freed to the system, where glibc is the C library.

    A network's kernels are rearranged when it is loaded, which leaves as much free memory again.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
