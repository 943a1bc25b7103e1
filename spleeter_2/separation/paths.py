"""Songs to separate and the paths of their stems, checked before any work starts."""

from __future__ import annotations

import glob
import os
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spleeter_2.audio.ffmpeg import STDIO
from spleeter_2.audio.reader import SUFFIXES
from spleeter_2.errors import SeparationError

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

    @property
    def is_done(self) -> bool:
        """True if the files of all stems exist."""
        return all(os.path.isfile(path) for path in self.outputs.values())


def plan_outputs(
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    template: str,
    codec: str,
    instruments: Iterable[str],
) -> list[Job]:
    """Find the songs and the paths of their stems.

    Args:
        inputs: files, folders (searched for audio; the output has the same tree), glob patterns,
            or "-".
        output: folder for the stems, or "-" for one stem of one song.
        template: path below ``output`` with ``{filename}``, ``{foldername}``, ``{instrument}``
            and ``{codec}``.

    Raises:
        SeparationError: no songs; a template with unknown fields or outside ``output``; two stems,
            or a stem and a source, with the same path.
    """
    instruments = tuple(instruments)
    found = _find(inputs)
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


def _find(inputs: Sequence[str | os.PathLike]) -> list[tuple[str, str]]:
    """Sources, each with its folder relative to the input folder it was found in."""
    found: dict[str, tuple[str, str]] = {}
    for item in map(os.fspath, inputs):
        for source, tree in _expand(item):
            key = source if source == STDIO else os.path.realpath(source)
            found.setdefault(key, (source, tree))
    return list(found.values())


def _expand(item: str) -> list[tuple[str, str]]:
    if os.path.isdir(item):
        pairs = [
            (os.path.join(folder, name), os.path.relpath(folder, item))
            for folder, folders, names in os.walk(item, onerror=_unreadable)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
        if not pairs:
            raise SeparationError(f"there is no audio file in the folder {item}")
        return sorted(pairs)
    if not os.path.exists(item) and glob.has_magic(item):
        matches = sorted(glob.glob(item, recursive=True))
        if not matches:
            raise SeparationError(f"no file matches {item}")
        return [pair for match in matches for pair in _expand(match)]
    return [(item, "")]


def _unreadable(error: OSError) -> None:
    """Raise for a folder that cannot be searched, which ``os.walk`` would skip."""
    raise SeparationError(f"cannot search the folder {error.filename}: {error.strerror}") from error


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
