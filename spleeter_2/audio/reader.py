"""Decode audio files through ffmpeg, a block at a time.

ffmpeg decodes to a WAV stream, whose header has sample rate and channels; the rest comes from
ffmpeg's messages. ffprobe is not needed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import ffmpeg
import numpy as np

from spleeter_2.checks import check_number, check_path, check_positive, check_whole
from spleeter_2.errors import SeparationError
from spleeter_2.files import reason_of

from .codecs import check_sample_rate
from .description import Stream, describe, first_frame, parse_metadata, song_tags
from .ffmpeg import STDIO, Ffmpeg, file_url
from .riff import declared_seconds

BLOCK = 1 << 17  # samples per block, about three seconds
MAX_SAMPLE = 1e9  # largest accepted sample; above it, |STFT|**2 overflows float32
MAX_SECONDS = 1e9  # limit of offset and duration; infinity cannot be converted to samples
DESCRIPTOR = re.compile(r"/dev/(?:stdin|fd/(\d+))")
NO_DECODER = re.compile(r"(Decoder|Decoding requested).* (not found|no decoder found)")
SHORT = 0.5  # seconds that may lack at the end: padding and frames of codecs
LATE = 0.05  # seconds after the picture from which a later begin of the sound is noted

SUFFIXES = frozenset(
    ".aac .aif .aifc .aiff .alac .ape .au .caf .flac .m4a .m4b .mka .mkv .mov .mp2 .mp3 .mp4 "
    ".mpc .oga .ogg .opus .ra .tta .wav .webm .wma .wv".split()
)


class AudioReader:
    """Decode an audio stream of a file.

    One channel is mono and two are stereo, whatever their positions; more are mixed down to stereo
    by ffmpeg's rules for their layout. Without a known layout, the first two are taken.

    Args:
        path: a file, a pipe such as ``/dev/fd/3``, or "-" for standard input.
        sample_rate: in Hz (default: the file's).
        offset: seconds to skip.
        duration: seconds to read (default: to the end).
        stream: index among the audio streams, from 0 (default: ffmpeg's choice, the default stream
            or else the one with most channels).
        name: in messages (default: the path).

    Attributes:
        sample_rate: in Hz.
        nb_channels: 1 or 2.
        declared: duration in seconds that the container declares for this stream, or None.
        seconds: seconds that will be read according to ``declared``, or None.
        notes: sentences for the user; complete after ``blocks``.
        faults: the notes on samples that are missing or mixed down.

    Raises:
        SeparationError: the file is missing, empty, not audio, or has no such audio stream; an
            invalid argument.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sample_rate: int | None = None,
        offset: float = 0.0,
        duration: float | None = None,
        stream: int | None = None,
        name: str | None = None,
    ) -> None:
        path = check_path("the path", path)
        self._has_name = name is not None
        self.name = name or ("standard input" if path == STDIO else path)
        self.notes: list[str] = []
        self.faults: list[str] = []
        if sample_rate is not None:
            sample_rate = check_sample_rate(sample_rate)
        self._offset = check_number("the offset", _limited(offset), 0)
        self._duration = duration
        if duration is not None:
            self._duration = check_positive("the duration", _limited(duration))
        self._stream = None if stream is None else check_whole("the stream", stream, 0, 999)
        self._start(path, sample_rate)
        try:
            self.sample_rate, self._nb_decoded, mask = self._header()
            self.nb_channels = min(self._nb_decoded, 2)
            self._input = describe(self._ffmpeg.input_messages())
            self._matrix = self._down_mix(mask)
        except BaseException:
            self._ffmpeg.kill()
            raise
        self.declared = self._declared_seconds()
        self.seconds = self._expected_seconds()
        self._note_choice()

    def _start(self, path: str | os.PathLike, sample_rate: int | None) -> None:
        """Start ffmpeg; a pipe becomes its standard input, which cannot be opened by name there."""
        descriptor = self._open(path)
        try:
            self._url = self._file_url(path, descriptor)
            self._ffmpeg = Ffmpeg(
                _decoding(self._url or "pipe:0", self._stream, sample_rate),
                stdin=subprocess.DEVNULL if self._url else descriptor,
                stdout=subprocess.PIPE,
            )
        finally:
            os.close(descriptor)

    def _open(self, path: str | os.PathLike) -> int:
        if path == STDIO:
            if sys.stdin is None:
                raise SeparationError("standard input is closed: pipe audio into it")
            return os.dup(0)
        if not os.path.exists(path):
            raise SeparationError(f"there is no file {self.name or 'without a name'}")
        if os.path.isdir(path):
            raise SeparationError(f"{self.name} is a folder, not an audio file")
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as error:
            descriptor = DESCRIPTOR.fullmatch(path)
            if error.errno == errno.ENXIO and descriptor:  # a socket
                return os.dup(int(descriptor[1] or 0))
            raise SeparationError(f"cannot read {self.name}: {reason_of(error)}") from error

    def _file_url(self, path: str | os.PathLike, descriptor: int) -> str | None:
        """URL of a file that ffmpeg can open by name, or None for a pipe."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            if os.isatty(descriptor):
                raise SeparationError(f"{self.name} is a terminal: pipe audio into it")
            return None
        if status.st_size == 0:
            raise SeparationError(f"{self.name} is an empty file")
        if path != STDIO:
            file_url(path)  # raises for the name as it was given
        # /dev/stdin and /dev/fd/3 are other files in ffmpeg's process
        name = os.path.realpath("/dev/stdin" if path == STDIO else path)
        if os.lseek(descriptor, 0, os.SEEK_CUR) or not os.path.exists(name):
            return None
        return file_url(name)

    def _header(self) -> tuple[int, int, int]:
        """Sample rate, channels and mask of their positions, from ffmpeg's WAV header."""
        pipe: BinaryIO = self._ffmpeg.process.stdout
        if len(pipe.read(12)) == 12:
            form = b""
            while len(chunk := pipe.read(8)) == 8:
                name, size = struct.unpack("<4sI", chunk)
                if name == b"data":
                    channels, rate = struct.unpack_from("<2xHI", form)
                    # WAVE_FORMAT_EXTENSIBLE has the mask
                    mask = struct.unpack_from("<I", form, 20)[0] if len(form) >= 40 else 0
                    return rate, channels, mask
                content = pipe.read(size)
                form = content if name == b"fmt " else form
        self._ffmpeg.wait()
        messages = "\n".join(self._ffmpeg.messages)
        if "matches no streams" in messages or "does not contain any stream" in messages:
            streams = len(describe(self._ffmpeg.messages).audio)
            if self._stream and streams:
                raise SeparationError(
                    f"{self.name} has no audio stream {self._stream + 1}, but {streams}"
                )
            raise SeparationError(f"{self.name} has no audio stream")
        if any(map(NO_DECODER.search, self._ffmpeg.messages)):
            raise SeparationError(
                f"{self.name}: ffmpeg has no decoder for its audio stream{self._stream_hint()}"
            )
        raise SeparationError(
            f"{self.name} is not audio that ffmpeg can read: {self._last_message()}"
            f"{self._pipe_hint()}"
        )

    def _last_message(self) -> str:
        """Why ffmpeg ended, with the name in place of the path if one was given."""
        text = self._ffmpeg.last_message
        return text.replace(self._url, self.name) if self._has_name and self._url else text

    def _stream_hint(self) -> str:
        """Advice for a file with several audio streams, else empty."""
        nb_streams = len(describe(self._ffmpeg.messages).audio)
        return f"; --stream N takes another of its {nb_streams}" if nb_streams > 1 else ""

    def _pipe_hint(self) -> str:
        """Advice for a container that ffmpeg cannot read without seeking, else empty."""
        words = ("partial file", "moov atom not found", "Missing packet table")
        if self._url or not any(word in line for line in self._ffmpeg.messages for word in words):
            return ""
        return (
            "; the index of this container (M4A, MP4, MOV, CAF) stands at its end, where a pipe "
            "cannot seek to: save it to a file first"
        )

    def _down_mix(self, mask: int) -> np.ndarray | None:
        """Matrix float32 ``[channels, 2]`` for more than two channels, with a note."""
        if self._nb_decoded <= 2:
            return None
        matrix = _stereo_matrix(self._nb_decoded, mask) if mask else None
        if matrix is None:
            self._fault(
                f"{self.name} has {self._nb_decoded} channels in no layout that could be mixed "
                "down to stereo: the first two are taken"
            )
            return np.eye(self._nb_decoded, 2, dtype=np.float32)
        layout = self._input.chosen.layout if self._input.chosen else f"{self._nb_decoded} channels"
        layout = layout if "channels" in layout else f"{layout} channels"
        self._fault(f"{self.name} has {layout}: mixed down to stereo")
        return matrix

    def _fault(self, text: str) -> None:
        self.notes.append(text)
        self.faults.append(text)

    def _declared_seconds(self) -> float | None:
        seconds = None
        if self._input.format == "wav" and self._url:
            seconds = declared_seconds(self._url.removeprefix("file:"))
        if seconds is None and not self._input.is_estimated:
            seconds = self._input.chosen_seconds
        return seconds

    def _expected_seconds(self) -> float | None:
        """Seconds that will be read, or None if the duration is unknown."""
        if self.declared is None:
            return self._duration
        left = max(self.declared - self._offset, 0.0)
        return left if self._duration is None else min(left, self._duration)

    def _note_choice(self) -> None:
        """Note which of several audio streams was chosen."""
        streams, chosen = self._input.audio, self._input.chosen
        if self._stream is not None or len(streams) < 2 or chosen is None:
            return
        labels = [_label(number, stream) for number, stream in enumerate(streams, start=1)]
        taken = labels.pop(streams.index(chosen))
        self.notes.append(
            f"{self.name} has {len(streams)} audio streams: number {taken} is taken; --stream N "
            f"takes another: {', '.join(labels)}"
        )

    def _note_late_begin(self) -> None:
        """Note that the sound begins after the picture."""
        first = None
        for _ in range(100):  # a thread of ffmpeg may print it a moment later
            if (first := first_frame(self._ffmpeg.messages)) is not None:
                break
            time.sleep(0.01)
        if first is None:
            return
        begin = first / self.sample_rate
        if self.declared is not None:  # in many containers the time at which the stream ends
            self.declared = max(self.declared - max(begin, 0.0), 0.0)
        late = begin - self._input.start
        if self._input.has_film and late > LATE:
            self.notes.append(
                f"{self.name}: the sound begins {late:.3f} s after the picture, and the stems "
                "begin with the sound: delay them by as much under the film"
            )

    @functools.cached_property
    def tags(self) -> dict[str, str]:
        """Title, artist and others, of the container or of the audio stream."""
        chosen = self._input.chosen
        owners = [self._input.tags]
        if chosen is not None:
            language = {"language": chosen.language} if chosen.language else {}
            owners.append({**chosen.tags, **language})
        # messages cut each line of a tag at 255 bytes
        if any(owners) and chosen is not None and self._url:
            owners = _read_metadata(self._url, chosen.index) or owners
        return song_tags(*owners)

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
        frame = 4 * self._nb_decoded
        position = 0
        while data := self._ffmpeg.process.stdout.read(BLOCK * frame):
            block = np.frombuffer(data[: len(data) // frame * frame], "<f4")
            block = block.reshape(-1, self._nb_decoded)
            if (bad := first_invalid_sample(block)) is not None:
                index, what = bad
                raise SeparationError(
                    f"{self.name} holds {what} at {(position + index) / self.sample_rate:.3f} s: "
                    "repair it first"
                )
            if not position:
                self._note_late_begin()
            position += len(block)
            yield block if self._matrix is None else block @ self._matrix

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
            reason = f": {self._last_message()}" if status else ""
            raise SeparationError(f"{self.name} holds no samples{reason}{self._pipe_hint()}")
        # ffmpeg takes random bytes for MP3, with this warning, and then fails to decode most
        if status and any("misdetection possible" in line for line in self._ffmpeg.messages):
            raise SeparationError(f"{self.name} is not audio that ffmpeg can read")
        if status:
            self._fault(
                f"{self.name} is damaged, only {seconds:.1f} s could be decoded: "
                f"{self._last_message()}"
            )
        elif self.declared and seconds < 0.98 * self.declared - SHORT:
            self._fault(
                f"{self.name} should last {self.declared:.1f} s, but only {seconds:.1f} s "
                "could be decoded: it is cut short or damaged"
            )
        elif self._is_cut():
            self._fault(
                f"{self.name} ends within a packet, only {seconds:.1f} s could be decoded: it is "
                "cut short or damaged"
            )

    def _is_cut(self) -> bool:
        """True if the container has ended within a packet, for containers of any duration."""
        # files of unknown size end so too: see riff.py
        if self._input.format in ("wav", "caf") or self._input.chosen is None:
            return False
        index = self._input.chosen.index
        words = re.compile(
            rf"\[.*(Packet corrupt \(stream = {index},|stream {index}, .*: partial file)"
        )
        return any(map(words.match, self._ffmpeg.messages))

    def close(self) -> None:
        """Stop ffmpeg if it is running."""
        self._ffmpeg.kill()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def first_invalid_sample(waveform: np.ndarray) -> tuple[int, str] | None:
    """Index and description of the first invalid sample of ``[S, C]``, or None."""
    # compared in 32 bits: in float16 the limit is infinite; false for NaN
    good = (np.abs(waveform) <= np.float32(MAX_SAMPLE)).all(axis=1)
    if good.all():
        return None
    index = int(np.argmin(good))
    finite = np.isfinite(waveform[index]).all()
    return index, f"more than {MAX_SAMPLE:g} times full scale" if finite else "NaN or infinity"


def _limited(seconds: Any) -> Any:
    """``MAX_SECONDS`` for a float above it, infinity included; any other value as it is."""
    return min(seconds, MAX_SECONDS) if isinstance(seconds, float) else seconds


def _label(number: int, stream: Stream) -> str:
    """Number, language and title of an audio stream."""
    title = " ".join(stream.tags.get("title", "").split())  # it may have several lines
    facts = [fact for fact in (stream.language, title) if fact]
    return f"{number} ({', '.join(facts)})" if facts else str(number)


def _decoding(url: str, stream: int | None, sample_rate: int | None) -> ffmpeg.nodes.OutputStream:
    """ffmpeg's arguments: samples to standard output, the time of the first frame to its messages.

    ``-copyts`` keeps the times of the container, whose begin differs from the sound's.
    """
    # a guessed layout of more channels would be mixed down by rules that may not be theirs
    source = ffmpeg.input(url, guess_layout_max=2)
    options = {"c:a": "pcm_f32le", "map_metadata": "-1"}
    # without a map, ffmpeg chooses the stream
    options |= dict.fromkeys(("vn", "sn", "dn")) if stream is None else {"map": f"0:a:{stream}"}
    if sample_rate is not None:
        options["ar"] = str(sample_rate)
    samples = source.output("pipe:1", f="wav", **options)
    first = source.output("pipe:2", f="framecrc", **{"frames:a": 1}, **options)
    return ffmpeg.merge_outputs(samples, first).global_args("-copyts")


@functools.lru_cache
def _stereo_matrix(nb_channels: int, mask: int) -> np.ndarray | None:
    """ffmpeg's down-mix as a matrix float32 ``[channels, 2]``, or None if it has no rule.

    Args:
        mask: positions of the channels as in WAVE_FORMAT_EXTENSIBLE.
    """
    source = ffmpeg.input(
        "pipe:0", f="f32le", ar="44100", ac=str(nb_channels), channel_layout=hex(mask)
    )
    stereo = source.output(
        "pipe:1", f="f32le", af="aformat=channel_layouts=stereo", **{"c:a": "pcm_f32le"}
    )
    mixing = Ffmpeg(stereo, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        # frame i has a one in channel i and zeros elsewhere
        with contextlib.suppress(OSError):
            mixing.process.stdin.write(np.eye(nb_channels, dtype="<f4"))
            mixing.process.stdin.close()
        matrix = np.frombuffer(mixing.process.stdout.read(), "<f4")
    finally:
        mixing.kill()
    return matrix.reshape(-1, 2) if len(matrix) == 2 * nb_channels else None


def _read_metadata(url: str, index: int) -> list[dict[str, str]]:
    """Tags of the container and of a stream in full; empty if ffmpeg fails."""
    source = ffmpeg.input(url)
    tags = source.output("pipe:1", f="ffmetadata", map=f"0:{index}", map_chapters=-1, c="copy", t=0)
    reading = Ffmpeg(tags, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        text = reading.process.stdout.read().decode("utf-8", "replace")
        return parse_metadata(text) if reading.wait() == 0 else []
    finally:
        reading.kill()
