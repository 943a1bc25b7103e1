"""CRC-32C against RFC 3720's examples and a loop over bits."""

import functools

import numpy as np
import pytest

from spleeter_2.weights import crc32c
from spleeter_2.weights.table import encode_varint

GENERATOR = 0x11EDC6F41  # x**32 is the highest bit


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_published_examples(data, expected):
    assert crc32c.crc32c(data) == expected


def slow_crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


EDGES = [262, 263, 266, 68092, 68096, 2**18 - 4, 2**18, 2**18 + 1]


@pytest.mark.parametrize("size", [*range(1, 9), *EDGES, 400_000])
def test_any_size(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    before = data.copy()
    assert crc32c.crc32c(data) == crc32c.crc32c(data.tobytes()) == slow_crc32c(data.tobytes())
    np.testing.assert_array_equal(data, before)


def test_fold_is_a_multiple_of_the_generator():
    value = functools.reduce(lambda total, exponent: total ^ 1 << exponent, crc32c.FOLD, 0)
    while value.bit_length() > 32:
        value ^= GENERATOR << value.bit_length() - 33
    assert value == 0


def test_masked_form():
    """As LevelDB's crc32c.h: rotated right by 15 bits, plus a constant."""
    crc = crc32c.crc32c(b"123456789")
    rotated = int(f"{crc:032b}"[-15:] + f"{crc:032b}"[:-15], 2)
    assert crc32c.masked_crc32c(b"123456789") == (rotated + 0xA282EAD8) % 2**32


def test_varints_are_those_of_protocol_buffers():
    assert encode_varint(300) == b"\xac\x02"
