"""Write a file or a folder so that it is whole or absent; JSON; a lock.

Until it is complete, a file or folder has a temporary name beside its target, ``.spleeter-2-...``,
and is locked (``flock``). The lock ends with the process, so a later run finds and removes what a
killed one left behind, in whatever container or on whatever machine it ran.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from .errors import SeparationError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"^\.spleeter-2-[0-9a-f]{12}-")
_UNLOCKED = re.compile(r"^\.spleeter-2-\d{1,9}-[0-9a-f]{8}-")  # of older versions: PID and host
_ABANDONED = 86400.0  # seconds without a write after which the process of an unlocked file is dead
_ATTEMPTS = 10
_NAME_END = 48  # characters; at 4 bytes each, and with a prefix, fewer than the usual 255 bytes


class WriteError(SeparationError):
    """A file or folder cannot be written; ``__cause__`` is the OSError."""


def temporary_folder(advice: str = "name one in TMPDIR") -> str:
    """The system's folder for temporary files.

    Raises:
        SeparationError: there is none that can be written; the message ends with the advice.
    """
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise SeparationError(
            f"there is no folder for temporary files that can be written: {advice}"
        ) from error


def user_cache(name: str, advice: str) -> Path:
    """A folder of this program in the user's cache; it need not exist.

    ``$XDG_CACHE_HOME/spleeter-2/NAME``, or below ``~/.cache``, ``~/Library/Caches`` (macOS) or
    ``%LOCALAPPDATA%`` (Windows).

    Args:
        advice: end of the message, what to do without a home.

    Raises:
        SeparationError: the user has no home.
    """
    bases = [os.environ.get("XDG_CACHE_HOME", "")]
    if sys.platform == "win32":
        bases.append(os.environ.get("LOCALAPPDATA", ""))
    # the XDG specification says to ignore relative paths
    base = next(filter(os.path.isabs, bases), None)
    try:
        below = "Library/Caches" if sys.platform == "darwin" else ".cache"
        folder = Path.home() / below if base is None else Path(base)
    except RuntimeError as error:
        raise SeparationError(f"there is no home folder for {advice}") from error
    return folder / "spleeter-2" / name


@contextlib.contextmanager
def writing(place: str | os.PathLike) -> Iterator[None]:
    """Turn an OSError of the block into one sentence.

    Raises:
        WriteError: it names the place and the reason.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {place}: {reason_of(error)}") from error


def reason_of(error: OSError) -> str:
    """The reason of an OSError, for the user."""
    if error.errno == errno.ENOSPC:
        return "the disk is full, free some space"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many open files, raise the limit (ulimit -n)"
    return error.strerror or str(error)


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
        self._lock: int | None = None
        self.path = self._new_name()
        _drafts[self] = None
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
        self._end()

    def discard(self) -> None:
        """Remove the file or folder, unless it is published, and the folders made for it."""
        _remove(self.path)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # another process has put a file there
                folder.rmdir()
        self._made.clear()
        self._end()

    def _end(self) -> None:
        """Release the lock."""
        held, self._lock = self._lock, None
        if held is not None:
            os.close(held)
        _drafts.pop(self, None)

    def _new_name(self) -> Path:
        name = self._target.name[-_NAME_END:]  # with the suffix
        return self._target.with_name(f".spleeter-2-{secrets.token_hex(6)}-{name}")

    def _begin(self) -> None:
        """Make the parent folders and an empty, locked file or folder of the temporary name."""
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                for folder in reversed(self._target.parents):
                    self._make(folder)
                self._check_target()
                remove_stale(self.path.parent)
                self.path.mkdir() if self._is_folder else self.path.touch(exist_ok=False)
                self._lock = _lock(self.path)
                return
            # another writer failed and removed a parent that it had made, or another run's
            # ``remove_stale`` came between the file and its lock
            except (FileNotFoundError, BlockingIOError):
                if not attempts_left:
                    raise
                _remove(self.path)
                self.path = self._new_name()

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


_drafts: dict[Draft, None] = {}  # neither published nor discarded, in order


def discard_drafts() -> None:
    """Discard all drafts of this process, as its end does if an interrupt has come in between."""
    for draft in reversed(list(_drafts)):  # an earlier one may have made the folders of a later one
        draft.discard()


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


def sha256_of(file: BinaryIO) -> str:
    """SHA-256, in hexadecimal digits, of a binary file from its position to its end."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def lock(folder: Path, refusal: str, timeout: float = 0) -> filelock.BaseFileLock:
    """Lock a folder until ``release`` is called or the process ends.

    Args:
        refusal: error message if another process holds the lock.
        timeout: seconds to wait for that process; -1: without end.

    Raises:
        SeparationError: then, or if the folder cannot be written.
    """
    found = filelock.FileLock(folder / ".lock", timeout=timeout, thread_local=False)
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


def is_draft(path: Path) -> bool:
    """True if a path has the temporary name of a draft."""
    return bool(_TEMPORARY.match(path.name) or _UNLOCKED.match(path.name))


def remove_stale(folder: Path) -> None:
    """Remove what killed processes left in a folder; unlocked files after a day without a write."""
    for path in folder.glob(".spleeter-2-*"):
        if _TEMPORARY.match(path.name):
            _remove_if_abandoned(path)
        elif _UNLOCKED.match(path.name) and _is_old(path):
            _remove(path)


def _remove_if_abandoned(path: Path) -> None:
    """Remove a file or folder whose lock nobody holds, or that is old where there are no locks."""
    try:
        held = _lock(path)
    except FileNotFoundError:  # it is published or removed by now
        return
    except BlockingIOError:
        return
    except OSError:  # it belongs to another user, or too many files are open
        held = None
    if held is not None or _is_old(path):
        _remove(path)
    if held is not None:
        os.close(held)


def _lock(path: Path) -> int | None:
    """Lock a file or folder until the returned descriptor is closed or the process ends.

    Children do not inherit the descriptor, and programs that write the file do not notice.

    Returns:
        None if the file system has no locks.

    Raises:
        FileNotFoundError: the path is gone.
        BlockingIOError: it is locked already.
        OSError: it cannot be opened.
    """
    if fcntl is None:
        return None
    # NFS locks only what is open for writing; a folder cannot be
    mode = os.O_RDONLY if path.is_dir() else os.O_RDWR
    descriptor = os.open(path, mode | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(path)  # raises if it was removed before it was locked: names do not come back
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_old(path: Path) -> bool:
    """True if nothing was written to a file, or in a folder, for a day."""
    try:
        newest = max(item.lstat().st_mtime for item in (path, *path.rglob("*")))
    except OSError:  # it is in use
        return False
    return time.time() - newest > _ABANDONED


def _remove(path: Path) -> None:
    """Remove a file or folder; no-op if that fails, so that an earlier exception is kept."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
