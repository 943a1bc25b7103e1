"""Errors for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SeparationError(Exception):
    """An error that the user can fix; its text is one sentence."""


class ModelError(SeparationError):
    """The model cannot be loaded, so no song can be separated."""


class OutputClosed(SeparationError):
    """The reader of standard output has ended, as ``head`` does: no reason for a message."""


@contextmanager
def model_errors() -> Iterator[None]:
    """Turn a SeparationError of the block into a ModelError."""
    try:
        yield
    except SeparationError as error:
        raise ModelError(str(error)) from error
