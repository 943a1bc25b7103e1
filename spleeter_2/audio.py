"""Files in and out through ffmpeg, a block at a time.

The system's ffmpeg is preferred; without one, the binary inside the package imageio-ffmpeg
serves. Neither needs ffprobe: ffmpeg decodes to a WAV stream, whose header tells sample rate and
channels, and its messages tell the duration and the tags.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import ffmpeg
import numpy as np
import soxr

from .errors import SeparationError

STANDARD = "-"  # standard input or output in the place of a path
BLOCK = 1 << 17  # samples per block, about three seconds
LOUDEST = 1e9  # times full scale; not far above, powers of spectra leave the range of float32
LONGEST = 1e9  # seconds; longer than any song, and still a number of samples

# codec -> container, encoder of ffmpeg, sample rates in Hz that it can hold (None: any)
MPEG_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
CODECS = {
    "wav": ("wav", None, None),
    "flac": ("flac", "flac", None),
    "mp3": ("mp3", "libmp3lame", MPEG_RATES),
    "ogg": ("ogg", "libvorbis", None),
    "m4a": ("ipod", "aac", (*MPEG_RATES, 64000, 88200, 96000)),
    "wma": ("asf", "wmav2", MPEG_RATES),
}
BITS = {
    "wav": {"16": {"c:a": "pcm_s16le"}, "24": {"c:a": "pcm_s24le"}, "32f": {"c:a": "pcm_f32le"}},
    "flac": {
        "16": {"sample_fmt": "s16"},
        "24": {"sample_fmt": "s32", "bits_per_raw_sample": "24"},
    },
}
TAGS = (
    "title artist album album_artist composer performer genre date track disc comment copyright "
    "language publisher"
).split()

_TEMPORARY = re.compile(r"^\.spleeter-2-(\d+)-[0-9a-f]{8}-")


def ffmpeg_command() -> str:
    """Path of the ffmpeg to run.

    Raises:
        SeparationError: neither the system nor imageio-ffmpeg has one.
    """
    system = shutil.which("ffmpeg")
    if system:
        return system
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise SeparationError(
            "there is no ffmpeg: install it (apt-get install ffmpeg) or the Python package "
            "imageio-ffmpeg"
        ) from error


def nearest_rate(codec: str, sample_rate: int) -> int:
    """The sample rate in Hz at which a codec can hold audio of ``sample_rate``: the next higher
    one, or its highest."""
    rates = CODECS[codec][2]
    if rates is None or sample_rate in rates:
        return sample_rate
    return min((rate for rate in rates if rate > sample_rate), default=max(rates))


class _Ffmpeg:
    """A running ffmpeg whose messages are collected while it works."""

    def __init__(self, stream, **pipes) -> None:
        stream = stream.global_args("-hide_banner", "-nostats", "-loglevel", "info")
        self.process = subprocess.Popen(
            ffmpeg.compile(stream, cmd=ffmpeg_command(), overwrite_output=True),
            stderr=subprocess.PIPE,
            # Ctrl-C is for us: we tidy up, and ffmpeg ends with its pipe
            start_new_session=True,
            **pipes,
        )
        self.messages: list[str] = []
        self._described = threading.Event()
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._collector.start()

    def _collect(self) -> None:
        for line in self.process.stderr:
            if len(self.messages) < 1000:  # a broken file may complain without end
                self.messages.append(line.decode("utf-8", "replace").rstrip())
            else:
                self.messages[-1] = line.decode("utf-8", "replace").rstrip()
            if line.startswith(b"Output #"):
                self._described.set()
        self._described.set()

    def description(self) -> list[str]:
        """What it says of its input: all that comes before its output."""
        self._described.wait(timeout=5)
        return self.messages

    def wait(self) -> int:
        """Exit status, all messages collected."""
        status = self.process.wait()
        self._collector.join()
        return status

    def kill(self) -> None:
        """End it, whatever it does, and release its pipes."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.wait()
        self.process.stderr.close()

    @property
    def last_message(self) -> str:
        """ffmpeg's own last word."""
        lines = [line.strip() for line in self.messages if line.strip()]
        lines = [line for line in lines if line != "Conversion failed!"] or lines
        return lines[-1] if lines else f"ffmpeg exited with status {self.process.returncode}"


