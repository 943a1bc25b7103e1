"""Decode audio files through ffmpeg, a block at a time.

ffmpeg decodes to a WAV stream, whose header has sample rate and channels; duration and tags come
from ffmpeg's messages. ffprobe is not needed.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import BinaryIO

import ffmpeg
import numpy as np

from spleeter_2.errors import SeparationError

from .ffmpeg import STDIO, Ffmpeg, file_url

BLOCK = 1 << 17  # samples per block, about three seconds
MAX_SAMPLE = 1e9  # largest accepted sample; above it, |STFT|**2 overflows float32
MAX_SECONDS = 1e9  # limit of offset and duration; infinity cannot be converted to samples

TAGS = (
    "title artist album album_artist composer performer genre date track disc comment copyright "
    "language publisher"
).split()
SUFFIXES = frozenset(
    ".aac .aif .aifc .aiff .alac .ape .au .caf .flac .m4a .m4b .mka .mkv .mov .mp2 .mp3 .mp4 "
    ".mpc .oga .ogg .opus .ra .tta .wav .webm .wma .wv".split()
)


class AudioReader:
    """Decode an audio stream of a file.

    Mono stays mono, stereo stays stereo, more channels are mixed down to stereo.

    Args:
        path: a file, or "-" for standard input.
        sample_rate: in Hz (default: the file's).
        offset: seconds to skip.
        duration: seconds to read (default: to the end).
        stream: index of the audio stream; stem files have several.

    Attributes:
        sample_rate: in Hz.
        nb_channels: 1 or 2.
        declared: duration of the file in seconds according to its header, or None.
        seconds: seconds that will be read according to ``declared``, or None.
        tags: title, artist and others by name.
        notes: sentences for the user.

    Raises:
        SeparationError: the file is missing, empty, not audio, or has no audio stream; a negative
            offset or a duration that is not positive.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sample_rate: int | None = None,
        offset: float = 0.0,
        duration: float | None = None,
        stream: int = 0,
    ) -> None:
        self.name = "standard input" if path == STDIO else os.fspath(path)
        self.notes: list[str] = []
        self.declared: float | None = None
        if not offset >= 0 or (duration is not None and not duration > 0):
            raise SeparationError(
                "an offset must not be negative, and a duration must be positive, not "
                f"{offset} and {duration}"
            )
        self._offset = min(offset, MAX_SECONDS)
        self._duration = None if duration is None else min(duration, MAX_SECONDS)
        self._stream = stream
        self._check(path)
        source = "pipe:0" if path == STDIO else file_url(path)
        options = {"map": f"0:a:{stream}", "f": "wav", "c:a": "pcm_f32le"}
        options["af"] = "aformat=channel_layouts=mono|stereo"
        if sample_rate is not None:
            options["ar"] = str(sample_rate)
        self._ffmpeg = Ffmpeg(
            ffmpeg.input(source).output("pipe:1", **options),
            stdin=None if path == STDIO else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            self.sample_rate, self.nb_channels = self._header()
            messages = self._ffmpeg.input_messages()
            self._check_detection(messages)
        except BaseException:
            self._ffmpeg.kill()
            raise
        self.seconds = self._expected_seconds("\n".join(messages), offset, duration)
        self.tags = _tags(messages)

    def _check(self, path: str | os.PathLike) -> None:
        if path == STDIO:
            if sys.stdin is None or sys.stdin.isatty():
                raise SeparationError("standard input is closed or a terminal: pipe audio into it")
            return
        if not os.path.exists(path):
            raise SeparationError(f"there is no file {self.name or 'without a name'}")
        if os.path.isdir(path):
            raise SeparationError(f"{self.name} is a folder, not an audio file")
        if not os.access(path, os.R_OK):
            raise SeparationError(f"{self.name} cannot be read: permission denied")
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            raise SeparationError(f"{self.name} is an empty file")

    def _header(self) -> tuple[int, int]:
        """Sample rate and channels from the header of ffmpeg's WAV stream."""
        pipe: BinaryIO = self._ffmpeg.process.stdout
        if len(pipe.read(12)) == 12:
            format_ = b""
            while len(chunk := pipe.read(8)) == 8:
                name, size = struct.unpack("<4sI", chunk)
                if name == b"data":
                    channels, rate = struct.unpack_from("<2xHI", format_)
                    return rate, channels
                content = pipe.read(size)
                format_ = content if name == b"fmt " else format_
        self._ffmpeg.wait()
        messages = "\n".join(self._ffmpeg.messages)
        if "matches no streams" in messages or "does not contain any stream" in messages:
            number = f" {self._stream + 1}" if self._stream else ""
            raise SeparationError(f"{self.name} has no audio stream{number}")
        raise SeparationError(
            f"{self.name} is not audio that ffmpeg can read: {self._ffmpeg.last_message}"
        )

    def _check_detection(self, messages: list[str]) -> None:
        """Raise SeparationError for random bytes, which ffmpeg decodes as MP3 with a warning."""
        if any("misdetection possible" in line for line in messages):
            raise SeparationError(f"{self.name} is not audio that ffmpeg can read")

    def _expected_seconds(self, text: str, offset: float, duration: float | None) -> float | None:
        """Seconds that will be read, or None if the file has no duration; notes a down-mix."""
        stream = re.search(r"Stream #0.*?: Audio: [^\n]*? Hz, ([^,\n]+)", text)
        if stream and stream[1] not in ("mono", "stereo", "1 channels", "2 channels"):
            self.notes.append(f"{self.name} has {stream[1]} channels: mixed down to stereo")
        found = re.search(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", text)
        if not found:
            return duration
        hours, minutes, seconds = found.groups()
        self.declared = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        left = max(self.declared - offset, 0.0)
        return left if duration is None else min(left, duration)

    def blocks(self) -> Iterator[np.ndarray]:
        """Decode to the end.

        Yields:
            float32 ``[n, C]`` with n > 0.

        Raises:
            SeparationError: no samples, or one that is NaN, infinite or beyond ``MAX_SAMPLE``.
        """
        # counted here, exact to the sample: ffmpeg's own options follow packet timestamps
        start = round(self._offset * self.sample_rate)
        length = float("inf")
        if self._duration is not None:
            length = max(round(self._duration * self.sample_rate), 1)
        position = 0
        for block in self._decode():
            part = block[max(start - position, 0) : int(min(start + length - position, len(block)))]
            position += len(block)
            if len(part):
                yield part
            if position >= start + length:
                return
        self._check_end(position)

    def _decode(self) -> Iterator[np.ndarray]:
        frame = 4 * self.nb_channels
        position = 0
        while data := self._ffmpeg.process.stdout.read(BLOCK * frame):
            block = np.frombuffer(data[: len(data) // frame * frame], "<f4")
            block = block.reshape(-1, self.nb_channels)
            if (bad := first_invalid_sample(block)) is not None:
                index, what = bad
                raise SeparationError(
                    f"{self.name} holds {what} at {(position + index) / self.sample_rate:.3f} s: "
                    "repair it first"
                )
            position += len(block)
            yield block

    def _check_end(self, nb_samples: int) -> None:
        """Check that a file was decoded completely; minor faults are notes.

        Args:
            nb_samples: decoded samples.

        Raises:
            SeparationError: no samples, none after the offset, or ffmpeg was killed.
        """
        status = self._ffmpeg.wait()
        seconds = nb_samples / self.sample_rate
        if status < 0:
            raise SeparationError(
                f"{self.name}: ffmpeg was killed by signal {-status} after {seconds:.1f} s: "
                "try again"
            )
        if nb_samples and nb_samples <= round(self._offset * self.sample_rate):
            raise SeparationError(f"{self.name} ends before {self._offset:g} s")
        if nb_samples == 0:
            reason = f": {self._ffmpeg.last_message}" if status else ""
            raise SeparationError(f"{self.name} holds no samples{reason}")
        if status:
            self.notes.append(
                f"{self.name} is damaged, only {seconds:.1f} s could be decoded: "
                f"{self._ffmpeg.last_message}"
            )
        elif self.declared and seconds < 0.98 * self.declared - 1:
            self.notes.append(
                f"{self.name} should last {self.declared:.1f} s, but only {seconds:.1f} s "
                "could be decoded: it is cut short or damaged"
            )

    def close(self) -> None:
        """Stop ffmpeg if it is running."""
        self._ffmpeg.kill()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def first_invalid_sample(waveform: np.ndarray) -> tuple[int, str] | None:
    """Index and description of the first invalid sample of ``[S, C]``, or None."""
    good = (np.abs(waveform) <= MAX_SAMPLE).all(axis=1)  # false for NaN
    if good.all():
        return None
    index = int(np.argmin(good))
    finite = np.isfinite(waveform[index]).all()
    return index, f"more than {MAX_SAMPLE:g} times full scale" if finite else "NaN or infinity"


def _tags(messages: list[str]) -> dict[str, str]:
    """Tags of the file or of its audio stream, from ffmpeg's messages."""
    tags: dict[str, str] = {}
    for line in messages:
        if line.startswith("Output #"):
            break
        found = re.match(r"\s+(\w+)\s*: (.*)", line)
        if found and found[1].lower() in TAGS:
            tags.setdefault(found[1].lower(), found[2])
    return tags
