"""Separate songs with one model, with checks, a progress bar and a summary."""

from __future__ import annotations

import logging
import sys
import traceback
from dataclasses import dataclass

from tqdm import tqdm

from spleeter_2.audio.codecs import Encoding
from spleeter_2.audio.ffmpeg import STDIO
from spleeter_2.audio.reader import AudioReader
from spleeter_2.config.loading import is_ours
from spleeter_2.errors import ModelError, OutputClosed, SeparationError

from .paths import Job, plan_outputs
from .separator import SeparationResult, Separator
from .upstream import DEFAULT_ADAPTER, UpstreamSeparator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Options of ``spleeter separate``.

    Attributes:
        duration: seconds to separate (default: all).
        offset: seconds to skip.
        sample_rate: of the stems, in Hz (default: the song's).
        overlap: overlap of the windows, 0 to 0.5 (default: the model's).

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
    overlap: float | None
    device: str | None
    skip_existing: bool
    verbose: bool

    def __post_init__(self) -> None:
        if not self.offset >= 0:
            raise SeparationError(f"--offset must not be negative, not {self.offset:g}")
        if self.duration is not None and not self.duration > 0:
            raise SeparationError(f"--duration must be positive, not {self.duration:g}")
        rate, codec = self.sample_rate, self.encoding.codec
        if rate is not None and not 1000 <= rate <= 768000:
            raise SeparationError(f"--sample_rate must lie between 1000 and 768000 Hz, not {rate}")
        if rate is not None and self.encoding.nearest_rate(rate) != rate:
            rates = ", ".join(map(str, self.encoding.sample_rates))
            raise SeparationError(f"{codec} cannot hold {rate} Hz; it can hold {rates}")


def separate_songs(files: list[str], settings: Settings) -> bool:
    """Separate songs one after the other and log a message for each; failed songs are skipped.

    Args:
        files: ``inputs`` of ``plan_outputs``.

    Returns:
        True if all songs were separated.

    Raises:
        SeparationError: an error that affects all songs: options, paths, the model.
    """
    separator = _open(settings)
    songs = plan_outputs(
        files,
        settings.output_path,
        settings.filename_format,
        settings.encoding.codec,
        separator.stems,
    )
    if settings.skip_existing:
        done = [song for song in songs if song.is_done]
        songs = [song for song in songs if not song.is_done]
        if done:
            log.info(f"{len(done)} song(s) skipped: their stems exist")
    failures = []
    for song in songs:
        try:
            _report(_separate(separator, song, settings), song)
        except (ModelError, OutputClosed):
            raise
        except SeparationError as error:
            if settings.verbose:
                traceback.print_exc()
            log.error(f"error: {error}")
            failures.append(song.source)
    if failures and len(songs) > 1:
        log.error(f"{len(failures)} of {len(songs)} songs failed: {', '.join(failures)}")
    return not failures


def _open(settings: Settings) -> Separator | UpstreamSeparator:
    if is_ours(settings.model):
        if settings.adapter not in (None, DEFAULT_ADAPTER):
            raise SeparationError(f"--adapter is for upstream's models, not {settings.model}")
        return Separator(
            settings.model,
            settings.stems,
            settings.overlap,
            settings.mwf,
            settings.device,
            sole_user=True,
        )
    not_upstream = {
        "--bits": settings.encoding.bits != "16",
        "--sample_rate": settings.sample_rate is not None,
        "--overlap": settings.overlap is not None,
        "--device": settings.device is not None,
    }
    for option, given in not_upstream.items():
        if given:
            raise SeparationError(f"{option} is for the models of spleeter-2, not {settings.model}")
    return UpstreamSeparator(
        settings.model, settings.stems, settings.adapter, settings.mwf, settings.verbose
    )


def _separate(
    separator: Separator | UpstreamSeparator, song: Job, settings: Settings
) -> SeparationResult:
    if isinstance(separator, UpstreamSeparator):
        return separator.separate_to_file(
            song.source,
            song.outputs,
            settings.offset,
            settings.duration,
            settings.encoding,
        )
    with AudioReader(
        song.source, settings.sample_rate, settings.offset, settings.duration
    ) as reader:
        separator.load()
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
