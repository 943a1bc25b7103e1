"""WAV headers: the duration that one declares, and that of a file of floats.

ffmpeg computes another duration for a file that is cut short.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

PCM = (1, 3, 0xFFFE)  # format tags: integers, floats, WAVE_FORMAT_EXTENSIBLE
_HEADER = 80  # bytes of ``float_header``
# sizes of files that are written to a pipe or are still being recorded
PLACEHOLDERS = (range(1), range(0x7FFE0000, 0x80010000), range(0xFFFE0000, 1 << 32))


def declared_seconds(path: str | os.PathLike) -> float | None:
    """Seconds that a header declares; None for a placeholder, another format, or no WAV file."""
    try:
        with open(path, "rb") as file:
            return _seconds(file)
    except (OSError, struct.error):
        return None


def _seconds(file: BinaryIO) -> float | None:
    if file.read(12)[:4] not in (b"RIFF", b"RF64"):
        return None
    bytes_per_second = long_size = 0
    while True:
        name, size = struct.unpack("<4sI", file.read(8))
        if name == b"data":
            is_unknown = not long_size and any(size in sizes for sizes in PLACEHOLDERS)
            if not bytes_per_second or is_unknown:
                return None
            return (long_size or size) / bytes_per_second
        end = file.tell() + size + size % 2
        if name == b"fmt ":
            tag, channels, rate, bits = struct.unpack("<HHI6xH", file.read(16))
            bytes_per_second = rate * channels * (bits // 8) if tag in PCM else 0
        elif name == b"ds64":
            (long_size,) = struct.unpack("<8xQ", file.read(16))
        file.seek(end)


def float_header(sample_rate: int, nb_channels: int, nb_samples: int | None) -> bytes:
    """Header of a WAV file of 32-bit floats, always of the same length.

    Args:
        nb_samples: per channel; None for a file that grows, whose header has a placeholder.

    Returns:
        RIFF, or RF64 (EBU Tech 3306) for 4 GiB or more.
    """
    frame, unknown = 4 * nb_channels, (1 << 32) - 1
    size = unknown if nb_samples is None else nb_samples * frame
    is_long = nb_samples is not None and size + _HEADER > unknown
    sizes = (size + _HEADER - 8, size, nb_samples) if is_long else (0, 0, 0)
    return b"".join(
        (
            struct.pack(
                "<4sI4s", b"RF64" if is_long else b"RIFF", min(size + _HEADER - 8, unknown), b"WAVE"
            ),
            struct.pack("<4sIQQQI", b"ds64" if is_long else b"JUNK", 28, *sizes, 0),
            struct.pack("<4sIHHI", b"fmt ", 16, 3, nb_channels, sample_rate),
            struct.pack("<IHH", sample_rate * frame, frame, 32),
            struct.pack("<4sI", b"data", min(size, unknown)),
        )
    )
