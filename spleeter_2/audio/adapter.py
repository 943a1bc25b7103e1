"""Audio adapters of users: classes that load and save waveforms in place of ffmpeg.

The interface is that of Spleeter's ``AudioAdapter``:

    load(path, offset=seconds, duration=seconds, sample_rate=Hz) -> (float32 [S, C], sample rate)
    save(path, waveform, sample_rate, codec, bitrate)

``codec`` is a string. A class need not derive from Spleeter's.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import numpy as np

from spleeter_2.errors import SeparationError
from spleeter_2.files import Draft, writing

from .codecs import Encoding, check_sample_rate
from .ffmpeg import WRITE_ERRORS
from .waveforms import check_waveform, peak_of

DEFAULT = "spleeter.audio.ffmpeg.FFMPEGProcessAudioAdapter"  # Spleeter's; here audio.reader


def refuse_adapter(name: str | None, command: str) -> None:
    """Raise SeparationError for an adapter that a command which reads data sets cannot use."""
    if name not in (None, DEFAULT):
        raise SeparationError(f"'{command}' reads data sets itself, without --adapter {name}")


class Adapter:
    """An instance of a user's class.

    Args:
        name: ``package.module.Class``; it is called without arguments.

    Raises:
        SeparationError: there is no such class, it cannot be called, or it lacks a method.
    """

    def __init__(self, name: str) -> None:
        module, _, attribute = name.rpartition(".")
        try:
            self._object = getattr(importlib.import_module(module), attribute)()
        except Exception as error:  # third-party code may raise any exception
            raise SeparationError(f"there is no audio adapter {name}: {_message(error)}") from error
        for method in ("load", "save"):
            if not callable(getattr(self._object, method, None)):
                raise SeparationError(f"{name} is no audio adapter: it has no method {method}")

    def reader(
        self, path: str, sample_rate: int, offset: float, duration: float | None
    ) -> AdaptedReader:
        """Load a waveform.

        Raises:
            SeparationError: the class's error, or something else than a waveform.
        """
        return AdaptedReader(self._object, path, sample_rate, offset, duration)

    def writer(self, path: str, sample_rate: int, encoding: Encoding) -> AdaptedWriter:
        """A file that appears when it is complete; see ``audio.writer``."""
        return AdaptedWriter(self._object, path, sample_rate, encoding)


class AdaptedReader:
    """A waveform that an adapter has loaded; see ``AudioReader`` for the attributes."""

    def __init__(
        self, adapter, path: str, sample_rate: int, offset: float, duration: float | None
    ) -> None:
        self.name = path
        self.notes: list[str] = []
        self.tags: dict[str, str] = {}
        try:
            loaded, self.sample_rate = adapter.load(
                path, offset=offset, duration=duration, sample_rate=sample_rate
            )
            waveform = np.asarray(loaded, np.float32)
            if waveform.ndim == 2 and waveform.shape[1] <= waveform.shape[0]:  # not transposed
                waveform = waveform[:, :2]
            self._waveform = check_waveform(waveform)
            self.sample_rate = check_sample_rate(int(self.sample_rate))
        except SeparationError as error:
            raise SeparationError(f"{path}: {error}") from error
        except Exception as error:  # third-party code may raise any exception
            raise SeparationError(f"{path}: {_message(error)}") from error
        self.nb_channels = self._waveform.shape[1]
        self.seconds = len(self._waveform) / self.sample_rate

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the waveform, float32 ``[S, 1 or 2]``."""
        yield self._waveform

    def __enter__(self) -> AdaptedReader:
        return self

    def __exit__(self, *_) -> None:
        pass


class AdaptedWriter(Draft):
    """A stem that an adapter saves; see ``AudioWriter`` for the interface."""

    nb_clipped = 0

    def __init__(self, adapter, path: str, sample_rate: int, encoding: Encoding) -> None:
        self._adapter, self._name = adapter, path
        self._rate, self._encoding = sample_rate, encoding
        self._blocks: list[np.ndarray] = []
        self.peak = 0.0
        with writing(path):  # adapters choose the container by the suffix
            super().__init__(path)

    def write(self, block: np.ndarray) -> None:
        """Keep a block float32 ``[n, C]``: the adapter saves all of them at once."""
        self._blocks.append(block)
        self.peak = max(self.peak, peak_of(block))

    def finish(self) -> None:
        """Let the adapter save the file.

        Raises:
            SeparationError: the adapter's error, or nothing was written.
        """
        # an adapter that imports Spleeter may expect a member of its enumeration
        codec = getattr(sys.modules.get("spleeter.audio"), "Codec", str)(self._encoding.codec)
        waveform = np.concatenate(self._blocks)
        try:
            self._adapter.save(self.path, waveform, self._rate, codec, self._encoding.bitrate)
        except Exception as error:  # third-party code may raise any exception
            raise SeparationError(f"cannot write {self._name}: {_message(error)}") from error
        if not self.path.is_file() or not self.path.stat().st_size:
            raise SeparationError(f"cannot write {self._name}: the audio adapter wrote nothing")

    def publish(self) -> None:
        with writing(self._name):
            super().publish()


def _message(error: Exception) -> str:
    """Message of an exception of third-party code, in one line."""
    # Spleeter has all of ffmpeg's messages in one line, as the repr of bytes
    lines = str(error).replace("\\n", "\n").strip().splitlines()
    lines = [line for line in lines if WRITE_ERRORS.search(line)] or lines
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
