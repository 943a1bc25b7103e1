"""CRC-32C (Castagnoli, RFC 3720), the checksum of TensorFlow's checkpoints, in NumPy.

A CRC is the remainder of the data, read as a polynomial over GF(2), modulo a generator. Squaring
such a polynomial doubles its exponents, so the multiple ``FOLD`` of the generator yields one with
all exponents times 8 ``stride``, for any ``stride`` that is a power of two. Adding it cancels a
byte and changes five bytes that come at least ``FOLD[0] - FOLD[1]`` strides later: long runs of
bytes are folded into the rest by five XORs of arrays, and only the last few bytes need a loop.
"""

from __future__ import annotations

import numpy as np

GENERATOR = 0x82F63B78  # lowest bit first, without the term x**32
FOLD = (266, 143, 121, 88, 71, 0)  # exponents of a multiple; no shorter one of 6 terms leaps as far
LEAP = FOLD[0] - FOLD[1]
LATER = tuple(FOLD[0] - exponent for exponent in FOLD[1:])
STRIDE = 256  # bytes; FOLD[0] * STRIDE bytes fit in a core's cache
CHUNK = 1 << 18  # bytes
ONES = bytes.fromhex("54641f64")  # they set a register of zeros to ones, the initial value


def _byte_table() -> list[int]:
    """Remainder of each byte, shifted by 32 bits."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ GENERATOR * (table & 1)
    return table.tolist()


TABLE = _byte_table()


def crc32c(data: bytes | memoryview | np.ndarray) -> int:
    """CRC-32C of contiguous bytes."""
    data = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    rest = np.frombuffer(ONES, np.uint8)
    for start in range(0, data.size, CHUNK):
        rest = _folded(np.concatenate([rest, data[start : start + CHUNK]]), STRIDE)
    stride = STRIDE
    while stride := stride // 2:
        rest = _folded(rest, stride)
    register = 0
    for byte in rest.tolist():
        register = TABLE[(register ^ byte) & 0xFF] ^ register >> 8
    return register ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | memoryview | np.ndarray) -> int:
    """CRC-32C in the form that TensorFlow stores, so that a CRC of CRCs is harmless."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _folded(data: np.ndarray, stride: int) -> np.ndarray:
    """The last ``FOLD[0] * stride`` bytes, changed so that their CRC is that of all; in place."""
    end = data.size - FOLD[0] * stride
    for start in range(0, end, LEAP * stride):
        stop = min(start + LEAP * stride, end)
        for later in LATER:
            data[start + later * stride : stop + later * stride] ^= data[start:stop]
    return data[max(end, 0) :]
