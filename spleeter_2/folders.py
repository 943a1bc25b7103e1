"""Folders that appear at once or not at all, and what is said when they cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import SeparationError


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Tell what keeps the block from writing in one sentence.

    Raises:
        SeparationError: it names the place.
    """
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = "the disk is full, free some space" if full else error.strerror or error
        raise SeparationError(f"cannot write {place}: {reason}") from error


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A temporary folder beside ``output`` that takes its place when the block ends well.

    Raises:
        SeparationError: the place cannot be written to.
    """
    output = output.resolve()
    temporary = output.with_name(f".{output.name[-64:]}-{secrets.token_hex(4)}")
    made = [folder for folder in output.parents if not folder.exists()]  # the deepest first
    try:
        with writing(output):
            temporary.mkdir(parents=True)
            yield temporary
            _replace(output, temporary)
        made.clear()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _replace(output: Path, new: Path) -> None:
    """Put a folder in the place of another, which stays until the new one stands."""
    if not output.exists():
        os.rename(new, output)
        return
    old = new.with_name(f"{new.name}-old")
    os.rename(output, old)
    try:
        os.rename(new, output)
    except OSError:
        os.rename(old, output)
        raise
    shutil.rmtree(old, ignore_errors=True)
