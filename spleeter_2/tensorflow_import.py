"""Import TensorFlow the quick way."""

from __future__ import annotations

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
            100 MB less.
    """
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
    gc.freeze()
    return tensorflow