class AudioReader:
    """Decode an audio stream of a file.

    Mono stays mono, stereo stays stereo, more channels are mixed down to stereo.

    Args:
        path: a file, or "-" for standard input.
        sample_rate: in Hz; None keeps the file's.
        offset: seconds to skip.
        duration: seconds to read at most.
        stream: which of the file's audio streams, from 0: stem files hold several.

    Attributes:
        sample_rate: in Hz. nb_channels: 1 or 2. declared: seconds that the file says it lasts,
        or None. seconds: duration to expect, or None.
        tags: title, artist and the like. notes: sentences that the user should read.

    Raises:
        SeparationError: the file is missing, empty, not audio, or has no audio stream; an offset
            or a duration that is none.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sample_rate: int | None = None,
        offset: float = 0.0,
        duration: float | None = None,
        stream: int = 0,
    ) -> None:
        self.name = "standard input" if path == STANDARD else os.fspath(path)
        self.notes: list[str] = []
        self.declared: float | None = None
        if not offset >= 0 or (duration is not None and not duration > 0):
            raise SeparationError(
                "an offset must not be negative, and a duration must be positive, not "
                f"{offset} and {duration}"
            )
        self._offset = min(offset, LONGEST)
        self._duration = None if duration is None else min(duration, LONGEST)
        self._stream = stream
        self._check(path)
        source = "pipe:0" if path == STANDARD else _address(path)
        options = {"map": f"0:a:{stream}", "f": "wav", "c:a": "pcm_f32le"}
        options["af"] = "aformat=channel_layouts=mono|stereo"
        if sample_rate is not None:
            options["ar"] = str(sample_rate)
        self._ffmpeg = _Ffmpeg(
            ffmpeg.input(source).output("pipe:1", **options),
            stdin=None if path == STANDARD else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            self.sample_rate, self.nb_channels = self._header()
            description = self._ffmpeg.description()
            self._refuse_misdetection(description)
        except BaseException:
            self._ffmpeg.kill()
            raise
        self.seconds = self._expected("\n".join(description), offset, duration)
        self.tags = _tags(description)

    def _check(self, path: str | os.PathLike) -> None:
        if path == STANDARD:
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
        """Sample rate and channels from the WAV header that ffmpeg writes."""
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

    def _refuse_misdetection(self, description: list[str]) -> None:
        """ffmpeg takes random bytes for MP3, with a warning."""
        if any("misdetection possible" in line for line in description):
            raise SeparationError(f"{self.name} is not audio that ffmpeg can read")

    def _expected(self, text: str, offset: float, duration: float | None) -> float | None:
        """Seconds of audio to expect, as far as the container says; notes a down-mix."""
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
            SeparationError: no samples at all, or one that is not a number.
        """
        # counted here, to the sample: ffmpeg's own options go by the times of its packets
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
        self._finish(position)

    def _decode(self) -> Iterator[np.ndarray]:
        frame = 4 * self.nb_channels
        position = 0
        while data := self._ffmpeg.process.stdout.read(BLOCK * frame):
            block = np.frombuffer(data[: len(data) // frame * frame], "<f4")
            block = block.reshape(-1, self.nb_channels)
            if (bad := first_impossible(block)) is not None:
                index, what = bad
                raise SeparationError(
                    f"{self.name} holds {what} at {(position + index) / self.sample_rate:.3f} s: "
                    "repair it first"
                )
            position += len(block)
            yield block

    def _finish(self, nb_samples: int) -> None:
        """Say what is wrong with a file that was decoded to its end, ``nb_samples`` of it."""
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
                f"{self.name} says it lasts {self.declared:.1f} s, but only {seconds:.1f} s "
                "could be decoded: it is cut short or damaged"
            )

    def close(self) -> None:
        """End ffmpeg if it still runs."""
        self._ffmpeg.kill()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def first_impossible(waveform: np.ndarray) -> tuple[int, str] | None:
    """Where ``[S, C]`` first has a sample that nothing can be computed from, and what it is."""
    good = (np.abs(waveform) <= LOUDEST).all(axis=1)  # false for NaN
    if good.all():
        return None
    index = int(np.argmin(good))
    finite = np.isfinite(waveform[index]).all()
    return index, f"more than {LOUDEST:g} times full scale" if finite else "NaN or infinity"


class Draft:
    """A file under a temporary name beside its target, which it replaces when it is whole.

    Makes the folders that are missing, and sweeps what a killed run left in the last of them.

    Attributes:
        path: the temporary file, empty at first; hidden, with the target's suffix.

    Raises:
        SeparationError: nothing can be written there.
    """

    def __init__(self, target: str | os.PathLike) -> None:
        self._target = Path(os.path.abspath(target))
        self._made: list[Path] = []
        name = self._target.name
        _address(self._target)  # refuses a name before anything is made
        # names may be as long as the file system allows: keep the end
        temporary = f".spleeter-2-{os.getpid()}-{secrets.token_hex(4)}-{name[-64:]}"
        self.path = self._target.with_name(temporary)
        try:
            for folder in reversed(self._target.parents):
                self._make(folder)
            if self._target.is_dir():  # which also complains of a name that is too long
                raise IsADirectoryError(errno.EISDIR, "a folder has this name")
            _remove_stale(self.path.parent)
            self.path.touch(exist_ok=False)
        except OSError as error:
            self._remove_made()
            raise self._failure(error) from error

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            SeparationError: the name cannot be had.
        """
        try:
            os.replace(self.path, self._target)
        except OSError as error:
            raise self._failure(error) from error
        self._made.clear()

    def discard(self) -> None:
        """Remove the file, unless it is published, and the folders that were made for it."""
        with contextlib.suppress(OSError):  # of two failures the first is told
            self.path.unlink(missing_ok=True)
        self._remove_made()

    def _make(self, folder: Path) -> None:
        """Make a folder that is missing; somebody else may do so at the same time."""
        if not folder.exists():
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                self._made.append(folder)

    def _failure(self, error: OSError) -> SeparationError:
        return SeparationError(f"cannot write {self._target}: {error.strerror or error}")

    def _remove_made(self) -> None:
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # somebody else has put a file there
                folder.rmdir()
        self._made.clear()

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_) -> None:
        self.discard()


def with_channels(block: np.ndarray, channels: int) -> np.ndarray:
    """Block ``[n, 1 or 2]`` -> ``[n, channels]``: mono is doubled, stereo is averaged."""
    if block.shape[1] == channels:
        return block
    if channels == 1:
        return block.mean(axis=1, keepdims=True)
    return np.repeat(block, channels, axis=1)


def resample(blocks: Iterable[np.ndarray], source: int, target: int) -> Iterator[np.ndarray]:
    """Change the sample rate of a stream of float32 ``[n, C]``; no delay."""
    if source == target:
        yield from blocks
        return
    stream = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(
                source, target, block.shape[1], dtype="float32", quality="VHQ"
            )
            nothing = block[:0]
        yield stream.resample_chunk(np.ascontiguousarray(block))
    if stream is not None:
        yield stream.resample_chunk(np.ascontiguousarray(nothing), last=True)


class AudioWriter:
    """Encode a file under a temporary name and rename it when it is whole.

    Args:
        path: where it will stand (an existing file is replaced), or "-" for standard output.
        sample_rate: in Hz, of the samples; the file has ``nearest_rate`` of the codec.
        nb_channels: 1 or 2.
        codec: one of ``CODECS``.
        bits: "16", "24" or "32f", for codecs in ``BITS``.
        bitrate: such as "128k", for the others.
        tags: carried over where the container can.

    Attributes:
        nb_clipped: samples beyond full scale so far, which 16 and 24 bits cut off.

    Raises:
        SeparationError: the folder cannot be written to, or ffmpeg fails.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sample_rate: int,
        nb_channels: int,
        codec: str = "wav",
        bits: str = "16",
        bitrate: str = "128k",
        tags: dict[str, str] | None = None,
    ) -> None:
        self.name = "standard output" if path == STANDARD else os.fspath(path)
        self.nb_clipped = 0
        self._encoding = f"--sample_rate {sample_rate}"
        if codec not in BITS:
            self._encoding += f" with --bitrate {bitrate}"
        self._counts = codec in BITS and bits != "32f"
        self._draft = None if path == STANDARD else Draft(path)
        source = ffmpeg.input("pipe:0", f="f32le", ar=str(sample_rate), ac=str(nb_channels))
        options = _encoding(codec, bits, bitrate, sample_rate)
        for index, (key, value) in enumerate((tags or {}).items()):
            options[f"metadata:g:{index}"] = f"{key}={value}"
        try:
            self._ffmpeg = _Ffmpeg(
                source.output(_address(self._draft.path) if self._draft else "pipe:1", **options),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL if self._draft else None,
            )
        except BaseException:
            if self._draft is not None:
                self._draft.discard()
            raise

    def write(self, block: np.ndarray) -> None:
        """Encode float32 ``[n, C]``."""
        if self._counts:
            self.nb_clipped += int(np.count_nonzero(np.abs(block) > 1.0))
        try:
            self._ffmpeg.process.stdin.write(np.ascontiguousarray(block, "<f4"))
        except OSError as error:
            self._ffmpeg.wait()
            raise self._failure() from error

    def finish(self) -> None:
        """Complete the file, still under its temporary name."""
        try:
            self._ffmpeg.process.stdin.close()
        except OSError as error:
            self._ffmpeg.wait()
            raise self._failure() from error
        if self._ffmpeg.wait() or any(FAILED.search(line) for line in self._ffmpeg.messages):
            raise self._failure()

    def publish(self) -> None:
        """Give the finished file its name."""
        if self._draft is not None:
            self._draft.publish()

    def close(self) -> None:
        """End ffmpeg; whatever was not published is removed."""
        self._ffmpeg.kill()
        if self._draft is not None:
            self._draft.discard()

    def _failure(self) -> SeparationError:
        messages = [line for line in self._ffmpeg.messages if FAILED.search(line)]
        reason = self._ffmpeg.last_message
        if messages:  # "Error closing file ...: No space left on device"
            reason = messages[-1].strip().rpartition(": ")[2]
        elif "while opening encoder" in reason:
            reason = f"{self._encoding} is not what this format takes: choose another"
        return SeparationError(f"cannot write {self.name}: {reason}")

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


