"""A list of songs that no command line holds: a CSV or Parquet file, a row per song.

The column ``input`` must be there: a path or URL. ``output`` is the folder of the song's stems in
place of ``-o``; the other columns are options of ``spleeter separate`` under their long names
(``OPTIONS``). An empty cell stands for the command line's value. Relative paths are relative to the
manifest's folder. Rows are counted from 1, without the line of the columns' names.

The file is read twice, some rows at a time: all rows are checked before the first song is
separated. The check keeps 8 bytes per song and per stem.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from spleeter_2.audio.codecs import Encoding
from spleeter_2.audio.ffmpeg import STDIO
from spleeter_2.errors import SeparationError

from .parquet import column_names, is_parquet, read_rows
from .paths import Job, plan_song
from .remote import is_remote, without_file_protocol
from .separator import choose_stems
from .song import Settings

Model = tuple[str, Sequence[str]]  # its name, and its instruments


@dataclass(frozen=True)
class Row:
    """A song of a manifest.

    Attributes:
        settings: of the run, with the row's options; ``stems`` is not among them.
    """

    song: Job
    settings: Settings


class Manifest:
    """The songs of a manifest.

    Args:
        path: of the file; ``.parquet`` is Parquet, any other suffix is CSV.
        settings: of the command line.
        model: its name and its instruments.

    Attributes:
        nb_songs: number of rows.
        stems: all instruments that rows need, in the model's order.

    Raises:
        SeparationError: a file that cannot be read, an unknown column, no songs; a row with an
            invalid value, or whose stems have the path of another stem or song. The row is named.
    """

    def __init__(self, path: str, settings: Settings, model: Model) -> None:
        self._path = Path(os.path.abspath(path))
        self._name, self._settings, self._model = path, settings, model
        self._check()

    def __iter__(self) -> Iterator[Row]:
        for number, cells in enumerate(self._cells(), start=1):
            yield self._parse(number, cells)

    def _check(self) -> None:
        sources, outputs, stems = array("Q"), array("Q"), set()
        for row in self:
            sources.append(_hash(_absolute(row.song.source)))
            outputs.extend(map(_hash, row.song.outputs.values()))
            stems.update(row.song.outputs)
        if not sources:
            raise SeparationError(f"{self._name} lists no songs")
        self.nb_songs = len(sources)
        self.stems = choose_stems(*self._model, sorted(stems))
        suspects = _repeated(np.array(outputs), np.array(sources))
        if suspects:
            self._check_clashes(suspects)

    def _check_clashes(self, suspects: set[int]) -> None:
        """Compare the paths whose hashes are equal.

        Args:
            suspects: hashes of two outputs, or of an output and a source.
        """
        owners: dict[str, str] = {}
        sources = {
            path: f"the input of row {number}"
            for number, row in enumerate(self, start=1)
            if _hash(path := _absolute(row.song.source)) in suspects
        }
        for number, row in enumerate(self, start=1):
            for instrument, path in row.song.outputs.items():
                if _hash(path) not in suspects:
                    continue
                owner = owners.get(path) or sources.get(path)
                if owner is not None:
                    raise SeparationError(
                        f"{self._name}, row {number}: the {instrument} has the path of {owner}, "
                        f"{path}: give another output or filename_format"
                    )
                owners[path] = f"the {instrument} of row {number}"

    def _parse(self, number: int, cells: Mapping[str, str]) -> Row:
        try:
            return self._row({name: text for name, text in cells.items() if text.strip()})
        except SeparationError as error:
            raise SeparationError(f"{self._name}, row {number}: {error}") from error

    def _row(self, cells: dict[str, str]) -> Row:
        source, output = cells.pop("input", ""), cells.pop("output", None)
        if source in ("", STDIO) or output == STDIO:
            raise SeparationError("input and output must be paths or URLs")
        options = {name: OPTIONS[name](name, text) for name, text in cells.items()}
        settings = self._settings
        stems = options.pop("stems", settings.stems)
        encoding = {
            name: options.pop(name, getattr(settings.encoding, name))
            for name in ("codec", "bits", "bitrate")
        }
        if output is not None:
            options["output_path"] = self._located(output)
        settings = replace(settings, encoding=Encoding(**encoding), stems=None, **options)
        song = plan_song(
            self._located(source),
            settings.output_path,
            settings.filename_format,
            settings.encoding.codec,
            choose_stems(*self._model, stems),
        )
        return Row(song, settings)

    def _located(self, path: str) -> str:
        """A path of the file, absolute, or a URL."""
        path = without_file_protocol(path)
        return path if is_remote(path) else os.path.normpath(self._path.parent / path)

    def _cells(self) -> Iterator[dict[str, str]]:
        """Rows as texts by column."""
        if is_parquet(self._name):
            self._check_columns(column_names(self._path))
            for row in read_rows(self._path):
                yield {name: _text(value) for name, value in row.items()}
            return
        try:
            # of Excel, with a byte order mark
            with self._path.open(newline="", encoding="utf-8-sig") as file:
                yield from self._csv_cells(csv.reader(file, strict=True))
        except OSError as error:
            raise SeparationError(f"cannot read {self._name}: {error.strerror}") from error
        except (csv.Error, UnicodeError) as error:
            raise SeparationError(f"{self._name} is not CSV in UTF-8: {error}") from error

    def _csv_cells(self, rows: Iterator[list[str]]) -> Iterator[dict[str, str]]:
        columns = [name.strip() for name in next(rows, [])]
        self._check_columns(columns)
        number = 0
        for cells in rows:
            if not cells:  # an empty line
                continue
            number += 1
            if len(cells) > len(columns):
                raise SeparationError(
                    f"{self._name}, row {number}: {len(cells)} cells for {len(columns)} columns"
                )
            yield dict(zip(columns, cells, strict=False))

    def _check_columns(self, columns: Sequence[str]) -> None:
        known = ("input", "output", *OPTIONS)
        unknown = [name for name in columns if name not in known]
        if unknown:
            raise SeparationError(
                f"{self._name} has the column {unknown[0]!r}; the columns are {', '.join(known)}"
            )
        if "input" not in columns:
            raise SeparationError(f"{self._name} lacks the column input")
        if len(set(columns)) < len(columns):
            raise SeparationError(f"{self._name} has a column twice")


def _parse_text(_: str, text: str) -> str:
    return text


def _parse_word(_: str, text: str) -> str:
    return text.strip()


def _parse_number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise SeparationError(f"{name} must be a number, not {text!r}") from error


def _parse_whole(name: str, text: str) -> int:
    number = _parse_number(name, text)  # "22050.0" of a table with empty cells
    if not number.is_integer():
        raise SeparationError(f"{name} must be a whole number, not {text!r}")
    return int(number)


def _parse_names(_: str, text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


# columns, as the command's long options; each with its parser
OPTIONS: dict[str, Callable[[str, str], Any]] = {
    "filename_format": _parse_text,
    "codec": _parse_word,
    "bitrate": _parse_word,
    "bits": _parse_word,
    "duration": _parse_number,
    "offset": _parse_number,
    "stems": _parse_names,
    "sample_rate": _parse_whole,
    "stream": _parse_whole,
}


def _text(value: Any) -> str:
    """A value of a Parquet file as CSV would have it."""
    if value is None or value != value:  # NaN, which stands for no value in tables of pandas
        return ""
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _absolute(source: str) -> str:
    return source if is_remote(source) else os.path.abspath(source)


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _repeated(outputs: np.ndarray, sources: np.ndarray) -> set[int]:
    """Values that ``outputs`` has twice, or that ``sources`` has as well."""
    outputs = np.sort(outputs)
    twice = outputs[1:][outputs[1:] == outputs[:-1]]
    return {*twice.tolist(), *outputs[np.isin(outputs, sources)].tolist()}
