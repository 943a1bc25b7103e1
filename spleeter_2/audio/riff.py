"""Duration that a WAV header declares; ffmpeg computes another one for a file that is cut short."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

PCM = (1, 3, 0xFFFE)  # format tags: integers, floats, WAVE_FORMAT_EXTENSIBLE
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
            size = long_size or size
            if not bytes_per_second or any(size in sizes for sizes in PLACEHOLDERS):
                return None
            return size / bytes_per_second
        end = file.tell() + size + size % 2
        if name == b"fmt ":
            tag, channels, rate, bits = struct.unpack("<HHI6xH", file.read(16))
            bytes_per_second = rate * channels * (bits // 8) if tag in PCM else 0
        elif name == b"ds64":
            (long_size,) = struct.unpack("<8xQ", file.read(16))
        file.seek(end)
