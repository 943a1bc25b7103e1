"""Read PyTorch checkpoints into NumPy arrays and plain values, without PyTorch.

Two containers are read, both described in the notes on `torch.serialization`: the zip archive
(`<root>/data.pkl`, a file `<root>/data/<key>` per storage, `<root>/byteorder`), and the stream
written before 1.6 (five pickles, then per storage its length as an int64 and its bytes).

A pickle is a program, so nothing that it names is imported or called. As in "Restricting Globals"
of Python's documentation, `find_class` is overridden: it returns an inert class that carries the
global's name. A call of that class stores the arguments or is refused; `_Converter` computes the
few known values from the stored arguments. `_check_opcodes` bounds what the unpickler does
without `find_class`: extension codes, the cost of hashing, memory.
"""

from __future__ import annotations

import functools
import io
import lzma
import math
import os
import pickle
import pickletools
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from spleeter_2.errors import SeparationError
from spleeter_2.files import sha256_of

_MAX_OPCODES = 1_000_000  # one tensor takes about 25
_MAX_WORK = 10_000_000  # weights that all opcodes of a pickle add
_MAX_VALUES = 1_000_000  # in the converted tree, where shared parts are written out
_MAX_COLLIDING = 1000  # keys other than text and numbers of 64 bits: they can share one hash
_MAX_DEPTH = 100
_MAX_GLOBALS = 10_000
_MAX_NAME_LENGTH = 1000
_MAX_INTEGER_BITS = 512  # a float holds 1023
_MAX_DIMENSIONS = 32  # NumPy's limit
_INFLATION = (2**24, 20)  # an archive holds at most this many bytes, or this many times the file
_EXPANSION = (2**30, 8)  # the same for all arrays together: they may share or repeat a storage

_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Keys of a state dict, most specific first; those of averaged weights (EMA, SWA) come last.
_STATE_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "state", "net", "network"),
    *("module", "weights", "params"),
)
AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged?|avg|shadow)(?:[._]|$)", re.IGNORECASE)
_MAX_NESTING = 4  # of state dicts in dicts
_DTYPES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8"},
    **{"Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128"},
}
_STORAGE = re.compile(rf"torch(?:\.cuda)?\.({'|'.join(_DTYPES)})Storage")
_STORED = {"bfloat16": "uint16", "bool": "uint8"}  # NumPy lacks the first; bytes can be > 1

