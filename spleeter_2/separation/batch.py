"""``spleeter separate``: many songs through one model, with checks, progress and a summary."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from dataclasses import dataclass

from tqdm import tqdm

from spleeter_2.audio.codecs import BITS, CODECS, nearest_rate
from spleeter_2.audio.ffmpeg import STANDARD
from spleeter_2.audio.reader import AudioReader
from spleeter_2.config.loading import is_ours
from spleeter_2.errors import ModelError, SeparationError

from .paths import Song, plan
from .separator import Separated, Separator
from .upstream import DEFAULT_ADAPTER, UpstreamSeparator


@dataclass(frozen=True)
class Settings:
    """The options of ``spleeter separate``; seconds, Hz."""

    model: str
    output_path: str
    filename_format: str
    codec: str
    bitrate: str
    duration: float | None
    offset: float
    adapter: str | None
    mwf: bool
    stems: list[str] | None
    bits: str
    sample_rate: int | None
    overlap: float | None
    device: str | None
    skip_existing: bool
    verbose: bool

    def __post_init__(self) -> None:
        """Refuse what cannot work, before any file is touched."""
        if not self.offset >= 0:
            raise SeparationError(f"--offset must not be negative, not {self.offset:g}")
        if self.duration is not None and not self.duration > 0:
            raise SeparationError(f"--duration must be positive, not {self.duration:g}")
        if self.sample_rate is not None and not 1000 <= self.sample_rate <= 768000:
            raise SeparationError(
                f"--sample_rate must lie between 1000 and 768000 Hz, not {self.sample_rate}"
            )
        if self.bits != "16" and self.bits not in BITS.get(self.codec, {}):
            raise SeparationError(f"{self.codec} cannot hold --bits {self.bits}")
        if not re.fullmatch(r"[1-9]\d*[kK]?", self.bitrate):
            raise SeparationError(f"--bitrate must be a number such as 192k, not {self.bitrate}")
        if self.sample_rate and nearest_rate(self.codec, self.sample_rate) != self.sample_rate:
            rates = ", ".join(map(str, CODECS[self.codec][2]))
            raise SeparationError(
                f"{self.codec} cannot hold {self.sample_rate} Hz; it can hold {rates}"
            )


def separate_songs(files: list[str], settings: Settings) -> bool:
    """Separate songs, one after the other; one that fails does not stop the rest.

    Returns:
        Whether all went well.

    Raises:
        SeparationError: what concerns all songs: options, names, the model.
    """
    separator = _open(settings)
    songs = plan(
        files, settings.output_path, settings.filename_format, settings.codec, separator.stems
    )
    if settings.skip_existing:
        done = [song for song in songs if song.is_done]
        songs = [song for song in songs if not song.is_done]
        if done:
            _say(f"{len(done)} song(s) left out: their stems are there")
    failures = []
    for song in songs:
        try:
            _report(_separate(separator, song, settings), song)
        except ModelError:
            raise
        except SeparationError as error:
            if settings.verbose:
                traceback.print_exc()
            _say(f"error: {error}")
            failures.append(song.source)
    if failures and len(songs) > 1:
        _say(f"{len(failures)} of {len(songs)} songs failed: {', '.join(failures)}")
    return not failures


def _open(settings: Settings) -> Separator | UpstreamSeparator:
    if is_ours(settings.model):
        if settings.adapter not in (None, DEFAULT_ADAPTER):
            raise SeparationError(
                f"--adapter serves upstream's models; {settings.model} reads and writes by itself"
            )
        return Separator(
            settings.model,
            settings.stems,
            settings.overlap,
            settings.mwf,
            settings.device,
            sole_user=True,
        )
    ours = {
        "--bits": settings.bits != "16",
        "--sample_rate": settings.sample_rate is not None,
        "--overlap": settings.overlap is not None,
        "--device": settings.device is not None,
    }
    for option, given in ours.items():
        if given:
            raise SeparationError(f"{option} is for the models of spleeter-2, not {settings.model}")
    return UpstreamSeparator(
        settings.model, settings.stems, settings.adapter, settings.mwf, settings.verbose
    )


def _separate(
    separator: Separator | UpstreamSeparator, song: Song, settings: Settings
) -> Separated:
    if isinstance(separator, UpstreamSeparator):
        return separator.separate_to_file(
            song.source,
            song.outputs,
            settings.offset,
            settings.duration,
            settings.codec,
            settings.bitrate,
        )
    with AudioReader(
        song.source, settings.sample_rate, settings.offset, settings.duration
    ) as reader:
        separator.load()
        rate = nearest_rate(settings.codec, reader.sample_rate)
        if rate != reader.sample_rate:
            reader.notes.append(
                f"{settings.codec} cannot hold {reader.sample_rate} Hz: written at {rate} Hz"
            )
        with _bar(song.source, reader.seconds) as bar:
            return separator.write_stems(
                reader,
                song.outputs,
                settings.codec,
                settings.bitrate,
                settings.bits,
                lambda seconds: bar.update(round(seconds - bar.n, 1)),
            )


def _bar(name: str, seconds: float | None) -> tqdm:
    """Progress in seconds of audio, on a terminal only."""
    return tqdm(
        desc=name,
        total=None if seconds is None else round(seconds, 1),
        unit="s",
        disable=None if sys.stderr else True,
        file=sys.stderr,
    )


def _report(separated: Separated, song: Song) -> None:
    for note in separated.notes:
        _say(f"note: {note}")
    for name, count in separated.nb_clipped.items():
        if count:
            _say(
                f"note: {song.outputs[name]}: {count} samples beyond full scale were cut off; "
                "--bits 32f keeps them"
            )
    for path in song.outputs.values():
        if path != STANDARD:
            _say(f"wrote {path}")


def _say(sentence: str) -> None:
    if sys.stderr is not None:  # else print would take standard output, where a stem may go
        with contextlib.suppress(OSError):  # a log on a full disk spoils no song
            print(f"spleeter: {sentence}", file=sys.stderr, flush=True)
