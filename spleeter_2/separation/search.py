"""Find songs by file names, folders, glob patterns and URLs.

A search leaves out hidden and system folders and stems: files in the output folder, files with the
mark of ``spleeter_2.audio.mark``, and folders that are named after a song and hold nothing but
stems, as Spleeter writes them. A file that is given by its name is always a song.
"""

from __future__ import annotations

import fnmatch
import functools
import glob
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from spleeter_2.audio.ffmpeg import STDIO
from spleeter_2.audio.folders import is_hidden
from spleeter_2.audio.mark import is_marked
from spleeter_2.audio.reader import SUFFIXES
from spleeter_2.data.songs import STEMS
from spleeter_2.errors import SeparationError

from .remote import is_remote, without_file_protocol

log = logging.getLogger(__name__)

REASON = (
    "stems that were separated before, or files in the output folder; name a file to separate it"
)
Found = list[tuple[str, str]]  # paths, each with its folder relative to the folder searched
OnError = Callable[[SeparationError], None]


def find_sources(
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    instruments: Iterable[str],
    on_error: OnError | None = None,
) -> Found:
    """Find the songs of inputs, each once.

    Args:
        inputs, output, on_error: see ``plan_outputs``.
        instruments: names of stems, in addition to the usual ones.

    Raises:
        SeparationError: an input without songs; without ``on_error``, a folder that cannot be
            searched.
    """
    search = _Search(output, instruments, on_error)
    found: dict[str, tuple[str, str]] = {}
    for item in map(without_file_protocol, inputs):
        for source, tree in search.expand(item):
            key = source if source == STDIO or is_remote(source) else os.path.realpath(source)
            found.setdefault(key, (source, tree))
    return list(found.values())


