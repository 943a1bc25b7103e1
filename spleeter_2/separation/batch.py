"""Separate songs with one model, with checks, a progress bar and a summary."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from dataclasses import dataclass

from tqdm import tqdm

from spleeter_2.audio.adapter import DEFAULT as DEFAULT_ADAPTER
from spleeter_2.audio.adapter import Adapter
from spleeter_2.audio.codecs import Encoding
from spleeter_2.audio.ffmpeg import STDIO
from spleeter_2.audio.reader import AudioReader
from spleeter_2.audio.stft import import_fft
from spleeter_2.errors import ModelError, OutputClosed, SeparationError
from spleeter_2.runtime.memory import use_one_arena

from .background import meanwhile
from .existing import fault_of_stems
from .paths import Job, plan_outputs
from .separator import SeparationResult, Separator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Options of ``spleeter separate``.

    Attributes:
        duration: seconds to separate (default: all).
        offset: seconds to skip.
        sample_rate: of the stems, in Hz (default: the song's).
        stream: number of the audio stream, from 1 (default: the file's default stream).
        overlap, shifts: see ``Separator``.

    Raises:
        SeparationError: an option out of its range, or options that exclude each other.
    """

    model: str
    output_path: str
    filename_format: str
    encoding: Encoding
    duration: float | None
    offset: float
    adapter: str | None
    mwf: bool
    stems: list[str] | None
    sample_rate: int | None
    stream: int | None
    overlap: float | None
    shifts: int
    device: str | None
    skip_existing: bool
    verbose: bool

    def __post_init__(self) -> None:
        if not self.offset >= 0:
            raise SeparationError(f"--offset must not be negative, not {self.offset:g}")
        if self.duration is not None and not self.duration > 0:
            raise SeparationError(f"--duration must be positive, not {self.duration:g}")
        if self.stream is not None and self.stream < 1:
            raise SeparationError(f"--stream counts from 1, not {self.stream}")
        if self.sample_rate is not None:
            self.encoding.check_sample_rate(self.sample_rate)

    @property
    def index(self) -> int | None:
        """``stream`` counted from 0."""
        return None if self.stream is None else self.stream - 1


def separate_songs(files: list[str], settings: Settings) -> bool:
    """Separate songs one after the other and log a message for each; failed songs are skipped.

    Args:
        files: ``inputs`` of ``plan_outputs``.

    Returns:
        True if all songs were separated and all folders searched.

    Raises:
        SeparationError: an error that affects all songs: options, paths, the model.
    """
    use_one_arena()
    adapter = _adapter(settings)
    separator = _open(settings)
    unsearched: list[SeparationError] = []
    songs = plan_outputs(
        files,
        settings.output_path,
        settings.filename_format,
        settings.encoding.codec,
        separator.stems,
        unsearched.append,
    )
    for error in unsearched:
        log.error(f"error: {error}")
    separator.find_weights()  # in the main thread, where Ctrl-C ends a download
    failures, nb_skipped = [], 0
    for song in songs:
        try:
            if settings.skip_existing and _is_done(separator, song, settings):
                nb_skipped += 1
            else:
                _report(_separate(separator, song, settings, adapter), song)
        except (ModelError, OutputClosed):
            raise
        except SeparationError as error:
            if settings.verbose:
                traceback.print_exc()
            log.error(f"error: {error}")
            failures.append(song.source)
    if nb_skipped:
        log.info(f"{nb_skipped} song(s) skipped: their stems exist and are whole")
    if failures and len(songs) > 1:
        log.error(f"{len(failures)} of {len(songs)} songs failed: {', '.join(failures)}")
    return not (failures or unsearched)


def _open(settings: Settings) -> Separator:
    return Separator(
        settings.model,
        settings.stems,
        settings.overlap,
        settings.mwf,
        settings.device,
        settings.shifts,
    )


def _adapter(settings: Settings) -> Adapter | None:
    """The user's audio adapter, or None for ours."""
    if settings.adapter in (None, DEFAULT_ADAPTER):
        return None
    for option, given in {
        "--bits": settings.encoding.bits != "16",
        "--stream": settings.stream is not None,
        "--skip-existing": settings.skip_existing,
    }.items():
        if given:
            raise SeparationError(f"{option} has no effect with --adapter: omit one of them")
    return Adapter(settings.adapter)


def _is_done(separator: Separator, song: Job, settings: Settings) -> bool:
    """Return True if all stems are whole; log why others are separated again."""
    outputs = list(song.outputs.values())
    if STDIO in outputs or not any(map(os.path.lexists, outputs)):
        return False
    if not os.path.isfile(song.source):  # a pipe can be read only once
        return False
    rate = separator.stem_rate(settings.sample_rate)
    with AudioReader(
        song.source, rate, settings.offset, settings.duration, settings.index
    ) as reader:
        fault = fault_of_stems(outputs, reader, settings.encoding.is_lossless)
    if fault:
        log.info(f"{song.source} is separated again: {fault}")
    return not fault


def _separate(
    separator: Separator, song: Job, settings: Settings, adapter: Adapter | None
) -> SeparationResult:
    rate = separator.stem_rate(settings.sample_rate)
    options = song.source, rate, settings.offset, settings.duration
    with meanwhile(separator.load) as check_loaded:  # while ffmpeg starts
        if adapter is None:
            reader = AudioReader(*options, settings.index)
        else:
            reader = adapter.reader(*options)
        import_fft()  # as long as the network is read
    with reader:
        check_loaded()
        codec, rate = settings.encoding.codec, settings.encoding.nearest_rate(reader.sample_rate)
        if rate != reader.sample_rate:
            reader.notes.append(
                f"{codec} cannot hold {reader.sample_rate} Hz: written at {rate} Hz"
            )
        with _bar(song.source, reader.seconds) as bar:
            return separator.write_stems(
                reader,
                song.outputs,
                settings.encoding,
                lambda seconds: bar.update(round(seconds - bar.n, 1)),
                adapter,
            )


def _bar(name: str, seconds: float | None) -> tqdm:
    """Progress bar in seconds of audio, on a terminal only."""
    return tqdm(
        desc=name,
        total=None if seconds is None else round(seconds, 1),
        unit="s",
        disable=None if sys.stderr else True,
        file=sys.stderr,
    )


def _report(result: SeparationResult, song: Job) -> None:
    for note in result.notes:
        log.warning(f"note: {note}")
    for name, count in result.nb_clipped.items():
        if count:
            log.warning(
                f"note: {song.outputs[name]}: {count} samples beyond full scale were clipped; "
                "--bits 32f keeps them"
            )
    for path in song.outputs.values():
        if path != STDIO:
            log.info(f"wrote {path}")
