"""A faster import of TensorFlow."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from types import ModuleType

from spleeter_2.extras import use_keras_2


def import_tensorflow(sole_user: bool = False) -> ModuleType:
    """Import TensorFlow without its start-up messages and with garbage collection paused.

    The import creates a million permanent objects; not scanning them repeatedly saves a third of
    its time (``benchmarks/separate.py`` prints the import separately).

    Args:
        sole_user: this process runs a network and nothing else. Then the optional jax and pandas
            are not imported (a second and 100 MB less), memory is kept for the next window
            (``_keep_memory``), Keras' warnings are off, and existing objects are exempt from
            garbage collection.
    """
    if sole_user:
        _keep_memory()
    use_keras_2()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    hidden = [name for name in ("jax", "pandas") if sole_user and name not in sys.modules]
    if os.path.expanduser("~") == "~":  # no home: Keras would make a folder of this name
        os.environ.setdefault("KERAS_HOME", os.devnull)
    # TensorFlow imports absl's tests, which look for a folder for temporary files: none need exist
    own_folder = "TEST_TMPDIR" not in os.environ
    os.environ.setdefault("TEST_TMPDIR", os.devnull)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for name in hidden:
            sys.modules[name] = None  # type: ignore[assignment]
        import tensorflow
    finally:
        if own_folder:
            os.environ.pop("TEST_TMPDIR", None)
        for name in hidden:
            del sys.modules[name]
        if collecting:
            gc.enable()
    if sole_user:
        tensorflow.get_logger().setLevel("ERROR")
        gc.freeze()  # only here: in a host process, its own garbage would never be freed
    return tensorflow


def _keep_memory() -> None:
    """Let glibc, where it is the C library, reuse the memory of large arrays.

    By default it returns their pages to the system after every window and has a heap per thread,
    which costs a tenth of the time and a fifth of the memory.
    """
    arena_max, mmap_threshold, trim_threshold = -8, -3, -1  # of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(arena_max, 1)
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 300 << 20)
