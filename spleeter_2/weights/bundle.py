"""TensorFlow's checkpoints ("tensor bundles"), read and written without TensorFlow.

A bundle ``PREFIX`` is ``PREFIX.index``, a table of a header and one entry per tensor, and
``PREFIX.data-00000-of-0000N``, the tensors' numbers. Entries are protocol buffers
(``BundleEntryProto`` in TensorFlow's ``tensor_bundle.proto``). The format is written here anew
since the package tensorflow-checkpoint-reader needs protobuf < 3.19, which excludes TensorFlow
2.12 and newer, and does not claim to work.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from spleeter_2.checks import check_names, check_path
from spleeter_2.errors import SeparationError
from spleeter_2.files import reason_of

from .crc32c import masked_crc32c
from .table import (
    LONGEST_KEY,
    Damaged,
    Unsupported,
    encode_varint,
    read_table,
    varint,
    write_table,
)

# numbers of ``DataType`` in TensorFlow's types.proto
TYPES = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    8: np.dtype("<c8"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    17: np.dtype("<u2"),
    18: np.dtype("<c16"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
NUMBERS = {dtype: number for number, dtype in TYPES.items()}
FLOATS = {1, 19}  # those of 32 and 16 bits
BFLOAT16 = 14  # the upper half of a float32
VERSION = 1  # of the format
VARINT, BYTES, FIXED32 = 0, 2, 5  # kinds of fields of a protocol buffer
FIXED = {1: 8, FIXED32: 4}  # their sizes in bytes
LARGEST_INDEX = 1 << 22  # bytes; an entry has about 40
LARGEST_STATE = 1 << 20  # bytes of the file checkpoint
ALIGNMENT = 64  # bytes, of the arrays in memory: a cache line
MOST_AXES = 32  # of NumPy's arrays before version 2
STATE = re.compile(r"""^[ \t]*model_checkpoint_path[ \t]*:[ \t]*(["'])(.*)\1[ \t]*\r?$""", re.M)


@dataclass(frozen=True)
class Entry:
    """A tensor of a bundle.

    ``dtype``: of the array that is read, or None for what is no array of numbers, such as the
    object graph of ``tf.train.Checkpoint``. ``offset`` and ``size`` in bytes; ``crc``: masked.
    """

    dtype: np.dtype | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    number: int  # of the type that is stored


@dataclass(frozen=True)
class Index:
    """The index of a bundle: tensors by name, and the files that hold them by number."""

    entries: dict[str, Entry]
    shards: dict[int, str]

    @property
    def ignored(self) -> list[str]:
        """Names of the tensors that cannot be read as an array of numbers."""
        return [name for name, entry in self.entries.items() if entry.dtype is None]

    @property
    def folder(self) -> str:
        """The deepest folder that holds all data files."""
        return os.path.commonpath([os.path.dirname(path) for path in self.shards.values()])


def read_index(prefix: str | os.PathLike) -> Index:
    """Names, shapes and types of the tensors of a bundle, sorted by name.

    The places of all tensors are compared with the sizes of the data files.

    Args:
        prefix: path of the bundle without ``.index``.

    Raises:
        SeparationError: files are missing, damaged, or of another format.
    """
    prefix = check_path("the prefix of a checkpoint", prefix)
    path = f"{prefix}.index"
    with _reading(prefix, path):
        _check_file(path)
        with open(path, "rb") as file:
            content = file.read(LARGEST_INDEX + 1)
        if len(content) > LARGEST_INDEX:
            raise Unsupported(f"it has more than {LARGEST_INDEX} bytes")
        pairs = read_table(content)
        nb_shards = _parse_header(pairs.pop(b"", None))
        entries = {
            (decoded := _decode_name(name)): _parse_entry(decoded, value, nb_shards)
            for name, value in pairs.items()
            if not name.startswith(b"\0")  # a slice: the entry of its tensor is refused
        }
    shards = {}
    for shard, names in sorted(_by_shard(entries).items()):
        path = shards[shard] = _shard_path(prefix, shard, nb_shards)
        with _reading(prefix, path):
            _check_shard(path, [entries[name] for name in names])
    return Index(entries, shards)


def read_bundle(
    prefix: str | os.PathLike, names: Iterable[str] | None = None, verify: bool = False
) -> dict[str, np.ndarray]:
    """Named arrays of a bundle; bfloat16 becomes float32.

    They share one block of memory, which is freed with the last of them.

    Args:
        prefix: path of the bundle without ``.index``.
        names: of the tensors to read; by default, all that are arrays of numbers.
        verify: compare each tensor's CRC-32C, at about 1 GB/s; that of the index always is.

    Raises:
        SeparationError: files are missing, damaged, or of another format; a name is not there.
    """
    index = read_index(prefix)
    entries = {name: entry for name, entry in index.entries.items() if entry.dtype is not None}
    if names is not None:
        names = dict.fromkeys(check_names("names", names))
        if missing := [name for name in names if name not in entries]:
            raise SeparationError(f"the weights in {_folder(prefix)} lack {_shown(missing[0])}")
        entries = {name: entries[name] for name in names}
    arrays = dict.fromkeys(entries)
    ends = [0, *itertools.accumulate(_aligned(entry.size) for entry in entries.values())]
    starts = dict(zip(entries, ends, strict=False))
    with _reading(prefix, f"{prefix}.index"):
        # of one block, most pages are huge: many small ones take longer to map than to read
        memory = np.empty(ends[-1] + ALIGNMENT, np.uint8)
    memory = memory[-memory.ctypes.data % ALIGNMENT :]
    for shard, members in _by_shard(entries).items():
        path = index.shards[shard]
        with _reading(prefix, path), open(path, "rb") as file:
            for name in members:
                raw = memory[starts[name] :][: entries[name].size]
                arrays[name] = _read_tensor(file, name, entries[name], raw, verify)
    return arrays


def write_bundle(values: Mapping[str, np.ndarray], prefix: str | os.PathLike) -> None:
    """Write named arrays as a bundle of one data file, sorted by name, as TensorFlow does.

    Args:
        prefix: path of the bundle in an existing folder; not written atomically
            (see ``files.atomic_folder``).

    Raises:
        OSError: the files cannot be written.
        ValueError: a name is empty or too long, or an array has a type that is not in ``TYPES``.
    """
    prefix = os.fspath(prefix)
    arrays = {name.encode(): _writable(name, value) for name, value in values.items()}
    header = encode_field(1, 1) + encode_field(3, encode_field(1, VERSION))
    pairs = {b"": header}
    offset = 0
    with open(_shard_path(prefix, 0, 1), "wb") as file:
        for name in sorted(arrays):
            array = arrays[name]
            raw = array.reshape(-1).view(np.uint8)
            file.write(raw)
            pairs[name] = _encode_entry(array, offset, masked_crc32c(raw))
            offset += array.nbytes
    with open(f"{prefix}.index", "wb") as file:
        file.write(write_table(pairs))


def latest_checkpoint(folder: str | os.PathLike) -> str:
    """Prefix of the bundle that the file ``checkpoint`` of a folder names.

    Raises:
        SeparationError: the file or the bundle is missing, or the file holds something else.
    """
    prefix = named_prefix(folder)
    if not os.path.isfile(f"{prefix}.index"):
        name = prefix.removeprefix(os.path.join(folder, ""))
        raise SeparationError(
            f"there is no TensorFlow checkpoint in {folder}: it names {name!r}, which has no file "
            ".index"
        )
    return prefix


def named_prefix(folder: str | os.PathLike) -> str:
    """The prefix in the file ``checkpoint`` of a folder, whether or not its files are there.

    Raises:
        SeparationError: the file is missing, or it holds something else.
    """
    folder = check_path("folder", folder)
    refusal = f"there is no TensorFlow checkpoint in {folder}"
    path = os.path.join(folder, "checkpoint")
    if not os.path.isfile(path):
        raise SeparationError(f"{refusal}: the file checkpoint is missing")
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_STATE).decode("latin-1")
        found = STATE.findall(text)[-1][1]
        # quoted as in C: bytes beyond ASCII as octal numbers
        name = found.encode("latin-1").decode("unicode_escape").encode("latin-1").decode()
        if not name or "\0" in name:
            raise ValueError
    except OSError as error:
        raise SeparationError(f"cannot read {path}: {reason_of(error)}") from error
    except (IndexError, ValueError) as error:
        raise SeparationError(f"{refusal}: the file checkpoint names none") from error
    return os.path.join(folder, name)


