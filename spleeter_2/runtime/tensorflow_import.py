"""A faster import of TensorFlow."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from types import ModuleType

from spleeter_2.extras import use_keras_2


def import_tensorflow() -> ModuleType:
    """Import TensorFlow without its start-up messages and with garbage collection paused.

    The import creates a million permanent objects; not scanning them repeatedly saves a third of
    its time.
    """
    use_keras_2()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.path.expanduser("~") == "~":  # no home: Keras would make a folder of this name
        os.environ.setdefault("KERAS_HOME", os.devnull)
    # TensorFlow imports absl's tests, which look for a folder for temporary files: none need exist
    own_folder = "TEST_TMPDIR" not in os.environ
    os.environ.setdefault("TEST_TMPDIR", os.devnull)
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _without_messages():
            import tensorflow
    finally:
        if own_folder:
            os.environ.pop("TEST_TMPDIR", None)
        if collecting:
            gc.enable()
    return tensorflow


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Direct standard error to /dev/null: TensorFlow 2.16 and newer log there from C++ when they
    are imported, whatever the level is; errors of an import are exceptions."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # it is closed, or there are too many files
            before = os.dup(2)
            stack.callback(os.close, before)
            null = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, null)
            stack.callback(os.dup2, before, 2)
            os.dup2(null, 2)
        yield
