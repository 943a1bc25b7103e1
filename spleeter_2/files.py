"""Write a file or a folder so that it is whole or absent; JSON; a lock.

What is written has a temporary name beside its target until it is complete. The names are hidden
and hold the process id, so that a later run removes what a killed one left behind.
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
import zlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from .errors import SeparationError

# machines may share a folder: a process id means something on its own machine only
_HOST = f"{zlib.crc32(platform.node().encode()) & 0xFFFF:04x}"
_TEMPORARY = re.compile(rf"^\.spleeter-2-(\d+)-{_HOST}[0-9a-f]{{4}}-")


@contextlib.contextmanager
def writing(place: str | os.PathLike) -> Iterator[None]:
    """Turn an OSError of the block into one sentence.

    Raises:
        SeparationError: it names the place and the reason.
    """
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = "the disk is full, free some space" if full else error.strerror or error
        raise SeparationError(f"cannot write {place}: {reason}") from error


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
        # the name may be as long as the file system allows: keep its end, with the suffix
        unique = f"{os.getpid()}-{_HOST}{secrets.token_hex(2)}"
        name = f".spleeter-2-{unique}-{self._target.name[-64:]}"
        self.path = self._target.with_name(name)
        try:
            for folder in reversed(self._target.parents):
                self._make(folder)
            if not is_folder and self._target.is_dir():  # raises for a name that is too long
                raise IsADirectoryError(errno.EISDIR, "a folder has this name")
            remove_stale(self.path.parent)
            self.path.mkdir() if is_folder else self.path.touch(exist_ok=False)
        except OSError:
            self._remove_made()
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
        if self._is_folder:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # keep the original exception
                self.path.unlink(missing_ok=True)
        self._remove_made()

    def _make(self, folder: Path) -> None:
        """Make a missing folder; another process may do so at the same time."""
        if not folder.exists():
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                self._made.append(folder)

    def _remove_made(self) -> None:
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # another process has put a file there
                folder.rmdir()
        self._made.clear()

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
        SeparationError: the target cannot be written.
    """
    with writing(target), Draft(target, is_folder=True) as draft:
        yield draft.path
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
    old = target.with_name(f".{target.name[-64:]}-old-{secrets.token_hex(4)}")
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder."""
    for path in folder.iterdir():
        found = _TEMPORARY.match(path.name)
        if found and not _is_alive(int(found[1])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True