# ffmpeg exits with 0 after some failed writes, so its words are read as well
FAILED = re.compile(r"No space left|File too large|Broken pipe|Disk quota|Input/output error|I/O")


def _address(path: str | os.PathLike) -> str:
    """A path as ffmpeg wants it: never taken for an option or for another protocol."""
    path = os.path.abspath(path)
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise SeparationError(f"the name {path!a} is not valid UTF-8: rename it first") from error
    return f"file:{path}"


def _encoding(codec: str, bits: str, bitrate: str, sample_rate: int) -> dict[str, str]:
    """ffmpeg's output options."""
    container, encoder, _ = CODECS[codec]
    options = {"f": container, "ar": str(nearest_rate(codec, sample_rate))}
    if encoder:
        options["c:a"] = encoder
    if codec in BITS:
        options.update(BITS[codec][bits])
    elif codec == "ogg" and sample_rate not in (44100, 48000):
        options["q:a"] = "6"  # libvorbis refuses most bit rates at other sample rates
    else:
        options["b:a"] = bitrate
    if codec == "wav":
        options["rf64"] = "auto"  # above 4 GB
    return options


def _tags(messages: list[str]) -> dict[str, str]:
    """Tags of the input as ffmpeg prints them, of the file or of its audio stream."""
    tags: dict[str, str] = {}
    for line in messages:
        if line.startswith("Output #"):
            break
        found = re.match(r"\s+(\w+)\s*: (.*)", line)
        if found and found[1].lower() in TAGS:
            tags.setdefault(found[1].lower(), found[2])
    return tags


def _remove_stale(folder: Path) -> None:
    """Remove temporary files that a killed run left in a folder."""
    for path in folder.iterdir():
        found = _TEMPORARY.match(path.name)
        if found and not _alive(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
