"""Separate one song of a run, in this process or in a worker of a cluster."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from spleeter_2.audio.adapter import DEFAULT as DEFAULT_ADAPTER
from spleeter_2.audio.adapter import Adapter
from spleeter_2.audio.codecs import Encoding
from spleeter_2.audio.ffmpeg import STDIO
from spleeter_2.audio.reader import AudioReader
from spleeter_2.audio.stft import import_fft
from spleeter_2.config.networks import Mdx
from spleeter_2.config.schema import Configuration
from spleeter_2.config.training import Training
from spleeter_2.console import progress_bar
from spleeter_2.errors import ModelError, OutputClosed, SeparationError, model_errors
from spleeter_2.files import sha256_of
from spleeter_2.runtime import model_file
from spleeter_2.runtime.memory import use_one_arena

from .background import meanwhile
from .existing import fault_of_stems
from .paths import Job
from .remote import are_there, is_remote, local_copy, local_stems
from .separator import SeparationResult, Separator

NB_DIGITS = 32  # of a digest: 128 bits
LONGEST_PAUSE = 5.0  # seconds

_nb_failed = 0  # songs in a row, in this worker


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


@dataclass(frozen=True)
class Task:
    """A song to separate, for ``separate_one``; it can be pickled.

    Attributes:
        model: ``model_digest`` that the worker's model must have; empty: any.
        digest: of the model and of all options that the stems depend on, for the table of results.
        is_listed: the table says that the stems are done: skip the song if they are there.
    """

    song: Job
    settings: Settings
    model: str = ""
    digest: str = ""
    is_listed: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a task; it can be pickled.

    Attributes:
        status: "done", "failed" or "skipped".
        messages: levels of ``logging``, each with a line for the user.
        seconds: duration of the audio.
        elapsed: seconds that the task took.
        peak: largest magnitude of a sample of all stems, full scale 1.0, or None.
        note: the error, or notes, in one line.
    """

    status: str
    messages: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0
    elapsed: float = 0.0
    peak: float | None = None
    note: str = ""


def separate_one(task: Task, shows_bar: bool = False) -> Outcome:
    """Separate a song into files, which appear when all are complete, or skip it.

    Args:
        shows_bar: show a progress bar, on a terminal only.

    Returns:
        With the status "failed" in place of the error of a song.

    Raises:
        ModelError, OutputClosed: an error that ends the run.
    """
    begin, messages = time.monotonic(), []
    try:
        result = _separate(task, messages, shows_bar)
    except (ModelError, OutputClosed):
        raise
    except SeparationError as error:
        if task.settings.verbose:
            traceback.print_exc()
        messages.append((logging.ERROR, f"error: {error}"))
        return Outcome("failed", messages, elapsed=time.monotonic() - begin, note=str(error))
    elapsed = time.monotonic() - begin
    if result is None:
        return Outcome("skipped", messages, elapsed=elapsed)
    notes = _notes(result, task.song)
    messages += [(logging.WARNING, f"note: {note}") for note in notes]
    messages += [
        (logging.INFO, f"wrote {path}") for path in task.song.outputs.values() if path != STDIO
    ]
    peak = max(result.peaks.values(), default=None)
    return Outcome("done", messages, result.seconds, elapsed, peak, "; ".join(notes))


def separate_in_worker(task: Task) -> Outcome | ModelError:
    """``separate_one``, with an error of the model as a result: it ends the run, not the song.

    After several failed songs in a row there is a pause before the next: a worker whose disk is
    full fails at once, and would take all songs that are left.
    """
    global _nb_failed
    use_one_arena()
    _pause(0.1 * 2 ** min(_nb_failed - 2, 10) if _nb_failed > 1 else 0.0)
    try:
        outcome = separate_one(task)
    except ModelError as error:
        return ModelError(str(error))
    _nb_failed = _nb_failed + 1 if outcome.status == "failed" else 0
    return outcome


def _pause(seconds: float) -> None:
    """Sleep, at most ``LONGEST_PAUSE``, in pieces: an interrupt comes between two of them."""
    end = time.monotonic() + min(seconds, LONGEST_PAUSE)
    while time.monotonic() < end:
        time.sleep(0.05)


def open_separator(settings: Settings, model: str = "") -> Separator:
    """A Separator with the options of a run; a process keeps the latest one.

    Args:
        model: its ``model_digest``, if that is known.

    Raises:
        SeparationError: an invalid option, or no such model.
        ModelError: another model than ``model``.
    """
    stems = None if settings.stems is None else tuple(settings.stems)
    options = stems, settings.overlap, settings.mwf, settings.device, settings.shifts
    return _open_separator(settings.model, options, model)


@functools.lru_cache(maxsize=1)
def _open_separator(descriptor: str, options: tuple, model: str) -> Separator:
    separator = Separator(descriptor, *options)
    if model:
        separator.find_weights()
        if model_digest(separator.configuration) != model:
            raise ModelError(
                f"{descriptor} is another model on this worker: give all machines the same weights "
                "and the same version of spleeter-2"
            )
    return separator