# === Errors ===


@contextlib.contextmanager
def _reading(prefix: str | os.PathLike, path: str) -> Iterator[None]:
    """Turn the errors of a file into one sentence.

    Raises:
        SeparationError: it names the folder, the file and the reason.
    """
    place, name = _folder(prefix), os.path.basename(path)
    try:
        yield
    except Damaged as error:
        raise SeparationError(
            f"the weights in {place} are damaged or incomplete: install or download them again "
            f"({name}: {error})"
        ) from error
    except Unsupported as error:
        raise SeparationError(f"cannot read the weights in {place} ({name}: {error})") from error
    except OSError as error:
        raise SeparationError(f"cannot read {path}: {reason_of(error)}") from error
    except MemoryError as error:
        raise SeparationError(f"there is not enough memory for the weights in {place}") from error


def _folder(prefix: str | os.PathLike) -> str:
    return os.path.dirname(prefix) or "."


def _check_file(path: str) -> None:
    """Raise Damaged if there is no regular file; a pipe would block."""
    if not os.path.isfile(path):
        raise Damaged("there is no such file")


def _check_shard(path: str, entries: list[Entry]) -> None:
    """Raise Damaged if a data file is missing or too small for its tensors."""
    _check_file(path)
    size = os.path.getsize(path)
    end = max(entry.offset + entry.size for entry in entries)
    if end > size:
        raise Damaged(f"it has {size} bytes instead of at least {end}")
    if sum(entry.size for entry in entries) > size:
        raise Damaged("tensors overlap")