class _Search:
    def __init__(
        self, output: str | os.PathLike, instruments: Iterable[str], on_error: OnError | None
    ) -> None:
        is_path = output != STDIO and not is_remote(output)
        self._output = os.path.abspath(output) if is_path else None
        self._instruments = {name.casefold() for name in (*STEMS, *instruments)} - {"mixture"}
        self._on_error = on_error
        self._messages: set[str] = set()
        self._nb_errors = 0
        self._in_output = functools.lru_cache(maxsize=None)(self._is_in_output)

    def expand(self, item: str) -> Found:
        """The songs of one input."""
        before = self._nb_errors
        if is_remote(item):
            return [(item, "")]
        if os.path.isdir(item):
            top, what, found = item, f"the folder {item}", self._walk(item)
            none = f"there is no audio file in {what}"
        elif not os.path.exists(item) and glob.has_magic(item):
            top, what, found = _literal_part(item), item, self._match(item)
            none = f"no file matches {item}"
        else:
            return [(item, "")]
        songs = self._without_stems(found, leave_output=not self._in_output(top))
        nb_left_out = len(found) - len(songs)
        if nb_left_out and songs:
            log.warning(f"note: {nb_left_out} file(s) in {what} left out: {REASON}")
        elif nb_left_out:
            raise SeparationError(f"all {nb_left_out} file(s) in {what} are left out: {REASON}")
        elif not songs and self._nb_errors == before:
            raise SeparationError(none)
        return songs

    def _walk(self, top: str) -> Found:
        """Audio files below a folder; linked folders come last, so that songs keep their place."""
        found: Found = []
        seen: set[str] = set()
        left = deque([top])
        while left:
            for folder, folders, names in os.walk(left.popleft(), onerror=self._report):
                real = os.path.realpath(folder)
                if real in seen:  # by a link
                    folders.clear()
                    continue
                seen.add(real)
                folders[:] = sorted(name for name in folders if not is_hidden(name))
                paths = [os.path.join(folder, name) for name in folders]
                left += filter(os.path.islink, paths)
                tree = os.path.relpath(folder, top)
                found += [(os.path.join(folder, name), tree) for name in filter(_is_audio, names)]
        # reading a pipe would never end; a broken link is an error of that song
        return sorted(
            pair for pair in found if os.path.isfile(pair[0]) or not os.path.exists(pair[0])
        )

    def _match(self, pattern: str) -> Found:
        """Files that match a glob pattern, and audio files below folders that match it.

        If nothing matches, brackets that are part of a name are taken literally.
        """
        first, *parts = pattern.split(os.sep)
        start, parts = (os.sep, parts) if not first else ("", [first, *parts])
        for literal in (False, True):
            if matches := sorted(set(self._matches(start, parts, literal))):
                break
        found: dict[str, tuple[str, str]] = {}
        for match in matches:
            for path, tree in self._walk(match) if os.path.isdir(match) else [(match, "")]:
                found.setdefault(os.path.realpath(path), (path, tree))
        return list(found.values())

    def _matches(
        self, folder: str, parts: Sequence[str], literal: bool, above: frozenset[str] = frozenset()
    ) -> Iterator[str]:
        """Paths below a folder that match the parts of a pattern.

        Args:
            literal: brackets may also stand for themselves.
            above: real paths of the folders that ``**`` has entered, against loops.
        """
        if not parts:
            yield folder or os.curdir
            return
        part, rest = parts[0], parts[1:]
        if part == "**":
            real = os.path.realpath(folder)
            if real in above:
                return
            yield from self._matches(folder, rest, literal)
            for name in self._names(folder) if rest else ():  # a folder itself is searched
                path = os.path.join(folder, name)
                if not is_hidden(name) and os.path.isdir(path):
                    yield from self._matches(path, parts, literal, above | {real})
        elif not glob.has_magic(part):
            path = os.path.join(folder, part)
            if os.path.lexists(path or os.curdir):
                yield from self._matches(path, rest, literal)
        else:
            for name in self._names(folder):
                hidden = is_hidden(name) and not part.startswith(".")
                if not hidden and _fits(name, part, literal):
                    yield from self._matches(os.path.join(folder, name), rest, literal)

    def _names(self, folder: str) -> list[str]:
        try:
            with os.scandir(folder or os.curdir) as entries:
                return sorted(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._report(error)
            return []

    def _report(self, error: OSError) -> None:
        """Report a folder that cannot be searched, once; ``os.walk`` would skip it."""
        message = f"cannot search the folder {error.filename}: {error.strerror}"
        if self._on_error is None:
            raise SeparationError(message) from error
        self._nb_errors += 1
        if message not in self._messages:
            self._messages.add(message)
            self._on_error(SeparationError(message))

    def _without_stems(self, found: Found, leave_output: bool) -> Found:
        songs = [
            (path, tree)
            for path, tree in found
            if not (leave_output and self._in_output(os.path.dirname(path)))
            and not (os.path.isfile(path) and is_marked(path))
        ]
        names_in: dict[str, set[str]] = {}
        for path, _ in songs:
            names_in.setdefault(os.path.dirname(path), set()).add(_name(path))
        titles = set().union(*names_in.values()) - self._instruments
        stems = {
            folder
            for folder, names in names_in.items()
            if len(names) > 1 and names <= self._instruments
            # abspath: a folder may be called "."
            if os.path.basename(os.path.abspath(folder)).casefold() in titles
        }
        return [pair for pair in songs if os.path.dirname(pair[0]) not in stems]

    def _is_in_output(self, folder: str) -> bool:
        """Return True for the output folder and those below it, by whatever path or link."""
        if self._output is None or not os.path.isdir(self._output):
            return False
        folder = os.path.realpath(folder)
        while True:
            # not by name: file systems may ignore case
            if os.path.isdir(folder) and os.path.samefile(folder, self._output):
                return True
            if folder == (folder := os.path.dirname(folder)):
                return False


def _is_audio(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _name(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0].casefold()


def _literal_part(pattern: str) -> str:
    """The folder of a pattern's last part before the first magic character."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern


def _fits(name: str, part: str, literal: bool) -> bool:
    return fnmatch.fnmatch(name, part) or (
        literal and fnmatch.fnmatch(name, part.replace("[", "[[]"))
    )
