"""A song in the server's folder: its state, and the files that hold its stems.

``FOLDER/ID/`` has ``song.json``, the uploaded ``source.*`` until the song is separated, and two
files per stem: samples, which can be read while they are written, and peaks for its waveform. File
names are made from identifiers and numbers only, never from what a client sends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from spleeter_2.audio.riff import float_header
from spleeter_2.errors import SeparationError
from spleeter_2.files import write_json, writing

STATE = "song.json"
PEAKS_PER_SECOND = 50
SAMPLE = np.dtype("<f4")
State = Literal["queued", "running", "done", "failed"]
# bounds for what is read from a file
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
Number = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class Gone(SeparationError):
    """A stem is not on the disk any more."""


class Options(msgspec.Struct, frozen=True):
    """How a song is separated; see ``Separator``."""

    model: str
    stems: tuple[str, ...] | None = None
    overlap: Number | None = None
    shifts: Count = 1


class Song(msgspec.Struct):
    """A song and its state; the library's lock guards changes.

    Attributes:
        name: of the uploaded file.
        source: name of the uploaded file in the song's folder.
        created: seconds since 1970.
        finished: seconds since 1970, or None.
        error: the sentence, if the state is "failed".
        tags: of the song, for the stems.
        seconds: duration that the file declares, or None.
        nb_samples: samples of every stem so far.
        version: of the library at the last change.
    """

    id: str
    name: str
    options: Options
    source: str
    created: Number
    finished: Number | None = None
    state: State = "queued"
    error: str = ""
    notes: list[str] = []
    tags: dict[str, str] = {}
    instruments: list[str] = []
    sample_rate: Count = 0
    nb_channels: Count = 0
    seconds: Number | None = None
    nb_samples: Count = 0
    version: Count = 0

    @property
    def is_over(self) -> bool:
        """True if no more samples will come."""
        return self.state in ("done", "failed")

    def describe(self) -> dict[str, Any]:
        """What a client sees."""
        facts = msgspec.to_builtins(self)
        for key in ("options", "source", "tags", "version", "nb_samples"):
            del facts[key]
        return {
            **facts,
            **msgspec.to_builtins(self.options),
            "ready": round(self.nb_samples / self.sample_rate, 6) if self.sample_rate else 0.0,
            "data_offset": len(float_header(1, 1, None)),
        }


class SongFolder:
    """The files of a song.

    Args:
        path: folder of the song.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def samples(self, index: int) -> Path:
        """File of a stem's samples: raw float32 ``[S, C]``."""
        return self.path / f"stem-{index}.f32"

    def peaks(self, index: int) -> Path:
        """File of a stem's peaks: uint8, ``PEAKS_PER_SECOND``, 255 at full scale."""
        return self.path / f"stem-{index}.peaks"

    def load(self) -> Song:
        """Read ``song.json``.

        Raises:
            OSError, ValueError, RecursionError, MsgspecError: it is not there, or was not written
                by ``save``.
        """
        song = msgspec.json.decode((self.path / STATE).read_bytes(), type=Song)
        if song.source != Path(song.source).name or not song.source.startswith("source"):
            raise ValueError("the source is outside the folder")
        song.id, song.version = self.path.name, 0
        return song

    def holds_stems(self, song: Song) -> bool:
        """True if the samples of a song that is done are whole."""
        size = SAMPLE.itemsize * song.nb_channels * song.nb_samples
        paths = [self.samples(index) for index in range(len(song.instruments))]
        known = size and song.sample_rate and paths
        return bool(known) and all(p.is_file() and p.stat().st_size >= size for p in paths)

    def save(self, song: Song) -> None:
        """Write ``song.json`` atomically.

        Raises:
            SeparationError: it cannot be written.
        """
        write_json(self.path / STATE, msgspec.to_builtins(song))

    def remove_stems(self) -> None:
        """Remove samples and peaks, if possible."""
        self._remove_files("stem-*")

    def remove_source(self) -> None:
        """Remove the uploaded file, if possible."""
        self._remove_files("source*")

    def _remove_files(self, pattern: str) -> None:
        for path in self.path.glob(pattern):
            with contextlib.suppress(OSError):  # the folder may be gone, or have become read-only
                path.unlink()

    def remove(self) -> None:
        """Remove everything; no-op for what is gone."""
        shutil.rmtree(self.path, ignore_errors=True)


