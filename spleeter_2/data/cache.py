"""Cache of decoded stems, for fast reads from any position.

A stem is stored as int16 at the model's sample rate and channels: 10.6 MB per minute of stereo at
44.1 kHz, 170 MB for a song of four minutes with four stems. The files are in
``spleeter-2/stems`` in the user's cache; they may be deleted when nothing trains.
A file's name is a hash of its source (path, size, modification time) and of the settings, so a stem
that changes is decoded again. Files are written atomically. Their layout allows memory mapping:
samples, metadata as JSON, length of the metadata in 8 bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Optional, Union

import numpy as np

from spleeter_2.audio.mixing import with_channels
from spleeter_2.audio.reader import AudioReader
from spleeter_2.audio.resampling import resample
from spleeter_2.errors import SeparationError
from spleeter_2.files import Draft, user_cache

from .songs import LEFT_OUT, Note, Song, Songs, StemFile, refuse_none

VERSION = 2  # of the file format and of what is decoded
SILENCE = 1e-3  # -60 dB below full scale: a peak or an RMS below it is silence
FULL_SCALE = 32768.0  # of int16


class _CacheFault(SeparationError):
    """The cache cannot be written: no song can be used."""


class _Stopped(Exception):
    """Another thread failed, or the user interrupted."""


@dataclass(frozen=True)
class CachedStem:
    """A decoded stem in the cache.

    Samples are ``int16 * scale / 32768``; ``scale`` exceeds 1 if the source exceeds full scale.
    """

    path: Path
    nb_samples: int
    nb_channels: int
    sample_rate: int
    scale: float
    peak: float
    source_rate: int
    source_channels: int
    notes: tuple[str, ...]

    def add_to(self, out: np.ndarray, start: int) -> None:
        """Add the samples from ``start`` on to float32 ``[n, C]``.

        Raises:
            SeparationError: the cache file is missing or damaged.
        """
        count = len(out) * self.nb_channels
        offset = 2 * start * self.nb_channels
        try:
            samples = np.fromfile(self.path, "<i2", count, offset=offset)
        except OSError:
            samples = np.zeros(0)
        if len(samples) < count:
            raise SeparationError(
                f"a stem in the cache {self.path.parent} is gone or damaged: run again to decode it"
            )
        out += samples.reshape(-1, self.nb_channels) * np.float32(self.scale / FULL_SCALE)


@dataclass(frozen=True)
class CachedSong:
    """A song whose stems are in the cache; ``nb_samples`` is the length of the shortest stem.

    ``stems``: for each instrument the stems whose sum it is.
    """

    name: str
    nb_samples: int
    stems: dict[str, tuple[CachedStem, ...]]

    def read(self, instrument: str, start: int, nb_samples: int) -> np.ndarray:
        """Read float32 ``[nb_samples, C]`` from ``start`` on; past the song's end it is silent."""
        stems = self.stems[instrument]
        out = np.zeros((nb_samples, stems[0].nb_channels), np.float32)
        inside = max(min(nb_samples, self.nb_samples - start), 0)
        for stem in stems:
            stem.add_to(out[:inside], start)
        return out

    def is_silent(self, instrument: str) -> bool:
        """Return True if the instrument never exceeds -60 dB."""
        return all(stem.peak < SILENCE for stem in self.stems[instrument])


class CachedSongs(Songs):
    """Songs in the cache; the summary includes their duration and size."""

    def lines(self, most: int = 3) -> list[str]:
        heading, *notes = super().lines(most)
        stems = {
            stem.path: stem for song in self for parts in song.stems.values() for stem in parts
        }
        for path, stem in list(stems.items())[:1]:  # all are in one folder and have one rate
            minutes = sum(song.nb_samples for song in self) / stem.sample_rate / 60
            size = sum(path.stat().st_size for path in stems)
            heading += f", {minutes:.1f} minutes, {size / 1e9:.2f} GB in the cache {path.parent}"
        return [heading, *notes]