def close_separator() -> None:
    """Forget the Separator that ``open_separator`` keeps."""
    _open_separator.cache_clear()


@functools.lru_cache(maxsize=1)
def _open_adapter(name: str) -> Adapter:
    return Adapter(name)


def adapter_of(settings: Settings) -> Adapter | None:
    """The user's audio adapter, or None for ours.

    Raises:
        SeparationError: there is no such class, or another option excludes it.
    """
    if settings.adapter in (None, DEFAULT_ADAPTER):
        return None
    for option, given in {
        "--bits": settings.encoding.bits != "16",
        "--stream": settings.stream is not None,
        "--skip-existing": settings.skip_existing,
    }.items():
        if given:
            raise SeparationError(f"{option} has no effect with --adapter: omit one of them")
    return _open_adapter(settings.adapter)


def model_digest(configuration: Configuration) -> str:
    """Digest of all that a model's estimates depend on, its weights included.

    Raises:
        SeparationError: the weights are not there.
    """
    if isinstance(configuration.model, Mdx):
        with model_file.path_of(configuration).open("rb") as file:
            weights = sha256_of(file)
    else:
        weights = model_file.digest(configuration)
    facts = msgspec.structs.replace(
        configuration,
        weights=None,  # where they are
        model_dir=None,
        description="",
        card=None,
        source=None,
        training=Training(),
    )
    return _digest((facts, weights))


def digest_of(model: str, settings: Settings, instruments: Iterable[str]) -> str:
    """Digest of a model and of the options that a song's stems depend on."""
    encoding = settings.encoding
    options = (
        *(settings.duration, settings.offset, settings.sample_rate, settings.stream),
        *(settings.overlap, settings.shifts, settings.mwf, settings.adapter),
        *(encoding.codec, encoding.bits if encoding.is_lossless else encoding.bitrate),
    )
    return _digest((model, options, sorted(instruments)))


def _digest(facts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:NB_DIGITS]


def _separate(
    task: Task, messages: list[tuple[int, str]], shows_bar: bool
) -> SeparationResult | None:
    """Separate the song of a task; None if it is skipped."""
    song, settings = task.song, task.settings
    with model_errors():  # of a worker: this program has opened it before
        separator = open_separator(settings, task.model)
    if task.is_listed and are_there(song.outputs):
        return None
    with local_copy(song.source) as path:
        if settings.skip_existing and not task.digest:
            if _is_done(separator, song, path, settings, messages):
                return None
        with local_stems(song.outputs) as outputs:
            return _write(separator, song, path, outputs, settings, shows_bar)


def _is_done(
    separator: Separator,
    song: Job,
    path: str,
    settings: Settings,
    messages: list[tuple[int, str]],
) -> bool:
    """Return True if all stems are whole; append a message why others are separated again."""
    outputs = list(song.outputs.values())
    if STDIO in outputs or not any(map(os.path.lexists, outputs)):
        return False
    if not os.path.isfile(path):  # a pipe can be read only once
        return False
    with _reader(separator, song, path, settings) as reader:
        fault = fault_of_stems(outputs, reader, settings.encoding.is_lossless)
    if fault:
        messages.append((logging.INFO, f"{song.source} is separated again: {fault}"))
    return not fault


def _reader(separator: Separator, song: Job, path: str, settings: Settings) -> AudioReader:
    rate = separator.stem_rate(settings.sample_rate)
    name = song.source if is_remote(song.source) else None  # not that of the copy
    return AudioReader(path, rate, settings.offset, settings.duration, settings.index, name)


def _write(
    separator: Separator,
    song: Job,
    path: str,
    outputs: dict[str, str],
    settings: Settings,
    shows_bar: bool,
) -> SeparationResult:
    """Separate the file ``path`` into ``outputs``, both on this machine."""
    adapter = adapter_of(settings)
    with meanwhile(separator.load) as check_loaded:  # while ffmpeg starts
        if adapter is None:
            reader = _reader(separator, song, path, settings)
        else:
            rate = separator.stem_rate(settings.sample_rate)
            reader = adapter.reader(path, rate, settings.offset, settings.duration)
        import_fft()  # as long as the network is read
    with reader:
        check_loaded()
        codec, rate = settings.encoding.codec, settings.encoding.nearest_rate(reader.sample_rate)
        if rate != reader.sample_rate:
            reader.notes.append(
                f"{codec} cannot hold {reader.sample_rate} Hz: written at {rate} Hz"
            )
        total = None if reader.seconds is None else round(reader.seconds, 1)
        with progress_bar(song.source, "s", total, is_shown=shows_bar) as bar:
            return separator.write_stems(
                reader,
                outputs,
                settings.encoding,
                lambda seconds: bar.update(round(seconds - bar.n, 1)),
                adapter,
            )


def _notes(result: SeparationResult, song: Job) -> list[str]:
    clipped = [
        f"{song.outputs[name]}: {count} samples beyond full scale were clipped; --bits 32f keeps "
        "them"
        for name, count in result.nb_clipped.items()
        if count
    ]
    return [*result.notes, *clipped]