# Globals that are rebuilt from the arguments of their call.
_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETERS = {f"torch._utils._rebuild_parameter{suffix}" for suffix in ("", "_with_state")}
_DICTS = {"collections.OrderedDict": 0, "collections.Counter": 0, "collections.defaultdict": 1}
_NAMESPACES = {"argparse.Namespace", "types.SimpleNamespace"}
_SCALARS = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
_NUMPY_CODE = re.compile(r"[<>|=]?[biufcSU]\d{1,4}")
_REBUILT = {*_TENSORS, *_PARAMETERS, *_DICTS, *_SCALARS, "numpy.dtype", "_codecs.encode"}
# Calls of Python, NumPy and PyTorch that become placeholders. Classes in a class are pickled as
# `getattr`, type hints as `getitem`, the class of None as `type(None)`.
_KEPT = {
    *(f"builtins.{name}" for name in ("bytes", "bytearray", "complex", "frozenset", "set")),
    *(f"builtins.{name}" for name in ("getattr", "range", "slice", "type", "xrange")),
    *(f"datetime.{name}" for name in ("date", "datetime", "timedelta", "timezone")),
    *("collections.deque", "decimal.Decimal", "fractions.Fraction", "functools.partial"),
    *("pathlib.PosixPath", "pathlib.PurePosixPath", "types.SimpleNamespace", "_operator.getitem"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
    *("torch.Size", "torch.device", "torch.serialization._get_layout"),
}


class CheckpointError(SeparationError):
    """A file that cannot be read as a PyTorch checkpoint.

    The message is one sentence: the file, the reason and the remedy.
    """


@dataclass(frozen=True)
class Placeholder:
    """Stands for a class, function or object of the checkpoint that is not rebuilt.

    Attributes:
        name: full name in the file, such as `torch.nn.modules.loss.L1Loss`.
        content: None for a class or function; for an object, its attributes or arguments as
            plain values. Not compared, so that `Placeholder(name)` finds entries keyed by a class.
    """

    name: str
    content: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint file.

    Attributes:
        arrays: tensors of the state dict by full name, in the file's order, with PyTorch's shapes
            and dtypes (bfloat16 becomes float32). Tied weights share memory.
        metadata: everything else as a tree of plain values: dict, list, tuple, set, str, bytes,
            numbers, None, arrays for tensors outside the state dict, and `Placeholder`.
        sha256: hexadecimal digest of the file.
        place: keys that lead to the state dict, joined by dots.
        siblings: tensors of further state dicts by place; they are in the metadata as well.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[Any, Any]
    sha256: str
    place: str = ""
    siblings: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint written by `torch.save`, in either container.

    Args:
        path: the checkpoint. Its state dict is the whole object or lies under a usual key, such
            as `state_dict`, `model_state_dict`, `model` or `ema_state_dict`.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, holds no weights, calls
            a function, or exceeds the bounds of a sensible checkpoint.
    """
    try:
        if not os.path.exists(path):
            raise CheckpointError("does not exist or cannot be reached: check the path")
        if not os.path.isfile(path):  # opening a pipe would block
            kind = "a directory" if os.path.isdir(path) else "not a regular file"
            raise CheckpointError(f"is {kind}: give the path of the checkpoint file")
        with open(path, "rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except (CheckpointError, OSError, MemoryError) as error:
        reason = str(error)
        if isinstance(error, OSError):
            reason = f"cannot be read ({error.strerror or error}): check the path and the disk"
        elif isinstance(error, MemoryError):
            reason = "needs more memory than is free: close other programs"
        shown = str(path) if str(path).isprintable() else ascii(str(path))
        raise CheckpointError(f"{shown} {reason}.") from error


def _read(file: BinaryIO, size: int) -> Checkpoint:
    head = file.read(512)
    _check_format(head, size)
    file.seek(0)
    tree = _Converter(*(_read_zip if head.startswith(b"PK") else _read_legacy)(file, size)).tree
    path, *others = _find_states(tree) or [None]
    if path is None and isinstance(tree, Placeholder):
        raise CheckpointError(
            f"holds a whole pickled object ({_shown(tree.name)}) instead of weights by name: "
            "load it where its code is installed and save its state_dict()"
        )
    if path is None:
        raise CheckpointError("holds no network weights: give a checkpoint with a state dict")
    siblings = {".".join(other): _weights_of(_reached(tree, other)[-1]) for other in others}
    nested = _reached(tree, path)
    arrays = _weights_of(nested[-1])
    for name in arrays:
        del nested[-1][name]
    for level in reversed(range(len(path))):
        if not nested[level + 1]:
            del nested[level][path[level]]
    file.seek(0)
    return Checkpoint(arrays, tree, sha256_of(file), ".".join(path), siblings)


def _find_states(tree: Any, depth: int = 0) -> list[tuple[str, ...]]:
    """Return the keys that lead to every state dict, the most specific first."""
    tree = tree if isinstance(tree, dict) else {}
    averaged = [key for key in tree if isinstance(key, str) and AVERAGED.search(key)]
    keys = [key for key in (*_STATE_KEYS, *averaged) if key in tree and depth < _MAX_NESTING]
    paths = [(key, *path) for key in keys for path in _find_states(tree[key], depth + 1)]
    return [*paths, ()] if any(array.ndim for array in _weights_of(tree).values()) else paths


def _reached(tree: Any, path: tuple[str, ...]) -> list[Any]:
    """Return the values on the way along the keys of a path, the tree first."""
    nested = [tree]
    for key in path:
        nested.append(nested[-1][key])
    return nested


def _weights_of(state: dict[Any, Any]) -> dict[str, np.ndarray]:
    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, np.ndarray)
    }


# === Errors: the sentence behind the file's name ===


def _damaged(detail: str) -> CheckpointError:
    return CheckpointError(f"is damaged or truncated ({detail}): download or copy it again")


def _unsupported(kind: str) -> CheckpointError:
    return CheckpointError(
        f"holds {kind}, which this reader does not support: "
        "save the network's state_dict() as ordinary float tensors with PyTorch"
    )


def _absurd(fault: str) -> CheckpointError:
    return CheckpointError(
        f"is refused, since {fault}, which no checkpoint of a network needs: "
        "get a copy from a source you trust"
    )


def _forbidden_call(name: str) -> CheckpointError:
    return CheckpointError(
        f"is refused, since its pickle would call {_shown(name)}; nothing was run: "
        "do not load it elsewhere unless you trust its source"
    )


def _shown(text: str) -> str:
    """Make text from a file fit for one line of a message."""
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= 120 else shown[:117] + "..."


# === Containers: each returns the pickled object, a reader of storages and their byte order ===

_Contents = tuple[Any, Callable[[str], bytearray], str, int]


def _check_format(head: bytes, size: int) -> None:
    """Raise for other kinds of files, recognised by their first bytes."""
    if not head:
        raise CheckpointError("is empty: download or copy it again")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise CheckpointError(
            "is a Git LFS pointer, not the checkpoint it stands for: "
            "run `git lfs pull` in its repository to get the real file"
        )
    kind = advice = ""
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        kind, advice = "an HDF5 file (Keras weights?), ", "give the .ckpt"
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        kind, advice = "a safetensors file, ", "load it with safetensors, save it with torch.save"
    elif head.lstrip()[:1] == b"<":
        kind, advice = "a web page or XML, ", "check the download link"
    elif not head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x80")):
        advice = "give a file written by torch.save"
    if advice:
        raise CheckpointError(f"is {kind}not a PyTorch checkpoint: {advice}")


def _read_bytes(stream: BinaryIO, size: int) -> bytearray:
    """Read in pieces, since a single `read` holds everything twice."""
    content = bytearray(size)
    rest = memoryview(content)
    while rest and (count := stream.readinto(rest[: 2**20])):
        rest = rest[count:]
    if rest:
        raise _damaged("it ends too early")
    return content


def _read_legacy(file: BinaryIO, size: int) -> _Contents:
    storages: dict[str, _Storage] = {}
    if _unpickle(file) != _LEGACY_MAGIC:
        raise CheckpointError(
            "is a Python pickle but not a PyTorch checkpoint: give a file written by torch.save"
        )
    if _unpickle(file) != _LEGACY_PROTOCOL:
        raise _unsupported("an unknown version of the stream format")
    _unpickle(file)  # system information
    root = _unpickle(file, storages)
    keys = _unpickle(file)
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise _damaged("its list of storages is missing")
    places: dict[str, tuple[int, int]] = {}
    position = file.tell()
    for key in keys:
        if key not in storages:
            raise _damaged(f"nothing uses storage {_shown(key)}")
        file.seek(position)
        numel = storages[key].numel
        # Some versions wrote the length in the machine's byte order; the data are little-endian.
        if file.read(8) not in (struct.pack("<q", numel), struct.pack(">q", numel)):
            raise _damaged(f"the length of storage {_shown(key)} is missing or wrong")
        places[key] = (position + 8, numel * storages[key].stored.itemsize)
        position = sum(places[key])
        if position > size:
            raise _damaged(f"it ends inside storage {_shown(key)}")

    def read(key: str) -> bytearray:
        if key not in places:
            raise _damaged(f"storage {_shown(key)} is missing")
        file.seek(places[key][0])
        return _read_bytes(file, places[key][1])

    return root, read, "<", size


# `zipfile` raises these for a damaged archive, and RuntimeError for an encrypted entry.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OverflowError, RuntimeError, ValueError),
)


def _read_zip(file: BinaryIO, size: int) -> _Contents:
    try:
        archive = zipfile.ZipFile(file)
    except _ZIP_ERRORS as error:
        raise _damaged("the directory at the end of the zip archive is missing") from error
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    if sum(sizes.values()) > max(_INFLATION[0], _INFLATION[1] * size):
        raise _absurd("it is a zip archive that inflates to many times its size")
    found = [name for name in sizes if re.fullmatch(r"([^/]*/)?data\.pkl", name)]
    if len(found) != 1:
        raise CheckpointError(
            "is a zip archive but not a PyTorch checkpoint, as it has no data.pkl: "
            "give a file written by torch.save"
        )
    root = found[0].removesuffix("data.pkl")

    def read(name: str) -> bytearray:
        if root + name not in sizes:
            raise _damaged(f"its entry {_shown(name)} is missing")
        try:
            with archive.open(root + name) as stream:
                return _read_bytes(stream, sizes[root + name])
        except _ZIP_ERRORS as error:
            raise _damaged(f"its entry {_shown(name)} cannot be unpacked") from error

    order = read("byteorder") if f"{root}byteorder" in sizes else b"little"
    if order not in (b"little", b"big"):
        raise _damaged("its byte order is neither little nor big")
    pickled = _unpickle(io.BytesIO(read("data.pkl")))
    return pickled, lambda key: read(f"data/{key}"), "<" if order == b"little" else ">", size


# === The pickle ===


@dataclass(frozen=True, eq=False)
class _Storage:
    """A flat run of numbers in the file: key, dtype, number of elements."""

    key: str
    dtype: str
    numel: int

    @property
    def stored(self) -> np.dtype:
        return np.dtype(_STORED.get(self.dtype, self.dtype))


class _Global(type):
    """Metaclass of the inert classes, one for each global that a pickle names."""

    name = ""

    def __call__(cls, *args: Any) -> _Object:
        """REDUCE, INST and OBJ: store the arguments of a known call, refuse any other."""
        match cls.name, args:
            case "torch._tensor._rebuild_from_type_v2", (_Global() as function, _, tuple(inner), _):
                return function(*inner)
            case "copyreg.__newobj__", (_Global() as inner, *rest):
                return inner.__new__(inner, *rest)
            case "copyreg._reconstructor", (_Global() as inner, _Global(), content):
                made = inner.__new__(inner)
                if isinstance(content, dict):
                    made.items = content
                elif content is not None:
                    made.args = (content,)
                return made
        if cls.name in _REBUILT or cls.name in _KEPT or _is_enum_member(cls.name, args):
            return cls.hold(args)
        if cls.name.startswith("torch._utils._rebuild_"):
            kind = cls.name.removeprefix("torch._utils._rebuild_")
            raise _unsupported(f"a tensor of a special kind ({_shown(kind)})")
        raise _forbidden_call(cls.name)


class _Object(metaclass=_Global):
    """An inert object: the name of its class and everything that the pickle puts into it.

    The unpickler reaches an object by these methods alone. None copies its arguments, which a
    pickle can pass any number of times.
    """

    __slots__ = ("args", "items", "elements", "state")

    def __new__(cls, /, *args: Any, **keywords: Any) -> _Object:
        """NEWOBJ and NEWOBJ_EX: store the arguments, refuse classes of the standard library."""
        if _is_pythons(cls.name) and cls.name not in {*_NAMESPACES, "uuid.UUID"}:
            raise _forbidden_call(cls.name)
        return cls.hold((*args, keywords) if keywords else args)

    @classmethod
    def hold(cls, args: tuple[Any, ...]) -> _Object:
        made = object.__new__(cls)
        made.args, made.items, made.elements, made.state = args, {}, [], None
        return made

    def __call__(self, *_: Any) -> None:
        raise _forbidden_call(f"an object ({type(self).name})")

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def extend(self, values: list[Any]) -> None:
        """APPEND and APPENDS."""
        self.elements.extend(values)

    def __setstate__(self, state: Any) -> None:
        """BUILD: store the state, refuse the attribute that Python's next BUILD would call."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict) and "__setstate__" in part:
                hook = part["__setstate__"]
                raise _forbidden_call(hook.name if isinstance(hook, _Global) else "__setstate__")
        self.state = state


def _is_pythons(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def _is_enum_member(name: str, args: tuple[Any, ...]) -> bool:
    """Return True for a call that looks like an enum member: a class, called with its value.

    Only an import could confirm it, so every capitalised name outside the standard library passes.
    """
    plain = len(args) == 1 and isinstance(args[0], str | int | float | None)
    return plain and re.search(r"\._*[A-Z]\w*$", name) is not None and not _is_pythons(name)


class _Unpickler(pickle.Unpickler):
    """Unpickler whose globals are inert; `storages` collects the storages that are named."""

    def __init__(self, content: bytes, storages: dict[str, _Storage]) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._storages = storages
        self._globals: dict[str, _Global] = {}

    def find_class(self, module: str, name: str) -> _Global:
        """Return an inert class for a global, which is not looked up."""
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        full = f"{module}.{name}"
        if full not in self._globals:
            if len(full) > _MAX_NAME_LENGTH or len(self._globals) >= _MAX_GLOBALS:
                raise _absurd("its pickle names too many globals, or one of absurd length")
            self._globals[full] = _Global("_Named", (_Object,), {"name": full, "__slots__": ()})
        return self._globals[full]

    def persistent_load(self, pid: Any) -> _Storage | _Global:
        """Describe the storage that a persistent id stands for."""
        match pid:
            case ("module", _Global() as module, _, _):
                return module  # legacy files add a class's source code
            case ("storage", _Global() as kind, str(key), str(), numel, *view) if not any(view):
                if not (matched := _STORAGE.fullmatch(kind.name)):
                    raise _unsupported(f"storages of type {_shown(kind.name)}")
                storage = _Storage(key, _DTYPES[matched[1]], _number(numel))
                return self._storages.setdefault(key, storage)
        raise _damaged("its pickle refers to a storage in an unknown way")


def _unpickle(stream: BinaryIO, storages: dict[str, _Storage] | None = None) -> Any:
    """Run one pickle; the stream's position is behind it afterwards."""
    start = stream.tell()
    try:
        _check_opcodes(stream)
        length = stream.tell() - start
        stream.seek(start)
        return _Unpickler(stream.read(length), {} if storages is None else storages).load()
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # by its documentation, unpickling raises any exception
        raise _damaged(f"its pickle cannot be decoded: {_shown(str(error))}") from error


def _check_opcodes(stream: BinaryIO) -> None:
    """Refuse a pickle that would exhaust time, memory or the C stack.

    The opcodes' stack effects, as `pickletools` documents them, are replayed on weights: the
    number of values in a value, shared ones counted each time. That is the cost of hashing a
    tuple, and bounds its depth. A list that grows inside a tuple weighs too little, but cannot be
    hashed; `_Converter` bounds the depth and the size of what is not hashed.
    """
    stack: list[int | None] = []  # None is a mark
    memo: dict[int, int | None] = {}
    work = 0
    for number, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in ("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"):
            # Extension codes stand for objects that the running program registered.
            raise _absurd(f"its pickle uses the opcode {opcode.name}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if arg is None else arg
            if index > _MAX_OPCODES:  # the unpickler's memo is an array
                raise _absurd("its pickle uses an absurd memo index")
            memo[index] = stack[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif opcode.name == "POP":
            stack.pop()
        else:
            work += _replay(opcode, arg, stack)
        if number >= _MAX_OPCODES or work > _MAX_WORK:
            raise _absurd("its pickle takes millions of steps")


def _replay(opcode: pickletools.OpcodeInfo, arg: Any, stack: list[int | None]) -> int:
    """Replace an opcode's operands on the stack by its result; return the weight added."""
    added = 1
    if isinstance(arg, int) and arg.bit_length() > 64:
        if arg.bit_length() > _MAX_INTEGER_BITS:
            raise _absurd("it holds an integer of absurd size")
        added = 2
    operands: list[int | None] = []
    for kind in reversed(opcode.stack_before):
        if kind is pickletools.markobject:
            while (operand := stack.pop()) is not None:
                operands.append(operand)
        elif kind is not pickletools.stackslice:  # taken together with its mark
            operands.append(stack.pop())
    grows = opcode.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
    target = operands.pop() if grows else 0
    if opcode.name in _HASHING:
        keys = operands[_HASHING[opcode.name]]
        added += sum(weight > 1 for weight in keys) * _MAX_WORK // _MAX_COLLIDING
    added += sum(operands)
    for kind in opcode.stack_after:
        stack.append(None if kind is pickletools.markobject else target + added)
    return added


# Where an opcode's keys are among its operands, the last one first.
_HASHING = {
    **dict.fromkeys(("SETITEM", "SETITEMS", "DICT"), slice(1, None, 2)),
    **dict.fromkeys(("ADDITEMS", "FROZENSET"), slice(None)),
}


# === From the pickle's objects to arrays and plain values ===


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise _damaged("a tensor's size, stride or offset is no sensible number")
    return value


class _Converter:
    """Converts a pickled object to a tree in which nothing is shared and whose size is bounded."""

    def __init__(
        self, root: Any, read: Callable[[str], bytearray], byteorder: str, size: int
    ) -> None:
        self._read = functools.cache(read)  # tied weights share a storage
        self._byteorder = byteorder
        self._values_left = _MAX_VALUES
        self._bytes_left = max(_EXPANSION[0], _EXPANSION[1] * size)
        self._open: set[int] = set()  # ids of the containers around the current value
        self.tree = self._plain(root)

    def _plain(self, value: Any) -> Any:
        self._values_left -= 1
        if self._values_left < 0 or len(self._open) > _MAX_DEPTH:
            raise _absurd("its values are nested too deep or repeated too often")
        if isinstance(value, _Global):
            return Placeholder(value.name)
        if isinstance(value, _Storage):
            return Placeholder("torch.Storage")
        if not isinstance(value, dict | list | tuple | set | frozenset | _Object):
            return value
        if id(value) in self._open:
            return Placeholder("<cycle>")
        self._open.add(id(value))
        if isinstance(value, _Object):
            made = self._object(value)
        elif isinstance(value, dict):
            made = self._dict(value.items())
        elif isinstance(value, list | tuple):
            made = type(value)([self._plain(item) for item in value])
        else:
            made = {self._key(item) for item in value}
        self._open.discard(id(value))
        return made

    def _dict(self, pairs: Iterable[Any]) -> dict[Any, Any]:
        return {self._key(key): self._plain(value) for key, value in pairs}

    def _key(self, value: Any) -> Any:
        key = self._plain(value)
        if isinstance(key, np.ndarray):
            return Placeholder("torch.Tensor")
        if isinstance(key, tuple):
            key = tuple(map(self._key, key))
        elif not isinstance(key, str | bytes | int | float | None | Placeholder):
            raise _damaged(f"a {type(key).__name__} used as a key")
        if isinstance(key, tuple) or (isinstance(key, int) and key.bit_length() > 64):
            self._values_left -= _MAX_VALUES // _MAX_COLLIDING
        return key

    def _object(self, value: _Object) -> Any:
        """Rebuild a known value, or make a placeholder of the object's content."""
        name, args = type(value).name, value.args
        if name in _TENSORS:
            return self._tensor(*args)
        if name.startswith("omegaconf.") and isinstance(value.state, dict):
            for key in ("_content", "_val"):  # of its containers and of its leaves
                if key in value.state:
                    return self._plain(value.state[key])
        try:
            if name in _DICTS:
                contents = [*args[_DICTS[name] :], value.items]
                pairs = (each.items() if isinstance(each, dict) else each for each in contents)
                return self._dict(pair for part in pairs for pair in part)
            args, state = self._plain(args), self._plain(value.state)
            if name in _PARAMETERS and isinstance(args[0], np.ndarray):
                return args[0]
            if name == "_codecs.encode" and args[1] in ("latin1", "latin-1"):
                self._values_left -= len(args[0]) // 64  # one text can be encoded many times
                return args[0].encode("latin-1")  # bytes in protocol 2
            if name == "numpy.dtype" and _NUMPY_CODE.fullmatch(args[0]):
                order = state[1] if state else "="
                return order + args[0] if order in ("<", ">", "|", "=") else Placeholder(name)
            if name in _SCALARS and _NUMPY_CODE.fullmatch(args[0]):
                (number,) = np.frombuffer(args[1], args[0])
                return number.item()
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise _damaged(f"unexpected arguments of {name}") from error
        items, elements = self._plain(value.items), self._plain(value.elements)
        if name in _NAMESPACES:
            return state or {}
        if items or name.endswith(".AttributeDict"):
            return items
        return Placeholder(name, elements or (list(args) or None if state is None else state))

    def _tensor(self, *args: Any) -> np.ndarray:
        """Build a tensor from the arguments of PyTorch's `_rebuild_tensor` or its `_v2`."""
        match args:
            case (_Storage() as storage, offset, tuple(shape), tuple(strides), *rest):
                if len(shape) > _MAX_DIMENSIONS or len(rest) > 2:
                    raise _unsupported("a conjugated, negated or many-dimensional tensor")
            case _:
                raise _damaged("unexpected arguments of _rebuild_tensor")
        if len(shape) != len(strides):
            raise _damaged("a tensor with more or fewer strides than sizes")
        for number in (offset, *shape, *strides):
            _number(number)
        stored = storage.stored
        # Empty dimensions count as well: 2**40 empty lists are no small list.
        self._bytes_left -= math.prod(max(size, 1) for size in shape) * stored.itemsize
        if self._bytes_left < 0:
            raise _absurd("it holds tensors far larger than itself")
        # The stride of a dimension of size 1 is unused and arbitrary.
        strides = [0 if n == 1 else stride for n, stride in zip(shape, strides, strict=True)]
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        raw = self._read(storage.key)
        if storage.numel * stored.itemsize > len(raw):
            raise _damaged(f"storage {_shown(storage.key)} is shorter than announced")
        if last >= storage.numel and 0 not in shape:
            raise _damaged("a tensor reaches outside its storage")
        if 0 in shape:
            array = np.zeros(shape, stored)
        else:
            steps = [stride * stored.itemsize for stride in strides]
            ordered = stored.newbyteorder(self._byteorder)
            array = np.ndarray(shape, ordered, raw, offset * stored.itemsize, steps)
            array = array.astype(stored, copy=False)  # the machine's byte order
        if storage.dtype == "bfloat16":  # the upper half of a float32
            array = np.asarray(np.left_shift(array, 16, dtype=np.uint32)).view(np.float32)
        return np.asarray(array != 0) if storage.dtype == "bool" else array