class StemWriter:
    """Append blocks to a stem's samples and peaks; readers see them at once.

    Args:
        folder: of the song.
        index: of the stem.
        sample_rate: in Hz.
    """

    def __init__(self, folder: SongFolder, index: int, sample_rate: int) -> None:
        self._place = folder.path
        self._step = max(sample_rate // PEAKS_PER_SECOND, 1)
        self._rest = np.zeros(0, SAMPLE)
        with writing(self._place):
            self._samples = open(folder.samples(index), "wb", buffering=0)
            self._peaks = open(folder.peaks(index), "wb", buffering=0)

    def write(self, block: np.ndarray) -> None:
        """Append float32 ``[n, C]``.

        Raises:
            SeparationError: the disk is full, or the file cannot be written.
        """
        data = memoryview(np.ascontiguousarray(block, SAMPLE).reshape(-1).view(np.uint8))
        levels = np.concatenate([self._rest, np.abs(block).max(axis=1)])
        nb_whole = len(levels) // self._step * self._step
        self._rest = levels[nb_whole:]
        with writing(self._place):
            while len(data):  # an unbuffered write may be partial
                data = data[self._samples.write(data) :]
            self._write_peaks(levels[:nb_whole].reshape(-1, self._step))

    def _write_peaks(self, levels: np.ndarray) -> None:
        peaks = np.minimum(np.ceil(levels.max(axis=1, initial=0.0) * 255), 255)
        self._peaks.write(peaks.astype(np.uint8).tobytes())

    def finish(self) -> None:
        """Write the last peak.

        Raises:
            SeparationError: see ``write``.
        """
        if len(self._rest):
            with writing(self._place):
                self._write_peaks(self._rest[None])

    def close(self) -> None:
        """Close the files."""
        self._samples.close()
        self._peaks.close()

    def __enter__(self) -> StemWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_samples(path: Path, nb_channels: int, nb_samples: int) -> np.ndarray:
    """The samples of a stem, float32 ``[S, C]``, mapped from the disk and not read at once.

    Raises:
        Gone: the file is gone or shorter than ``nb_samples``.
    """
    if not nb_samples:
        return np.zeros((0, nb_channels), SAMPLE)
    try:
        return np.memmap(path, SAMPLE, "r", shape=(nb_samples, nb_channels))
    except (OSError, ValueError) as error:
        raise Gone("a stem of this song is gone: separate it again") from error


def peaks_of(song: Song, folder: SongFolder, nb_bins: int) -> dict[str, list[int]]:
    """Peaks of every stem, 0 to 255, in bins that divide the song's duration evenly.

    Bins that are not yet complete are absent, so that a list may be shorter than ``nb_bins``.
    """
    ready = song.nb_samples / song.sample_rate if song.sample_rate else 0.0
    total = ready if song.state == "done" or song.seconds is None else max(song.seconds, ready)
    found = {}
    for index, name in enumerate(song.instruments):
        try:
            peaks = np.frombuffer(folder.peaks(index).read_bytes(), np.uint8)
        except OSError:
            peaks = np.zeros(0, np.uint8)
        edges = np.arange(nb_bins + 1) * (total * PEAKS_PER_SECOND / nb_bins)
        edges = np.minimum(edges.astype(int), len(peaks))
        nb_whole = int(np.searchsorted(edges, len(peaks))) if not song.is_over else nb_bins
        bins = [peaks[a : max(b, a + 1)] for a, b in zip(edges, edges[1:], strict=False)]
        found[name] = [int(part.max(initial=0)) for part in bins[:nb_whole]]
    return found


def move(source: Path, target: Path) -> None:
    """Rename a file within the server's folder.

    Raises:
        SeparationError: it cannot be renamed.
    """
    with writing(target):
        os.replace(source, target)
