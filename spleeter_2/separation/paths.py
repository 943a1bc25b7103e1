"""Songs to separate and the paths of their stems, checked before any work starts."""

from __future__ import annotations

import os
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spleeter_2.audio.ffmpeg import STDIO
from spleeter_2.errors import SeparationError

from .search import OnError, find_sources

FIELDS = ("filename", "foldername", "instrument", "codec")


@dataclass(frozen=True)
class Job:
    """A song to separate.

    Attributes:
        source: path, or "-" for standard input.
        outputs: path of each stem by instrument, or "-" for standard output.
    """

    source: str
    outputs: dict[str, str]


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
            or "-". ``separation.search`` describes what a search leaves out.
        output: folder for the stems, or "-" for one stem of one song.
        template: path below ``output`` with ``{filename}``, ``{foldername}``, ``{instrument}``
            and ``{codec}``.
        on_error: called for a folder that cannot be searched (default: raise the error).

    Returns:
        A job per song; none only if all folders were reported to ``on_error``.

    Raises:
        SeparationError: no songs; a template with unknown fields or outside ``output``; two stems,
            or a stem and a source, with the same path.
    """
    instruments = tuple(instruments)
    found = find_sources(inputs, output, instruments, on_error)
    if not found:
        return []
    if output == STDIO:
        if len(found) != 1 or len(instruments) != 1 or codec != "wav":
            raise SeparationError(
                "standard output takes one stem of one song, as WAV: name it with --stems"
            )
        return [Job(found[0][0], {instruments[0]: STDIO})]
    _check_template(template)
    root = os.path.abspath(output)
    songs = [
        Job(
            source,
            {name: _stem_path(root, tree, template, source, name, codec) for name in instruments},
        )
        for source, tree in found
    ]
    _check_clashes(songs)
    return songs


def _check_template(template: str) -> None:
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
    root: str, tree: str, template: str, source: str, instrument: str, codec: str
) -> str:
    stdin = source == STDIO
    absolute = os.path.abspath(source)
    name = template.format(
        filename="stdin" if stdin else os.path.splitext(os.path.basename(absolute))[0],
        foldername="" if stdin else os.path.basename(os.path.dirname(absolute)),
        instrument=instrument,
        codec=codec,
    )
    path = os.path.normpath(os.path.join(root, tree, name))
    if path == root or os.path.commonpath([root, path]) != root or name.endswith(("/", os.sep)):
        raise SeparationError(
            f"the filename format {template!r} results in {path}, which is no file inside {root}"
        )
    return path


def _check_clashes(songs: list[Job]) -> None:
    owners: dict[str, str] = {}
    sources = {os.path.realpath(song.source) for song in songs if song.source != STDIO}
    for song in songs:
        for instrument, path in song.outputs.items():
            if os.path.realpath(path) in sources:
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