class StemCache:
    """The cache of one folder, for one sample rate and number of channels.

    Several processes may share a folder: files are written atomically, so two processes that
    decode the same stem at the same time only waste work.

    Args:
        folder: created if missing; None: ``default_folder()``.
        sample_rate: of the model, in Hz.
        nb_channels: of the model, 1 or 2.

    Raises:
        SeparationError: there is no default folder.
    """

    def __init__(
        self, folder: Optional[Path] = None, sample_rate: int = 44100, nb_channels: int = 2
    ) -> None:
        self.folder = Path(os.path.abspath(folder)) if folder else default_folder()
        self.sample_rate = sample_rate
        self.nb_channels = nb_channels

    def decode(self, songs: Songs, jobs: Optional[int] = None) -> CachedSongs:
        """Decode the stems of songs that are not in the cache yet.

        Args:
            songs: of ``training_songs``.
            jobs: number of stems to decode at a time; None: one per processor.

        Returns:
            The songs that can be used; notes name the others.

        Raises:
            SeparationError: the folder cannot be written, the disk is full, or no song is left.
        """
        self._prepare()
        files = list(
            dict.fromkeys(
                file for song in songs for name in songs.instruments for file in song.files(name)
            )
        )
        decoded: dict[StemFile, Union[CachedStem, str]] = {}
        stop = threading.Event()
        with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            work = {pool.submit(self._stem_or_reason, file, stop): file for file in files}
            try:
                for future in as_completed(work):
                    decoded[work[future]] = future.result()
            except BaseException:
                stop.set()
                raise
        kept, notes = [], list(songs.notes)
        for song in songs:
            result = _assemble(song, songs.instruments, decoded)
            if isinstance(result, str):
                notes.append(Note(song.name, LEFT_OUT, result))
            else:
                kept.append(result)
                notes.extend(_notes(result))
        result = CachedSongs(songs.source, tuple(kept), songs.instruments, tuple(notes))
        refuse_none(result)
        return result

    def stem(self, file: StemFile, stop: Optional[threading.Event] = None) -> CachedStem:
        """A stem from the cache, decoded if it is missing.

        Raises:
            SeparationError: the source cannot be read, or the cache cannot be written.
        """
        path = self.folder / f"{self._name(file)}.stem"
        stem = _open(path)
        if stem is None:
            try:
                self._write(path, file, stop or threading.Event())
            except OSError as error:
                raise self._fault(error) from error
            stem = _open(path)
            if stem is None:
                raise _CacheFault(
                    f"a stem that was just written to the cache {self.folder} is damaged or gone: "
                    "run again, or choose another cache folder"
                )
        return stem

    def _stem_or_reason(self, file: StemFile, stop: threading.Event) -> Union[CachedStem, str]:
        """A stem, or the reason why it cannot be decoded."""
        try:
            if stop.is_set():
                raise _Stopped
            return self.stem(file, stop)
        except _CacheFault:
            raise
        except SeparationError as error:
            return str(error)

    def _name(self, file: StemFile) -> str:
        """Hash of the file's identity and of the settings."""
        path = os.path.realpath(file.path)
        try:
            status = os.stat(path)
        except OSError as error:
            raise SeparationError(f"cannot read {file.path}: {error.strerror}") from error
        identity = [path, file.stream, status.st_size, status.st_mtime_ns]
        settings = [VERSION, self.sample_rate, self.nb_channels]
        return hashlib.sha256(json.dumps(identity + settings).encode()).hexdigest()[:40]

    def _prepare(self) -> None:
        """Raise a ``_CacheFault`` unless the folder can be written to."""
        try:
            Draft(self.folder / "probe").discard()
        except OSError as error:
            raise self._fault(error) from error

    def _fault(self, error: OSError) -> _CacheFault:
        return _CacheFault(
            f"cannot write to the cache {self.folder}: {error.strerror or error}; free some space "
            "or choose another cache folder (--cache, or XDG_CACHE_HOME)"
        )

    def _write(self, path: Path, file: StemFile, stop: threading.Event) -> None:
        with Draft(path) as draft:
            with open(draft.path, "wb", buffering=0) as target:
                facts = self._decode(file, target, 1.0, stop)
                if facts["scale"] > 1.0:  # clipped: decode again, scaled down
                    target.seek(0)
                    target.truncate()
                    facts = self._decode(file, target, facts["scale"], stop)
                text = json.dumps({"source": str(file.path), **facts}).encode()
                _write_all(target, text + struct.pack("<Q", len(text)))
                os.fsync(target.fileno())
            draft.publish()

    def _decode(
        self, file: StemFile, target: BinaryIO, scale: float, stop: threading.Event
    ) -> dict[str, Any]:
        """Write the samples as int16 ``[S, C]``.

        Returns:
            The fields of ``CachedStem``; ``scale`` is the one that avoids clipping.
        """
        low = high = 0.0
        nb_samples = 0
        with AudioReader(file.path, stream=file.stream) as reader:
            blocks = (with_channels(block, self.nb_channels) for block in reader.blocks())
            for block in resample(blocks, reader.sample_rate, self.sample_rate):
                if stop.is_set():
                    raise _Stopped
                if not len(block):
                    continue
                nb_samples += len(block)
                low, high = min(low, float(block.min())), max(high, float(block.max()))
                samples = np.rint(block * (FULL_SCALE / scale))
                samples = np.clip(samples, -FULL_SCALE, FULL_SCALE - 1)
                _write_all(target, samples.astype("<i2").tobytes())
        return {
            "nb_samples": nb_samples,
            "nb_channels": self.nb_channels,
            "sample_rate": self.sample_rate,
            "scale": max(-low, high * FULL_SCALE / (FULL_SCALE - 1), 1.0),
            "peak": max(-low, high),
            "source_rate": reader.sample_rate,
            "source_channels": reader.nb_channels,
            "notes": reader.notes,
        }


