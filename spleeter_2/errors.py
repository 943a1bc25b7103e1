"""The errors that a user is meant to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SeparationError(Exception):
    """Something the user can put right; its text is one sentence that says what and how."""


class ModelError(SeparationError):
    """The model cannot be loaded, so no song will do."""


@contextmanager
def concerning_the_model() -> Iterator[None]:
    """Whatever goes wrong within is the model's fault, not a song's."""
    try:
        yield
    except SeparationError as error:
        raise ModelError(str(error)) from error
