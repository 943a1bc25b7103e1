"""A faster import of TensorFlow."""

from __future__ import annotations

import gc
import os
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
        import tensorflow
    finally:
        if own_folder:
            os.environ.pop("TEST_TMPDIR", None)
        if collecting:
            gc.enable()
    return tensorflow
