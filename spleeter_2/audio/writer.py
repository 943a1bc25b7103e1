"""Encode audio files through ffmpeg, atomically."""

from __future__ import annotations

import os
import signal
import subprocess

import ffmpeg
import numpy as np

from spleeter_2.checks import check_path, check_type, check_whole
from spleeter_2.errors import OutputClosed, SeparationError
from spleeter_2.files import Draft, writing

from .codecs import Encoding
from .ffmpeg import STDIO, WRITE_ERRORS, Ffmpeg, file_url
from .waveforms import peak_of

LONGEST_TAG = 100_000  # bytes; Linux accepts arguments of up to 128 KiB


class AudioWriter:
    """Encode a file under a temporary name and rename it when it is complete.

    Args:
        path: an existing file is replaced; "-" is standard output.
        sample_rate: in Hz, of the samples; the file has ``encoding.nearest_rate``.
        nb_channels: 1 or 2.
        encoding: codec, and bits or bit rate.
        tags: written where the container supports them.

    Attributes:
        nb_clipped: samples beyond full scale so far, which 16 and 24 bits clip.
        peak: largest magnitude of a sample so far.

    Raises:
        SeparationError: an invalid argument; the folder cannot be written, or ffmpeg fails.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sample_rate: int,
        nb_channels: int,
        encoding: Encoding = Encoding(),
        tags: dict[str, str] | None = None,
    ) -> None:
        path = check_path("the path", path)
        sample_rate = check_whole("sample_rate", sample_rate, 1)
        nb_channels = check_whole("nb_channels", nb_channels, 1, 2)
        check_type("encoding", encoding, Encoding)
        self.name = "standard output" if path == STDIO else path
        self.nb_clipped = 0
        self.peak = 0.0
        self._options = f"--sample_rate {sample_rate}"
        if not encoding.is_lossless:
            self._options += f" with --bitrate {encoding.bitrate}"
        self._silence = np.zeros((encoding.padding(sample_rate), nb_channels), np.float32)
        self._has_begun = False
        self._clips = encoding.is_lossless and encoding.bits != "32f"
        self._draft: Draft | None = None
        if path != STDIO:
            file_url(path)  # raises for an invalid name before folders are made
            with writing(path):
                self._draft = Draft(path)
        source = ffmpeg.input("pipe:0", f="f32le", ar=str(sample_rate), ac=str(nb_channels))
        options = encoding.ffmpeg_options(sample_rate)
        for index, (key, value) in enumerate((tags or {}).items()):
            options[f"metadata:g:{index}"] = f"{key}={_shortened(value)}"
        try:
            self._ffmpeg = Ffmpeg(
                source.output(file_url(self._draft.path) if self._draft else "pipe:1", **options),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL if self._draft else None,
            )
        except BaseException:
            if self._draft is not None:
                self._draft.discard()
            raise

    def write(self, block: np.ndarray) -> None:
        """Encode float32 ``[n, C]``.

        Raises:
            SeparationError: ffmpeg has failed.
        """
        peak = peak_of(block)
        self.peak = max(self.peak, peak)
        if self._clips and peak > 1.0:
            self.nb_clipped += int(np.count_nonzero(np.abs(block) > 1.0))
        if not self._has_begun:
            self._has_begun = True
            self._feed(self._silence)
        self._feed(block)

    def _feed(self, block: np.ndarray) -> None:
        try:
            self._ffmpeg.process.stdin.write(np.ascontiguousarray(block, "<f4"))
        except OSError as error:
            self._ffmpeg.wait()
            raise self._failure() from error

    def finish(self) -> None:
        """Complete the file, still under its temporary name.

        Raises:
            SeparationError: ffmpeg has failed.
        """
        self._feed(self._silence)
        try:
            self._ffmpeg.process.stdin.close()
        except OSError as error:
            self._ffmpeg.wait()
            raise self._failure() from error
        if self._ffmpeg.wait() or self._write_errors():
            raise self._failure()

    def publish(self) -> None:
        """Rename the finished file to its path.

        Raises:
            SeparationError: it cannot be renamed.
        """
        if self._draft is not None:
            with writing(self.name):
                self._draft.publish()

    def close(self) -> None:
        """Stop ffmpeg and remove the file unless it is published."""
        self._ffmpeg.kill()
        if self._draft is not None:
            self._draft.discard()

    def _write_errors(self) -> list[str]:
        """Messages about failed writes; tags are indented, and a path may hold the same words."""
        lines = (line for line in self._ffmpeg.messages if not line.startswith((" ", "Output #")))
        return [line for line in lines if WRITE_ERRORS.search(line)]

    def _failure(self) -> SeparationError:
        messages = self._write_errors()
        reason = self._ffmpeg.last_message
        if messages:  # "Error closing file ...: No space left on device"
            reason = messages[-1].strip().rpartition(": ")[2]
            if self._draft is None and reason == "Broken pipe":
                return OutputClosed(f"cannot write {self.name}: {reason}")
        elif -self._ffmpeg.process.returncode == getattr(signal, "SIGXFSZ", None):
            reason = "it exceeds the largest size of a file that this user may write (ulimit -f)"
        elif any("while opening encoder" in line for line in self._ffmpeg.messages):
            reason = f"{self._options} is not supported by this format: choose another"
        return SeparationError(f"cannot write {self.name}: {reason}")

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _shortened(value: str) -> str:
    data = value.encode("utf-8", "replace")
    return value if len(data) <= LONGEST_TAG else data[:LONGEST_TAG].decode("utf-8", "ignore")
