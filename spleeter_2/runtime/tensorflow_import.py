"""Import TensorFlow the quick way."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from types import ModuleType


def import_tensorflow(sole_user: bool = False) -> ModuleType:
    """Import TensorFlow with its start-up messages off and the garbage collector resting.

    The import makes a million objects that live for good; not looking at each of them again and
    again saves a third of its time (``benchmarks/separate.py`` prints the import apart).

    Args:
        sole_user: this process runs a network and nothing else, so the optional jax and pandas,
            which TensorFlow imports where they are installed, are left out: a second and
            100 MB less; memory is kept for the next window (``_keep_memory``); Keras' warnings,
            which are for those who build networks, are off; and the collector never looks at
            anything that is there by now.
    """
    if sole_user:
        _keep_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    hidden = [name for name in ("jax", "pandas") if sole_user and name not in sys.modules]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for name in hidden:
            sys.modules[name] = None  # type: ignore[assignment]
        import tensorflow
    finally:
        for name in hidden:
            del sys.modules[name]
        if collecting:
            gc.enable()
    if sole_user:
        tensorflow.get_logger().setLevel("ERROR")
        gc.freeze()  # in another's process, its own garbage would stay for good
    return tensorflow


def _keep_memory() -> None:
    """Ask glibc, where it is the C library, to reuse the memory of large arrays.

    By default it returns their pages to the system after every window and fetches them again,
    page by page, and keeps a heap per thread: a tenth of the time and a fifth of the memory.
    """
    arena_max, mmap_threshold, trim_threshold = -8, -3, -1  # of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(arena_max, 1)
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 300 << 20)
