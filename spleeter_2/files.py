"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path

from spleeter_2.audio.ffmpeg import file_url
from spleeter_2.errors import SeparationError

_TEMPORARY = re.compile(r"^\.spleeter-2-(\d+)-[0-9a-f]{8}-")


class Draft:
    """A file under a temporary name beside its target, which it replaces when it is whole.

    Makes the folders that are missing, and sweeps what a killed run left in the last of them.

    Attributes:
        path: the temporary file, empty at first; hidden, with the target's suffix.

    Raises:
        SeparationError: nothing can be written there.
    """

    def __init__(self, target: str | os.PathLike) -> None:
        self._target = Path(os.path.abspath(target))
        self._made: list[Path] = []
        name = self._target.name
        file_url(self._target)  # refuses a name before anything is made
        # names may be as long as the file system allows: keep the end
        temporary = f".spleeter-2-{os.getpid()}-{secrets.token_hex(4)}-{name[-64:]}"
        self.path = self._target.with_name(temporary)
        try:
            for folder in reversed(self._target.parents):
                self._make(folder)
            if self._target.is_dir():  # which also complains of a name that is too long
                raise IsADirectoryError(errno.EISDIR, "a folder has this name")
            _remove_stale(self.path.parent)
            self.path.touch(exist_ok=False)
        except OSError as error:
            self._remove_made()
            raise self._failure(error) from error

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            SeparationError: the name cannot be had.
        """
        try:
            os.replace(self.path, self._target)
        except OSError as error:
            raise self._failure(error) from error
        self._made.clear()

    def discard(self) -> None:
        """Remove the file, unless it is published, and the folders that were made for it."""
        with contextlib.suppress(OSError):  # of two failures the first is told
            self.path.unlink(missing_ok=True)
        self._remove_made()

    def _make(self, folder: Path) -> None:
        """Make a folder that is missing; somebody else may do so at the same time."""
        if not folder.exists():
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                self._made.append(folder)

    def _failure(self, error: OSError) -> SeparationError:
        return SeparationError(f"cannot write {self._target}: {error.strerror or error}")

    def _remove_made(self) -> None:
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # somebody else has put a file there
                folder.rmdir()
        self._made.clear()

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_) -> None:
        self.discard()


def _remove_stale(folder: Path) -> None:
    """Remove temporary files that a killed run left in a folder."""
    for path in folder.iterdir():
        found = _TEMPORARY.match(path.name)
        if found and not _alive(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