# === Reading ===


def _shard_path(prefix: str, shard: int, nb_shards: int) -> str:
    return f"{prefix}.data-{shard:05d}-of-{nb_shards:05d}"


def _by_shard(entries: Mapping[str, Entry]) -> dict[int, list[str]]:
    """Names of the tensors in each data file."""
    names: dict[int, list[str]] = {}
    for name, entry in entries.items():
        names.setdefault(entry.shard, []).append(name)
    return names


def _decode_name(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise Damaged("a name is not UTF-8") from error


def _parse_header(message: bytes | None) -> int:
    """Number of data files."""
    if message is None:
        raise Damaged("its header is missing")
    nb_shards, endianness, version = _parse(message, {1: VARINT, 2: VARINT, 3: BYTES})
    (consumer,) = _parse(_last(version, b""), {2: VARINT})
    if _last(consumer, 0) > VERSION:
        raise Unsupported("a newer version of TensorFlow is needed")
    if _last(endianness, 0) != 0:
        raise Unsupported("it was written on a big-endian machine")
    if not 1 <= _last(nb_shards, 0) <= 99999:
        raise Damaged("its header is damaged")
    return nb_shards[-1]


def _parse_entry(name: str, message: bytes, nb_shards: int) -> Entry:
    kinds = {1: VARINT, 2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT, 6: FIXED32, 7: BYTES}
    *fields, slices = _parse(message, kinds)
    shown = _shown(name)
    if slices:
        raise Unsupported(f"{shown} is partitioned: save it in one piece")
    number, shape, shard, offset, size, crc = (
        _last(found, default) for found, default in zip(fields, (0, b"", 0, 0, 0, 0), strict=True)
    )
    shape = _parse_shape(shape)
    dtype = np.dtype("<f4") if number == BFLOAT16 else TYPES.get(number)
    stored = 2 if number == BFLOAT16 else dtype.itemsize if dtype else 0
    if not number or shard >= nb_shards or dtype and size != math.prod(shape) * stored:
        raise Damaged(f"the entry of {shown} contradicts itself")
    if math.prod(max(side, 1) for side in shape) >= 1 << 60:
        raise Unsupported(f"{shown} has more elements than NumPy's arrays can have")
    return Entry(dtype, shape, shard, offset, size, crc, number)


def _shown(name: str) -> str:
    """A name in a message: printable and not too long."""
    return ascii(name)[1:-1][:100]


def _parse_shape(message: bytes) -> tuple[int, ...]:
    """Sides of a ``TensorShapeProto``."""
    sides, unknown = _parse(message, {2: BYTES, 3: VARINT})
    if any(unknown):
        raise Damaged("a tensor has no shape")
    if len(sides) > MOST_AXES:
        raise Unsupported(f"a tensor has more than {MOST_AXES} axes")
    return tuple(_last(_parse(side, {1: VARINT})[0], 0) for side in sides)


def _last(values: list, default):
    """Value of a field that is not repeated: of several, the last counts."""
    return values[-1] if values else default


def _parse(message: bytes, kinds: Mapping[int, int]) -> list[list]:
    """Values of some fields of a protocol buffer, each as a list; other fields are ignored.

    Args:
        kinds: VARINT, BYTES or FIXED32 by number of the field.

    Raises:
        Damaged: a field is cut off or of another kind.
    """
    found: dict[int, list] = {number: [] for number in kinds}
    for number, kind, value in fields(message):
        if number in kinds:
            if kind != kinds[number]:
                raise Damaged("an entry is damaged")
            found[number].append(int.from_bytes(value, "little") if kind == FIXED32 else value)
    return list(found.values())


def fields(message: bytes | memoryview) -> Iterator[tuple[int, int, int | bytes | memoryview]]:
    """Yield the fields of a protocol buffer: number, kind, and a whole number or bytes.

    Raises:
        Damaged: a field is cut off or of an unknown kind.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        if tag >> 32:  # other readers may drop the upper bits, and see another field
            raise Damaged("an entry is damaged")
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = varint(message, at)
        else:
            size, at = varint(message, at) if kind == BYTES else (FIXED.get(kind, -1), at)
            value, at = message[at : at + size], at + size
            if size < 0 or at > len(message):
                raise Damaged("an entry is damaged")
        yield number, kind, value


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _read_tensor(file, name: str, entry: Entry, raw: np.ndarray, verify: bool) -> np.ndarray:
    """Array of a tensor whose bytes are read into ``raw``."""
    file.seek(entry.offset)
    if file.readinto(raw) != entry.size:
        raise Damaged("it is cut off")
    if verify and masked_crc32c(raw) != entry.crc:
        raise Damaged(f"the checksum of {_shown(name)} differs")
    if entry.number == BFLOAT16:
        halves = np.zeros((entry.size // 2, 2), "<u2")
        halves[:, 1] = raw.view("<u2")
        raw = halves
    if entry.dtype == bool:
        np.minimum(raw, 1, out=raw)  # another byte is no bool
    return raw.view(entry.dtype).reshape(entry.shape)


# === Writing ===


def _writable(name: str, value: np.ndarray) -> np.ndarray:
    """Contiguous, little-endian array.

    Raises:
        ValueError: the name or the type cannot be stored.
    """
    array = np.asarray(value, order="C")
    dtype = array.dtype.newbyteorder("<")
    if dtype not in NUMBERS:
        raise ValueError(f"{name}: arrays of type {array.dtype} cannot be stored")
    if not 0 < len(name.encode()) <= LONGEST_KEY or name.startswith("\0"):
        raise ValueError(f"a tensor cannot have the name {name[:100]!r}")
    return array.astype(dtype, copy=False)


def _encode_entry(array: np.ndarray, offset: int, crc: int) -> bytes:
    shape = b"".join(encode_field(2, encode_field(1, side), always=True) for side in array.shape)
    message = encode_field(1, NUMBERS[array.dtype]) + encode_field(2, shape, always=True)
    message += encode_field(4, offset) + encode_field(5, array.nbytes)
    return message + (bytes([6 << 3 | FIXED32]) + struct.pack("<I", crc) if crc else b"")


def encode_field(number: int, value: int | bytes, always: bool = False) -> bytes:
    """A field of a protocol buffer; zero and empty values are left out unless ``always``."""
    if not value and not always:
        return b""
    if isinstance(value, bytes):
        return encode_varint(number << 3 | 2) + encode_varint(len(value)) + value
    return encode_varint(number << 3) + encode_varint(value)
