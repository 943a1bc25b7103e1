"""Write a file or a folder so that it is whole or absent; JSON; a lock.

Until it is complete, a file or folder has a temporary name beside its target,
``.spleeter-2-PID-HOST-NAME``, so that a later run removes what a killed one left behind.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from .errors import SeparationError

# machines may share a folder: a process id is valid on its own machine only
_HOST = f"{zlib.crc32(platform.node().encode()) & 0xFFFF:04x}"
_TEMPORARY = re.compile(r"^\.spleeter-2-(\d{1,9})-([0-9a-f]{4})[0-9a-f]{4}-")
_ABANDONED = 86400.0  # seconds without a write after which another machine's process is dead
_NAME_END = 48  # characters; at 4 bytes each, and with a prefix, fewer than the usual 255 bytes


class WriteError(SeparationError):
    """A file or folder cannot be written; ``__cause__`` is the OSError."""


@contextlib.contextmanager
def writing(place: str | os.PathLike) -> Iterator[None]:
    """Turn an OSError of the block into one sentence.

    Raises:
        WriteError: it names the place and the reason.
    """
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = "the disk is full, free some space" if full else error.strerror or error
        raise WriteError(f"cannot write {place}: {reason}") from error


class Draft:
    """A file or folder under a temporary name, which replaces its target when it is complete.

    ``atomic_file`` and ``atomic_folder`` are the short way. A draft by itself is for files that
    are to appear together: complete all of them, then ``publish`` each.

    Makes the parent folders that are missing, and removes them again if nothing is published.

    Args:
        target: an existing file or folder is replaced.
        is_folder: make a folder.

    Attributes:
        path: the temporary file or folder, empty at first; its name ends as the target's does.

    Raises:
        OSError: nothing can be written there.
    """

    def __init__(self, target: str | os.PathLike, is_folder: bool = False) -> None:
        self._target = Path(os.path.realpath(target) if is_folder else os.path.abspath(target))
        self._is_folder = is_folder
        self._made: list[Path] = []
        unique = f"{os.getpid()}-{_HOST}{secrets.token_hex(2)}"
        name = f".spleeter-2-{unique}-{self._target.name[-_NAME_END:]}"  # with the suffix
        self.path = self._target.with_name(name)
        try:
            self._begin()
        except BaseException:
            self.discard()
            raise

    def publish(self) -> None:
        """Replace the target.

        Raises:
            OSError: the target cannot be replaced; it is as it was.
        """
        if self._is_folder and self._target.exists():
            _replace_folder(self._target, self.path)
        else:
            os.replace(self.path, self._target)
        self._made.clear()

    def discard(self) -> None:
        """Remove the file or folder, unless it is published, and the folders made for it."""
        _remove(self.path)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # another process has put a file there
                folder.rmdir()
        self._made.clear()

    def _begin(self) -> None:
        """Make the parent folders and an empty file or folder of the temporary name."""
        for attempts_left in (2, 1, 0):
            try:
                for folder in reversed(self._target.parents):
                    self._make(folder)
                self._check_target()
                remove_stale(self.path.parent)
                self.path.mkdir() if self._is_folder else self.path.touch(exist_ok=False)
                return
            except FileNotFoundError:  # another writer failed and removed a parent that it had made
                if not attempts_left:
                    raise

    def _make(self, folder: Path) -> None:
        """Make a missing folder; another process may do so at the same time."""
        if not folder.exists():
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                self._made.append(folder)

    def _check_target(self) -> None:
        """Raise OSError if something of another kind, such as /dev/null, would be replaced."""
        if self._target.exists():  # raises for a name that is too long
            is_folder = self._target.is_dir()
            if is_folder != self._is_folder or not (is_folder or self._target.is_file()):
                kind = "a folder" if is_folder else "a file" if self._is_folder else "a device"
                raise FileExistsError(errno.EEXIST, f"{kind} has this name")

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_) -> None:
        self.discard()


@contextlib.contextmanager
def atomic_file(target: str | os.PathLike) -> Iterator[Path]:
    """A temporary file that replaces ``target`` when the block ends without an exception.

    Raises:
        SeparationError: the target cannot be written.
    """
    with writing(target), Draft(target) as draft:
        yield draft.path
        draft.publish()


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder that replaces ``target`` when the block ends without an exception.

    Raises:
        SeparationError: the target, or a file in it, cannot be written.
    """
    with writing(target), Draft(target, is_folder=True) as draft:
        try:
            yield draft.path
        except WriteError as error:  # it names a file in the temporary folder
            raise error.__cause__ from None
        draft.publish()


def write_text(target: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 file atomically.

    Raises:
        SeparationError: the target cannot be written.
    """
    with atomic_file(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: str | os.PathLike, data: object) -> None:
    """Write an indented JSON file atomically.

    Raises:
        SeparationError: the target cannot be written.
    """
    write_text(target, json.dumps(data, indent=2) + "\n")


def read_json(path: Path, name: str) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Args:
        name: of the contents, for the error message.

    Raises:
        SeparationError: it cannot be read or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SeparationError(f"cannot read the {name} {path}: {error}") from error
    if not isinstance(data, dict):
        raise SeparationError(f"the {name} {path} must be a JSON object")
    return data


def lock(folder: Path, refusal: str) -> filelock.BaseFileLock:
    """Lock a folder until ``release`` is called or the process ends.

    Args:
        refusal: error message if another process holds the lock.

    Raises:
        SeparationError: then, or if the folder cannot be written.
    """
    found = filelock.FileLock(folder / ".lock", timeout=0, thread_local=False)
    with writing(folder):
        try:
            found.acquire()
        except filelock.Timeout as error:  # an OSError
            raise SeparationError(refusal) from error
    return found


def _replace_folder(target: Path, new: Path) -> None:
    """Put a folder in the place of another; the old one comes back if that fails."""
    # not a name that remove_stale removes: a process killed here leaves the only copy
    old = target.with_name(f".{target.name[-_NAME_END:]}-old-{secrets.token_hex(4)}")
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Remove what killed processes left in a folder, those of other machines after a day."""
    for path in folder.glob(".spleeter-2-*"):
        if (found := _TEMPORARY.match(path.name)) and not _is_in_use(path, *found.groups()):
            _remove(path)


def _is_in_use(path: Path, pid: str, host: str) -> bool:
    try:
        if host != _HOST:
            return time.time() - path.stat().st_mtime < _ABANDONED
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process belongs to another user
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a file or folder; no-op if that fails, so that an earlier exception is kept."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
