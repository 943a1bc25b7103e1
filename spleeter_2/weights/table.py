"""Sorted string tables (SSTable of LevelDB), TensorFlow's file of key-value pairs.

A table is a series of blocks: data, an empty one of metadata, and an index that has the place of
each block of data; a footer of 48 bytes has the places of the latter two. Each entry of a block
stores how many bytes of its key are those of the key before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from .crc32c import masked_crc32c

FOOTER = 48  # bytes
MAGIC = bytes.fromhex("57fb808b247547db")
TRAILER = 5  # bytes after a block: compression, masked CRC-32C
SNAPPY = 1
BLOCK = 262144  # bytes, after which TensorFlow begins a new block
RESTART = 16  # entries of a block after which a key is stored in full
LONGEST_KEY = 4096  # bytes
ALL_KEYS = 1 << 26  # bytes; prefixes repeat, so keys may need far more memory than their file


class Damaged(ValueError):
    """The bytes are not what TensorFlow writes; the text says which and why."""


class Unsupported(ValueError):
    """A valid file that cannot be read here; the text says why."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Unsigned integer of 7 bits per byte, lowest first, and the place behind it.

    Raises:
        Damaged: it goes beyond the data or 64 bits.
    """
    if at < len(data) and data[at] < 0x80:  # most are small
        return data[at], at + 1
    value = shift = 0
    for place in range(at, min(at + 10, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 1 << 64:
            return value, place + 1
        shift += 7
    raise Damaged("a number is cut off or too large")


def encode_varint(value: int) -> bytes:
    """The bytes that ``varint`` reads."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_table(content: bytes) -> dict[bytes, bytes]:
    """All pairs of a table, by ascending key.

    Raises:
        Damaged, Unsupported.
    """
    if len(content) < FOOTER or not content.endswith(MAGIC):
        raise Damaged("it is cut off, or not the index of a TensorFlow checkpoint")
    _, at = _handle(content, len(content) - FOOTER)
    index, _ = _handle(content, at)
    pairs: dict[bytes, bytes] = {}
    last, size, free = None, 0, 0
    for _, place in _entries(_block(content, index)):
        handle, _ = _handle(place, 0)
        if handle[0] < free:  # one block listed a million times would take hours
            raise Damaged("its blocks overlap")
        free = sum(handle)
        for key, value in _entries(_block(content, handle)):
            if last is not None and key <= last:
                raise Damaged("its keys are not in order")
            size += len(key)
            if size > ALL_KEYS:
                raise Unsupported(f"its names have more than {ALL_KEYS} bytes")
            pairs[key] = value
            last = key
    return pairs


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and the place behind them."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(content: bytes, handle: tuple[int, int]) -> bytes:
    offset, size = handle
    end = offset + size
    if end + TRAILER > len(content) - FOOTER:
        raise Damaged("a block lies beyond its end")
    (crc,) = struct.unpack_from("<I", content, end + 1)
    if crc != masked_crc32c(content[offset : end + 1]):
        raise Damaged("the checksum of a block differs")
    if content[end] == SNAPPY:
        raise Unsupported("its index is compressed with Snappy, which TensorFlow does not write")
    if content[end]:
        raise Damaged(f"a block has the unknown compression {content[end]}")
    return content[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Pairs of a block, which ends with the places of full keys and their number."""
    nb_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (nb_restarts + 1)
    if end < 0:
        raise Damaged("a block is too short")
    key, at = b"", 0
    while at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        size, at = varint(block, at)
        stop = at + own + size
        if shared > len(key) or stop > end:
            raise Damaged("an entry lies beyond the end of its block")
        key = key[:shared] + block[at : at + own]
        if len(key) > LONGEST_KEY:
            raise Unsupported(f"a name has more than {LONGEST_KEY} bytes")
        yield key, block[at + own : stop]
        at = stop


def write_table(pairs: Mapping[bytes, bytes]) -> bytes:
    """The file of a table, byte by byte as TensorFlow writes it."""
    content = bytearray()
    index: dict[bytes, bytes] = {}

    def append(entries: Mapping[bytes, bytes], restart: int = RESTART) -> bytes:
        block = _encode_block(entries, restart) + b"\0"
        place = encode_varint(len(content)) + encode_varint(len(block) - 1)
        content.extend(block + struct.pack("<I", masked_crc32c(block)))
        return place

    names = sorted(pairs)
    for first, last in _blocks(pairs, names):
        place = append({name: pairs[name] for name in names[first:last]})
        following = names[last] if last < len(names) else None
        index[_separator(names[last - 1], following)] = place
    footer = append({}) + append(index, 1)
    return bytes(content) + footer.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC


def _blocks(pairs: Mapping[bytes, bytes], names: list[bytes]) -> Iterator[tuple[int, int]]:
    """First name of each block and the one behind its last, as indices."""
    first = 0
    while first < len(names):
        last, size, key = first, 4, b""
        while last < len(names) and size + 4 < BLOCK:
            restarts = (last - first) % RESTART == 0
            name, value = names[last], pairs[names[last]]
            if last > first and len(name) + len(value) >= 2 * BLOCK:
                break
            size += len(_encode_entry(b"" if restarts else key, name, value))
            size += 4 if restarts and last > first else 0
            key, last = name, last + 1
        yield first, last
        first = last


def _encode_block(entries: Mapping[bytes, bytes], restart: int) -> bytes:
    block, restarts, key = bytearray(), [0], b""
    for number, (name, value) in enumerate(entries.items()):
        if number % restart == 0:
            key = b""
            if number:
                restarts.append(len(block))
        block += _encode_entry(key, name, value)
        key = name
    return bytes(block) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def _encode_entry(before: bytes, key: bytes, value: bytes) -> bytes:
    shared = _nb_shared(before, key)
    sizes = (shared, len(key) - shared, len(value))
    return b"".join(map(encode_varint, sizes)) + key[shared:] + value


def _nb_shared(one: bytes, other: bytes) -> int:
    """Length of the common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _separator(key: bytes, following: bytes | None) -> bytes:
    """A short key, not below the last of a block and below the first of the following one."""
    if following is None:
        at = next((i for i, byte in enumerate(key) if byte < 0xFF), None)
        return key if at is None else key[:at] + bytes([key[at] + 1])
    at = _nb_shared(key, following)
    if at < min(len(key), len(following)) and key[at] + 1 < following[at]:
        return key[:at] + bytes([key[at] + 1])
    return key
