"""Errors of the files that TensorFlow writes: SavedModels, TensorBoard's events."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def file_errors() -> Iterator[None]:
    """Turn TensorFlow's file errors into OSError.

    Raises:
        OSError: with an error code if TensorFlow's message contains the system's text for it.
    """
    try:
        yield
    except tf.errors.OpError as error:  # its message: {{OPERATION}} FILE; REASON [Op:...]
        text = str(error)
        code = next((code for code in errno.errorcode if f"; {os.strerror(code)}" in text), None)
        reason = (code, os.strerror(code)) if code else (text.splitlines()[0],)
        raise OSError(*reason) from error
