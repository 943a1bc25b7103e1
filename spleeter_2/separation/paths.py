"""Songs to separate and the paths of their stems, checked before any work starts."""

from __future__ import annotations

import functools
import os
import posixpath
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spleeter_2.audio.ffmpeg import STDIO
from spleeter_2.errors import SeparationError

from .remote import is_readonly, is_remote, join, parts_of, without_file_protocol
from .search import OnError, find_sources

FIELDS = ("filename", "foldername", "instrument", "codec")


@dataclass(frozen=True)
class Job:
    """A song to separate.

    Attributes:
        source: path, URL, or "-" for standard input.
        outputs: path or URL of each stem by instrument, or "-" for standard output.
        pattern: of the outputs, with ``{instrument}`` for the instrument.
    """

    source: str
    outputs: dict[str, str]
    pattern: str = STDIO


def plan_outputs(
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    template: str,
    codec: str,
    instruments: Iterable[str],
    on_error: OnError | None = None,
) -> list[Job]:
    """Find the songs and the paths of their stems.

    Args:
        inputs: files, folders (searched for audio; the output has the same tree), glob patterns,
            URLs, or "-". ``separation.search`` describes what a search leaves out.
        output: folder for the stems, its URL, or "-" for one stem of one song.
        template: path below ``output`` with ``{filename}``, ``{foldername}``, ``{instrument}``
            and ``{codec}``.
        on_error: called for a folder that cannot be searched (default: raise the error).

    Returns:
        A job per song; none only if all folders were reported to ``on_error``.

    Raises:
        SeparationError: no songs; a template with unknown fields or outside ``output``; two stems,
            or a stem and a source, with the same path.
    """
    instruments, output = tuple(instruments), without_file_protocol(output)
    found = find_sources(inputs, output, instruments, on_error)
    if not found:
        return []
    if output == STDIO:
        if len(found) != 1 or len(instruments) != 1 or codec != "wav":
            raise SeparationError(
                "standard output takes one stem of one song, as WAV: name it with --stems"
            )
        return [Job(found[0][0], {instruments[0]: STDIO})]
    songs = [
        plan_song(source, output, template, codec, instruments, tree) for source, tree in found
    ]
    _check_clashes(songs)
    return songs


def plan_song(
    source: str,
    output: str,
    template: str,
    codec: str,
    instruments: Sequence[str],
    tree: str = "",
) -> Job:
    """The paths of one song's stems; see ``plan_outputs``.

    Args:
        tree: folder below ``output``.

    Raises:
        SeparationError: a template with unknown fields or outside ``output``; an ``output`` that
            cannot be written to.
    """
    _check_template(template)
    if is_readonly(output):
        raise SeparationError(f"stems cannot be written to {output}: name a folder or a store")
    root = output if is_remote(output) else os.path.abspath(output)
    names = _names(source)
    *paths, pattern = (
        _stem_path(root, tree, template, names, name, codec)
        for name in (*instruments, "{instrument}")
    )
    return Job(source, dict(zip(instruments, paths, strict=True)), pattern)


@functools.lru_cache
def _check_template(template: str) -> None:
    """Raise SeparationError for a broken template or unknown fields."""
    known = ", ".join("{" + name + "}" for name in FIELDS)
    try:
        fields = [field[1:] for field in string.Formatter().parse(template)]
    except ValueError as error:
        raise SeparationError(f"the filename format {template!r} is broken: {error}") from error
    for name, width, conversion in fields:
        if name is None:
            continue
        if name not in FIELDS:
            raise SeparationError(f"the filename format has the fields {known}, not {{{name}}}")
        if width or conversion:
            raise SeparationError(f"the filename format takes {{{name}}} without : or !")


def _stem_path(
    root: str, tree: str, template: str, names: tuple[str, str], instrument: str, codec: str
) -> str:
    folder, filename = names
    name = template.format(filename=filename, foldername=folder, instrument=instrument, codec=codec)
    if is_remote(root):
        below = posixpath.normpath(posixpath.join(tree, name))
        path, is_inside = join(root, below), below.split("/")[0] not in ("", ".", "..")
    else:
        path = os.path.normpath(os.path.join(root, tree, name))
        is_inside = path != root and os.path.commonpath([root, path]) == root
    if not is_inside or name.endswith(("/", os.sep)):
        raise SeparationError(
            f"the filename format {template!r} results in {path}, which is no file inside {root}"
        )
    return path


def _names(source: str) -> tuple[str, str]:
    """Values of ``{foldername}`` and ``{filename}``."""
    if source == STDIO:
        return "", "stdin"
    if is_remote(source):
        folder, name = parts_of(source)
    else:
        absolute = os.path.abspath(source)
        folder, name = os.path.basename(os.path.dirname(absolute)), os.path.basename(absolute)
    return folder, os.path.splitext(name)[0]


def _identity(path: str) -> str:
    """The same text for two names of a file, where that can be seen without reading it."""
    return path if path == STDIO or is_remote(path) else os.path.realpath(path)


def _check_clashes(songs: list[Job]) -> None:
    owners: dict[str, str] = {}
    sources = {_identity(song.source) for song in songs if song.source != STDIO}
    for song in songs:
        for instrument, path in song.outputs.items():
            if _identity(path) in sources:
                raise SeparationError(
                    f"the {instrument} of {song.source} would replace the source {path}: "
                    "choose another output folder or filename format"
                )
            owner = f"{instrument} of {song.source}"
            if path in owners:
                raise SeparationError(
                    f"{owners[path]} and {owner} would both be written to {path}: "
                    "choose another filename format, or separate them in separate runs"
                )
            owners[path] = owner