def default_folder() -> Path:
    """``spleeter-2/stems`` in the user's cache.

    Raises:
        SeparationError: the user has no home.
    """
    return user_cache(
        "stems",
        "the cache of decoded stems: name a folder with --cache, or in XDG_CACHE_HOME",
    )


def _write_all(target: BinaryIO, data: bytes) -> None:
    """Write to an unbuffered file, whose ``write`` may take only a part (disk nearly full)."""
    view = memoryview(data)
    while len(view):
        view = view[target.write(view) :]


def _open(path: Path) -> Optional[CachedStem]:
    """The stem of a cache file, or None if the file is missing or damaged."""
    try:
        with open(path, "rb") as file:
            size = file.seek(-8, os.SEEK_END) + 8
            (length,) = struct.unpack("<Q", file.read(8))
            file.seek(-8 - length, os.SEEK_END)
            facts = json.loads(file.read(length))
        del facts["source"]
        stem = CachedStem(path=path, **{**facts, "notes": tuple(facts["notes"])})
        samples = 2 * stem.nb_samples * stem.nb_channels
    except (OSError, ValueError, TypeError, KeyError, struct.error):
        return None
    return stem if size == samples + length + 8 else None


def _assemble(
    song: Song, instruments: Sequence[str], decoded: dict[StemFile, Union[CachedStem, str]]
) -> Union[CachedSong, str]:
    """The song with its cached stems, or the reason why it cannot be used."""
    stems = {name: tuple(decoded[file] for file in song.files(name)) for name in instruments}
    every = [stem for parts in stems.values() for stem in parts]
    for stem in every:
        if isinstance(stem, str):
            return stem
    result = CachedSong(song.name, min(stem.nb_samples for stem in every), stems)
    if not result.nb_samples:
        return "a stem holds no samples"
    if all(result.is_silent(name) for name in stems):
        return "all its stems are silent"
    return result


def _notes(song: CachedSong) -> Iterator[Note]:
    """Remarks on how a song's stems were converted."""
    for instrument, stems in song.stems.items():
        for stem in stems:
            if stem.source_rate != stem.sample_rate:
                what = f"resampled to {stem.sample_rate} Hz"
                yield Note(song.name, what, f"{instrument}: {stem.source_rate} Hz")
            if stem.source_channels < stem.nb_channels:
                yield Note(song.name, "mono, doubled to stereo", instrument)
            for text in stem.notes:
                yield Note(song.name, "warning", text)
        if song.is_silent(instrument):
            yield Note(song.name, "silent", instrument)
    stems = [stem for parts in song.stems.values() for stem in parts]
    surplus = max(stem.nb_samples for stem in stems) - song.nb_samples
    if surplus:
        seconds = surplus / stems[0].sample_rate
        yield Note(song.name, "cut to the shortest stem", f"by up to {seconds:.3f} s")
