"""Reads PyTorch checkpoints into NumPy arrays and plain values, without PyTorch.

Two containers are known, both documented by PyTorch's own `torch.serialization` notes:

- zip (`torch.save` since 1.6): `<root>/data.pkl` holds the pickled object,
  `<root>/data/<key>` the raw bytes of each storage, `<root>/byteorder` their byte order;
- legacy stream (before 1.6): five pickles (magic number, protocol, system information, the
  object, the storage keys), then per storage its length as an int64 and its raw bytes.

A checkpoint comes from strangers and a pickle is a program, so Python's unpickler is not used
at all. The opcodes are decoded with `pickletools` and run by a small stack machine that has no
means to import, look up or call anything the file names: a global is only ever a name. The few
names that rebuild tensors and plain values are mapped to functions of this module; an object of
any other class, an enum's member too, becomes inert data, and any other call is refused.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap
import os
import pathlib
import pickletools
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from spleeter_2.errors import SeparationError

# More opcodes, or more values once shared parts are written out, than this is no checkpoint
# of a network (one tensor takes about 25 opcodes), but a file made to exhaust the reader.
_MAX_OBJECTS = 1_000_000
_MAX_DEPTH = 100
_MAX_INTEGER_BITS = 512  # below what a float can hold, so that none overflows
_MAX_NAME_LENGTH = 1000
_MAX_MEMO_INDEX = 2**32

# Weights hardly compress (and torch.save does not try), so entries that inflate to many times
# the file are a zip bomb. The floor leaves room for small files full of zeros.
_MAX_INFLATION = 20
_MIN_INFLATION_BYTES = 2**24

# Views may share a storage (tied weights) or repeat it (`expand`): what all arrays would take
# if copied may exceed the file's size, but only so far.
_MAX_VIEW_FACTOR = 8
_MIN_VIEW_BYTES = 2**30

_MAX_DIMENSIONS = 32  # NumPy's limit

_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # the second begins an archive of nothing
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

# Keys under which training scripts nest the state dict, the most specific first.
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "state")

_CLASS = re.compile(r"\._*[A-Z]\w*$")
_STORAGE_NAME = re.compile(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage")
_STORAGE_DTYPES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "Untyped": "uint8",
    "_Untyped": "uint8",
}
# PyTorch's names and NumPy's agree, except for bfloat16, which NumPy lacks.
_DTYPES = frozenset(_STORAGE_DTYPES.values()) | {"uint16", "uint32", "uint64"}


class CheckpointError(SeparationError):
    """A file that cannot be read as a PyTorch checkpoint.

    The message is one sentence that names the file, the reason and what to do about it.
    """


@dataclass(frozen=True)
class Placeholder:
    """Stands for a class, function or object of the checkpoint that is not rebuilt.

    Attributes:
        name: full name in the file, such as `torch.nn.modules.loss.L1Loss`.
        content: None for the bare name (a class, a function); for an object, its attributes
            or arguments as plain values. It does not take part in comparison, so that entries
            keyed by a class are found with `Placeholder(name)`.
    """

    name: str
    content: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        arrays: the state dict's tensors by full name, in the file's order and with the shapes
            and dtypes PyTorch gave them (bfloat16 becomes float32). Most are read-only views
            of the memory-mapped file, possibly unaligned: do not change the file meanwhile.
        metadata: everything else as a tree of plain values: dict, list, tuple, set, str, bytes,
            numbers, None, arrays for tensors outside the state dict, and `Placeholder`.
        sha256: hexadecimal digest of the file.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[Any, Any]
    sha256: str


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint written by `torch.save`, in the zip or the legacy format.

    Nothing is imported, called or executed on the file's behalf.

    Args:
        path: the checkpoint. Its state dict may be the whole object or lie under
            `state_dict`, `model_state_dict`, `model` or `state`.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, holds no weights, wants
            to call something, or exceeds the bounds of a sensible checkpoint.
    """
    # The parsing code raises `_Refusal` where it meets the problem. Beside that, only the
    # system's own failures can occur here: the file cannot be read, memory runs out.
    try:
        _check_regular_file(path)
        with open(path, "rb") as file:
            return _read(file)
    except _Refusal as refusal:
        raise CheckpointError(f"{_shown_path(path)} {refusal}.") from refusal
    except OSError as error:
        reason = error.strerror or type(error).__name__
        message = f"{_shown_path(path)} cannot be read ({reason}): check the path and the disk."
        raise CheckpointError(message) from error
    except MemoryError as error:
        message = f"{_shown_path(path)} needs more memory than is free: close other programs."
        raise CheckpointError(message) from error


class _Refusal(Exception):
    """Why a file is refused: the rest of a sentence that begins with the file's name."""


def _damaged(detail: str) -> _Refusal:
    return _Refusal(f"is damaged or truncated ({detail}): download or copy it again")


def _unsupported(what: str) -> _Refusal:
    return _Refusal(
        f"holds {what}, which this reader does not support: "
        "save the network's state_dict() as ordinary float tensors with PyTorch"
    )


def _absurd(what: str) -> _Refusal:
    return _Refusal(
        f"is refused, since {what}, which no checkpoint of a network needs: "
        "get a copy from a source you trust"
    )


def _forbidden_call(name: str) -> _Refusal:
    return _Refusal(
        f"is refused, since its pickle wants to call {_shown(name)}; nothing was run: "
        "do not load it elsewhere unless you trust its source"
    )


def _shown(text: str) -> str:
    """Text from a file, made fit for one line of a message."""
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= 120 else shown[:117] + "..."


def _shown_path(path: str | os.PathLike[str]) -> str:
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _check_regular_file(path: str | os.PathLike[str]) -> None:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _Refusal("does not exist: check the path") from error
    except ValueError as error:  # a null byte or a lone surrogate
        raise _Refusal("is not a possible file name: check the path") from error
    if stat.S_ISDIR(mode):
        raise _Refusal("is a directory: give the path of the checkpoint file")
    if not stat.S_ISREG(mode):
        raise _Refusal("is not a regular file: give the path of the checkpoint file")


def _read(file: io.BufferedReader) -> Checkpoint:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise _Refusal("is empty: download or copy it again")
    # One mapping serves everything: pages are read when touched and can be dropped again,
    # so that a storage that nobody looks at costs nothing.
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    head = mapped[:512]
    _check_format(head, size)
    if head.startswith(_ZIP_MAGICS):
        with _open_zip(file) as archive:
            arrays, metadata = _contents(_ZipSource(archive, mapped))
    else:
        arrays, metadata = _contents(_LegacySource(mapped))
    file.seek(0)
    return Checkpoint(arrays, metadata, hashlib.file_digest(file, "sha256").hexdigest())


def _check_format(head: bytes, size: int) -> None:
    """Tells what else a file may be, from its first bytes."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise _Refusal(
            "is a Git LFS pointer, not the checkpoint it stands for: "
            "run `git lfs pull` in its repository to get the real file"
        )
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        raise _Refusal("is an HDF5 file (Keras weights?), not a PyTorch checkpoint: give the .ckpt")
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        raise _Refusal(
            "is a safetensors file, not a PyTorch checkpoint: "
            "load it with the safetensors package and save it with torch.save"
        )
    if head.lstrip()[:1] == b"<":
        raise _Refusal("is a web page or XML, not a PyTorch checkpoint: check the download link")
    if not head.startswith((*_ZIP_MAGICS, b"\x80")):
        raise _Refusal("is not a PyTorch checkpoint: give a file written by torch.save")


# ---------------------------------------------------------------------------------------
# The pickle: values
# ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Storage:
    """A flat run of numbers in the file; `start` and `numel` count elements of `dtype`."""

    key: str
    dtype: str
    numel: int
    start: int = 0


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A strided view of a storage; offset and strides count elements of `dtype`."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False


@dataclass(eq=False)
class _Instance:
    """An object of a class that is not rebuilt, with all that the pickle says of it."""

    name: str
    args: tuple[Any, ...] = ()
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)
    state: Any = None


@dataclass(eq=False)
class _NumpyDtype:
    code: str
    order: Literal["<", ">", "|", "="] = "="

    def build(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


@dataclass(eq=False)
class _NumpyArray:
    array: np.ndarray | None = None


def _numbers(values: Any) -> tuple[int, ...]:
    """Sizes or strides of a tensor: a tuple of int64 that are not negative."""
    if not isinstance(values, tuple | list):
        raise _damaged("a tensor's sizes are no tuple")
    if len(values) > _MAX_DIMENSIONS:
        raise _unsupported(f"a tensor of more than {_MAX_DIMENSIONS} dimensions")
    return tuple(_number(value) for value in values)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise _damaged("a tensor's size, stride or offset is no sensible number")
    return value


def _bad_arguments(name: str) -> _Refusal:
    return _damaged(f"unexpected arguments of {name}")


# Each function below takes the place of the global it is registered for in `_CALLS`, and gets
# the arguments that the file has for it. They build values; none calls what it is given.


def _rebuild_tensor(args: tuple[Any, ...]) -> _Tensor:
    """`_rebuild_tensor` (4 arguments) and `_rebuild_tensor_v2` (up to 7)."""
    match args:
        case (_Storage() as storage, offset, shape, strides, *rest) if len(rest) <= 3:
            metadata = rest[2] if len(rest) == 3 else None
            return _view(storage, storage.dtype, offset, shape, strides, metadata)
    raise _bad_arguments("_rebuild_tensor")


def _rebuild_tensor_v3(args: tuple[Any, ...]) -> _Tensor:
    """For dtypes without a storage class of their own: names the dtype, storage untyped."""
    match args:
        case (_Storage() as storage, offset, shape, strides, _, _, Placeholder(name), *rest):
            dtype = name.removeprefix("torch.")
            if dtype not in _DTYPES:
                raise _unsupported(f"tensors of type {_shown(name)}")
            return _view(storage, dtype, offset, shape, strides, rest[0] if rest else None)
    raise _bad_arguments("_rebuild_tensor_v3")


def _view(
    storage: _Storage, dtype: str, offset: Any, shape: Any, strides: Any, metadata: Any
) -> _Tensor:
    flags = metadata if isinstance(metadata, dict) else {}
    return _Tensor(
        storage,
        dtype,
        _number(offset),
        _numbers(shape),
        _numbers(strides),
        conjugated=flags.get("conj") is True,
        negated=flags.get("neg") is True,
    )


def _rebuild_parameter(args: tuple[Any, ...]) -> Any:
    match args:
        case (_Tensor() | _NumpyArray() as data, *_):
            return data
    raise _bad_arguments("_rebuild_parameter")


def _rebuild_from_type(args: tuple[Any, ...]) -> Any:
    """A tensor with Python attributes or of a subclass: (function, class, arguments, state)."""
    match args:
        case (Placeholder(name), _, tuple() as inner, _) if name in _TENSOR_CALLS:
            return _TENSOR_CALLS[name](inner)
        case (Placeholder(name), *_):
            raise _forbidden_call(name)
    raise _bad_arguments("_rebuild_from_type_v2")


def _make_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    """OrderedDict or Counter: of nothing, of a dict, or of pairs."""
    made: dict[Any, Any] = {}
    match args:
        case ():
            pass
        case (dict() as items,):
            made.update(items)
        case (list() | tuple() as pairs,):
            for pair in pairs:
                if not (isinstance(pair, tuple | list) and len(pair) == 2):
                    raise _bad_arguments("OrderedDict")
                made[_checked_key(pair[0])] = pair[1]
        case _:
            raise _bad_arguments("OrderedDict")
    return made


def _make_defaultdict(args: tuple[Any, ...]) -> dict[Any, Any]:
    return _make_dict(args[1:])  # the factory is a name that nobody will call


def _make_list(args: tuple[Any, ...]) -> list[Any]:
    match args:
        case (list() | tuple() as values, *_):
            return list(values)
    return []


def _make_set(args: tuple[Any, ...]) -> set[Any]:
    return {_checked_key(value) for value in _make_list(args)}


def _make_size(args: tuple[Any, ...]) -> tuple[int, ...]:
    match args:
        case (sizes,):
            return _numbers(sizes)
    raise _bad_arguments("torch.Size")


def _make_device(args: tuple[Any, ...]) -> str:
    return ":".join(str(part) for part in args if isinstance(part, str | int))


def _make_path(args: tuple[Any, ...]) -> str:
    if not all(isinstance(part, str) for part in args):
        raise _bad_arguments("pathlib.Path")
    return str(pathlib.PurePosixPath(*args))


def _make_complex(args: tuple[Any, ...]) -> complex:
    match args:
        case (int() | float() as real, int() | float() as imaginary):
            return complex(real, imaginary)
    raise _bad_arguments("complex")


def _encode(args: tuple[Any, ...]) -> bytes:
    """How pickle protocol 2 spells bytes: a str and the encoding that gives them back."""
    match args:
        case (str() as text, "latin1" | "latin-1"):
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError as error:
                raise _bad_arguments("_codecs.encode") from error
    raise _bad_arguments("_codecs.encode")


def _make_bytearray(args: tuple[Any, ...]) -> bytes:
    match args:
        case ():
            return b""
        case (bytes() as data,):
            return data
        case (str(), "latin1" | "latin-1"):
            return _encode(args)
    raise _bad_arguments("bytearray")


def _reconstruct_object(args: tuple[Any, ...]) -> _Instance:
    """`copyreg._reconstructor`: (class, builtin base class, content of the base or None)."""
    match args:
        case (Placeholder(name), Placeholder(), content):
            instance = _new_instance(name, ())
            if isinstance(content, dict):
                instance.items.update(content)
            elif isinstance(content, list):
                instance.elements.extend(content)
            elif content is not None:
                instance.args = (content,)
            return instance
    raise _bad_arguments("copyreg._reconstructor")


def _make_instance(args: tuple[Any, ...]) -> _Instance:
    """`copyreg.__newobj__`: (class, *arguments of `__new__`)."""
    match args:
        case (Placeholder(name), *rest):
            return _new_instance(name, tuple(rest))
    raise _bad_arguments("copyreg.__newobj__")


def _new_instance(name: str, args: tuple[Any, ...]) -> _Instance:
    """An inert object of a class that holds data.

    Classes of the standard library beyond the few known ones have no business in a checkpoint,
    and its functions (`os.system`) are no classes: they are refused rather than kept.
    """
    if name not in _DATA_CLASSES and _is_pythons(name):
        raise _forbidden_call(name)
    return _Instance(name, args)


def _numpy_dtype(args: tuple[Any, ...]) -> _NumpyDtype:
    match args:
        case (str() as code, *_) if re.fullmatch(r"[?biufcSU]\d{0,4}", code):
            try:
                np.dtype(code)
            except TypeError as error:
                raise _bad_arguments("numpy.dtype") from error
            return _NumpyDtype(code)
    raise _unsupported("NumPy values that are no numbers or text")


def _numpy_scalar(args: tuple[Any, ...]) -> Any:
    match args:
        case (_NumpyDtype() as dtype, bytes() as data):
            return _numpy_values(dtype, (), data, fortran=False).item()
    raise _bad_arguments("numpy scalar")


def _numpy_values(
    dtype: _NumpyDtype, shape: tuple[int, ...], data: bytes, fortran: bool
) -> np.ndarray:
    built = dtype.build()
    if not built.itemsize or math.prod(shape) * built.itemsize != len(data):
        raise _damaged("a NumPy array whose shape does not match its bytes")
    if math.prod(max(size, 1) for size in shape) > _MIN_VIEW_BYTES:
        raise _absurd("it holds an array of astronomic size")
    return np.ndarray(shape, built, data, order="F" if fortran else "C")


def _numpy_array(_: tuple[Any, ...]) -> _NumpyArray:
    return _NumpyArray()  # its content follows in a BUILD


def _numpy_from_buffer(args: tuple[Any, ...]) -> _NumpyArray:
    """How pickle protocol 5 spells contiguous arrays: (bytes, dtype, shape, order)."""
    match args:
        case (bytes() | bytearray() as data, _NumpyDtype() as dtype, shape, "C" | "F" as order):
            return _NumpyArray(_numpy_values(dtype, _numbers(shape), bytes(data), order == "F"))
    raise _bad_arguments("numpy _frombuffer")


def _type_of(args: tuple[Any, ...]) -> Placeholder:
    """`type(None)`, the only spelling that pickle has for the class of None."""
    match args:
        case (None,):
            return Placeholder("types.NoneType")
    raise _forbidden_call("builtins.type")


def _make_attribute(args: tuple[Any, ...]) -> Placeholder:
    """`getattr(class, name)`: a class in a class, and how Python 3.11.0 spells enum members."""
    match args:
        case (Placeholder(name), str() as attribute) if not _is_pythons(name):
            return _named(name, attribute)
    raise _forbidden_call("builtins.getattr")


def _is_enum_member(function: Any, args: Any) -> bool:
    """Whether a REDUCE has the form of an enum member: its class, with its value.

    What Python would make of the class cannot be known without importing it. So whatever reads
    like a class that is not Python's own, called with one plain value, is taken for a member; any
    other call gives away what the file is up to.
    """
    match function, args:
        case Placeholder(name), (str() | int() | float() | None,) if isinstance(args, tuple):
            known = name in _CALLS or _is_pythons(name)
            return _CLASS.search(name) is not None and not known
    return False


def _is_pythons(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


_Call = Callable[[tuple[Any, ...]], Any]

_TENSOR_CALLS: Mapping[str, _Call] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}

_CALLS: Mapping[str, _Call] = {
    **_TENSOR_CALLS,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _make_size,
    "torch.device": _make_device,
    "collections.OrderedDict": _make_dict,
    "collections.Counter": _make_dict,
    "collections.defaultdict": _make_defaultdict,
    "collections.deque": _make_list,
    "builtins.set": _make_set,
    "builtins.frozenset": _make_set,
    "builtins.complex": _make_complex,
    "builtins.bytearray": _make_bytearray,
    "builtins.getattr": _make_attribute,
    "builtins.type": _type_of,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstruct_object,
    "copyreg.__newobj__": _make_instance,
    "pathlib.PosixPath": _make_path,
    "pathlib.PurePosixPath": _make_path,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.numeric._frombuffer": _numpy_from_buffer,
    "numpy._core.numeric._frombuffer": _numpy_from_buffer,
}

# Values that pickle through a call of their class. They are kept with the call's arguments,
# and the call is not made.
_KEPT_CALLS = frozenset(
    {
        "functools.partial",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "datetime.timezone",
        "decimal.Decimal",
        "fractions.Fraction",
        "types.SimpleNamespace",
        "builtins.range",
        "builtins.xrange",  # what protocol 2 calls range
        "builtins.slice",
        "_operator.getitem",  # of type hints, such as Dict[str, int]
        "torch.serialization._get_layout",
    }
)

_NAMESPACES = frozenset({"argparse.Namespace", "types.SimpleNamespace"})
_DATA_CLASSES = _NAMESPACES | {"uuid.UUID"}

_PYTHON2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "commands": "subprocess"}


# ---------------------------------------------------------------------------------------
# The pickle: opcodes
# ---------------------------------------------------------------------------------------


def _checked_key(key: Any) -> Any:
    """A dict key or set member that is safe to hash.

    Python hashes a tuple by descending into it, anew each time and without a limit on depth,
    so tuples of tuples could take all time or crash the interpreter; only flat ones pass.
    Objects hash by identity.
    """
    if isinstance(key, tuple):
        if len(key) > _MAX_DEPTH or any(isinstance(part, tuple | frozenset) for part in key):
            raise _absurd("it uses nested tuples as keys")
        for part in key:
            _checked_key(part)
    elif isinstance(key, int) and key.bit_length() > 64:
        raise _absurd("it uses huge integers as keys")  # made to collide, they slow dicts down
    elif not (key is None or isinstance(key, _KEY_TYPES)):
        raise _damaged(f"a {type(key).__name__} used as a key")
    return key


_KEY_TYPES = (str, bytes, int, float, Placeholder, _Instance, _Tensor)


class _Machine:
    """Runs one pickle's opcodes on a stack of inert values.

    Stops at the STOP opcode and leaves the stream behind it. The opcodes are those of Python's
    pickle protocols 0 to 5, as `pickletools` documents them.
    """

    def __init__(self, stream: Any, storages: dict[str, _Storage]) -> None:
        self._stream = stream
        self._storages = storages
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each MARK
        self._memo: dict[int, Any] = {}
        self._done = 0

    def run(self) -> Any:
        for name, arg in self._instructions():
            self._work(1)
            self._step(name, arg)
        return self._pop()

    def _instructions(self) -> Iterator[tuple[str, Any]]:
        try:
            for opcode, arg, _ in pickletools.genops(self._stream):
                yield opcode.name, arg
        # What `pickletools` raises for opcodes it does not know and arguments it cannot decode;
        # the warning is about escapes in strings, an error only where the caller wants it so.
        except (ValueError, DeprecationWarning) as error:
            raise _damaged(f"its pickle cannot be decoded: {_shown(str(error))}") from error

    def _work(self, amount: int) -> None:
        self._done += amount
        if self._done > _MAX_OBJECTS:
            raise _absurd("its pickle takes millions of steps")

    def _work_on(self, *values: Any) -> None:
        """Counts what may be copied, as a few opcodes can copy the same large value often."""
        for value in values:
            if isinstance(value, str | bytes | bytearray):
                self._work(len(value) // 64)
            elif isinstance(value, dict | list | tuple | set):
                self._work(len(value))

    def _step(self, name: str, arg: Any) -> None:
        if name in _LITERALS:
            self._stack.append(_checked_literal(arg))
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _TUPLES:
            self._stack.append(tuple([self._pop() for _ in range(_TUPLES[name])][::-1]))
        elif name in _PUTS:
            self._put(len(self._memo) if name == "MEMOIZE" else arg)
        elif name in _GETS:
            self._get(arg)
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, arg)
        elif name not in ("PROTO", "FRAME", "STOP"):
            # Extension codes stand for whatever the running program registered for them, and
            # out-of-band buffers for what a caller passes beside the pickle.
            raise _absurd(f"its pickle uses the instruction {name}")

    def _pop(self) -> Any:
        if not self._stack:
            raise _damaged("its pickle takes more from its stack than it put there")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise _damaged("its pickle works on an empty stack")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        if not self._below:
            raise _damaged("its pickle lacks a mark")
        values = self._stack
        self._stack = self._below.pop()
        return values

    def _put(self, index: int) -> None:
        if not 0 <= index < _MAX_MEMO_INDEX:
            raise _absurd("its pickle uses an absurd memo index")
        self._memo[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise _damaged("its pickle refers to a value that it did not store")
        self._stack.append(self._memo[index])

    def _mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _discard(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _discard_mark(self, _: Any) -> None:
        self._pop_mark()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._top())

    def _list(self, _: Any) -> None:
        values = self._pop_mark()
        self._stack.append(values)

    def _tuple(self, _: Any) -> None:
        values = self._pop_mark()
        self._stack.append(tuple(values))

    def _frozenset(self, _: Any) -> None:
        values = self._pop_mark()
        self._stack.append({_checked_key(value) for value in values})

    def _dict(self, _: Any) -> None:
        values = self._pop_mark()
        self._stack.append({})
        self._set_items(values)

    def _set_item(self, _: Any) -> None:
        value = self._pop()
        self._set_items([self._pop(), value])

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        items = target.items if isinstance(target, _Instance) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise _damaged("its pickle puts items into something that is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            items[_checked_key(key)] = value

    def _append_items(self, values: list[Any]) -> None:
        target = self._top()
        elements = target.elements if isinstance(target, _Instance) else target
        if not isinstance(elements, list):
            raise _damaged("its pickle appends to something that is no list")
        elements.extend(values)

    def _add_items(self, _: Any) -> None:
        values = self._pop_mark()
        target = self._top()
        if not isinstance(target, set):
            raise _damaged("its pickle adds to something that is no set")
        target.update(_checked_key(value) for value in values)

    def _global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._stack.append(_named(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _damaged("its pickle names a global that is no text")
        self._stack.append(_named(module, name))

    def _persistent(self, _: Any) -> None:
        match self._pop():
            case ("storage", Placeholder(name), str() as key, str(), int() as numel, *view):
                self._stack.append(self._storage(name, key, _number(numel), view))
            case ("module", Placeholder() as module, _, _):
                self._stack.append(module)  # legacy files add a class's source code
            case _:
                raise _damaged("its pickle refers to a storage in an unknown way")

    def _storage(self, name: str, key: str, numel: int, view: list[Any]) -> _Storage:
        matched = _STORAGE_NAME.fullmatch(name)
        if not matched or matched[1] not in _STORAGE_DTYPES:
            raise _unsupported(f"storages of type {_shown(name)}")
        storage = _Storage(key, _STORAGE_DTYPES[matched[1]], numel)
        storage = self._storages.setdefault(key, storage)
        if view in ([], [None]):
            return storage
        if len(view) == 1 and isinstance(view[0], tuple) and len(view[0]) == 3:
            _, start, length = view[0]
            return _Storage(key, storage.dtype, _number(length), _number(start))
        raise _damaged("its pickle refers to a part of a storage in an unknown way")

    def _reduce(self, _: Any) -> None:
        args = self._pop()
        function = self._pop()
        if _is_enum_member(function, args):
            self._stack.append(_Instance(function.name, args))
        else:
            self._call(function, args)

    def _inst(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._call(_named(module, name), tuple(self._pop_mark()))

    def _obj(self, _: Any) -> None:
        values = self._pop_mark()
        if not values:
            raise _damaged("its pickle lacks a class")
        self._call(values[0], tuple(values[1:]))

    def _call(self, function: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise _damaged("its pickle passes arguments that are no tuple")
        if not isinstance(function, Placeholder):
            name = function.name if isinstance(function, _Instance) else type(function).__name__
            raise _forbidden_call(f"an object ({name})")
        self._work_on(args, *args)
        if function.name in _CALLS:
            self._stack.append(_CALLS[function.name](args))
        elif function.name in _KEPT_CALLS:
            self._stack.append(_Instance(function.name, args))
        elif function.name.startswith("torch._utils._rebuild_"):
            kind = function.name.removeprefix("torch._utils._rebuild_")
            raise _unsupported(f"a tensor of a special kind ({_shown(kind)})")
        else:
            raise _forbidden_call(function.name)

    def _new(self, keywords: bool) -> None:
        kwargs = self._pop() if keywords else {}
        args = self._pop()
        self._work_on(args, kwargs)
        match self._pop():
            case Placeholder(name) if isinstance(args, tuple) and isinstance(kwargs, dict):
                self._stack.append(_new_instance(name, (*args, kwargs) if kwargs else args))
            case _:
                raise _damaged("its pickle makes an object of something that is no class")

    def _build(self, _: Any) -> None:
        state = self._pop()
        target = self._top()
        parts = state if isinstance(state, tuple) else (state,)
        self._work_on(parts, *parts)
        for part in parts:
            if isinstance(part, dict) and "__setstate__" in part:
                # In Python's unpickler the next BUILD would call what is set here.
                hook = part["__setstate__"]
                raise _forbidden_call(
                    hook.name if isinstance(hook, Placeholder) else "__setstate__"
                )
        match target:
            case _Instance():
                target.state = _merged_state(state)
            case _NumpyDtype():
                _build_numpy_dtype(target, state)
            case _NumpyArray():
                _build_numpy_array(target, state)
            case dict() | list():
                pass  # attributes, such as the `_metadata` of a state dict
            case _:
                raise _damaged("its pickle sets the state of something that has none")


def _named(module: str, name: str) -> Placeholder:
    if len(module) + len(name) > _MAX_NAME_LENGTH:
        raise _absurd("its pickle holds a global's name of absurd length")
    return Placeholder(f"{_PYTHON2_MODULES.get(module, module)}.{name}")


def _checked_literal(value: Any) -> Any:
    if type(value) is int and value.bit_length() > _MAX_INTEGER_BITS:
        raise _absurd("it holds an integer of absurd size")
    return value


def _merged_state(state: Any) -> Any:
    """Objects with slots have a pair of dicts (or None) as their state."""
    match state:
        case (dict() | None as attributes, dict() as slots):
            return {**(attributes or {}), **slots}
    return state


def _build_numpy_dtype(target: _NumpyDtype, state: Any) -> None:
    match state:
        case (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
            target.order = order
        case _:
            raise _unsupported("NumPy arrays of structured type")


def _build_numpy_array(target: _NumpyArray, state: Any) -> None:
    match state:
        case (int(), shape, _NumpyDtype() as dtype, fortran, bytes() as data):
            target.array = _numpy_values(dtype, _numbers(shape), data, fortran is True)
        case _:
            raise _unsupported("NumPy arrays of Python objects")


_LITERALS = frozenset(
    {
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    }
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._discard,
    "POP_MARK": _Machine._discard_mark,
    "DUP": _Machine._duplicate,
    "LIST": _Machine._list,
    "TUPLE": _Machine._tuple,
    "DICT": _Machine._dict,
    "FROZENSET": _Machine._frozenset,
    "APPEND": lambda machine, _: machine._append_items([machine._pop()]),
    "APPENDS": lambda machine, _: machine._append_items(machine._pop_mark()),
    "SETITEM": _Machine._set_item,
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_mark()),
    "ADDITEMS": _Machine._add_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "BINPERSID": _Machine._persistent,
    "REDUCE": _Machine._reduce,
    "INST": _Machine._inst,
    "OBJ": _Machine._obj,
    "NEWOBJ": lambda machine, _: machine._new(keywords=False),
    "NEWOBJ_EX": lambda machine, _: machine._new(keywords=True),
    "BUILD": _Machine._build,
}


# ---------------------------------------------------------------------------------------
# The containers
# ---------------------------------------------------------------------------------------


class _Source:
    """A container: its pickled object, and the bytes of its storages."""

    byteorder: Literal["<", ">"] = "<"

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self.bytes = np.frombuffer(mapped, np.uint8)

    def load(self) -> Any:
        """The pickled object, its tensors as `_Tensor`."""
        raise NotImplementedError

    def storage(self, storage: _Storage) -> np.ndarray:
        """The raw bytes of a storage: uint8 `[numel * itemsize]`."""
        itemsize = _stored_dtype(storage.dtype).itemsize
        start, stop = storage.start * itemsize, (storage.start + storage.numel) * itemsize
        raw = self._raw(storage.key)
        if stop > len(raw):
            raise _damaged(f"storage {_shown(storage.key)} is shorter than the pickle says")
        return raw[start:stop]

    def _raw(self, key: str) -> np.ndarray:
        raise NotImplementedError


def _stored_dtype(dtype: str) -> np.dtype:
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


class _LegacySource(_Source):
    """The stream that `torch.save` wrote before 1.6.

    PyTorch writes the numbers little-endian whatever the machine, and its loader does not look
    at the `little_endian` entry of the system information either. Only the storages' lengths
    were written in the machine's own order by some versions.
    """

    def load(self) -> Any:
        stream = self._mapped
        if _Machine(stream, {}).run() != _LEGACY_MAGIC:
            raise _Refusal(
                "is a Python pickle but not a PyTorch checkpoint: give a file written by torch.save"
            )
        if _Machine(stream, {}).run() != _LEGACY_PROTOCOL:
            raise _unsupported("an unknown version of the stream format")
        _Machine(stream, {}).run()  # the system information
        storages: dict[str, _Storage] = {}
        root = _Machine(stream, storages).run()
        keys = _Machine(stream, {}).run()
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise _damaged("its list of storages is missing")
        self._raws = dict(self._locate(keys, storages, stream.tell()))
        return root

    def _locate(
        self, keys: list[str], storages: dict[str, _Storage], position: int
    ) -> Iterator[tuple[str, np.ndarray]]:
        for key in keys:
            if key not in storages:
                raise _damaged(f"nothing uses storage {_shown(key)}")
            numel = storages[key].numel
            length = self._mapped[position : position + 8]
            if length not in (struct.pack("<q", numel), struct.pack(">q", numel)):
                raise _damaged(f"the length of storage {_shown(key)} is missing or wrong")
            start = position + 8
            position = start + numel * _stored_dtype(storages[key].dtype).itemsize
            if position > len(self.bytes):
                raise _damaged(f"it ends inside storage {_shown(key)}")
            yield key, self.bytes[start:position]

    def _raw(self, key: str) -> np.ndarray:
        if key not in self._raws:
            raise _damaged(f"storage {_shown(key)} is missing")
        return self._raws[key]


# What `zipfile` lets through for a damaged archive: besides its own errors those of the
# decoders it uses, and RuntimeError for entries under a password.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


def _open_zip(file: io.BufferedReader) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _ZIP_ERRORS as error:
        raise _damaged("the directory at the end of the zip archive is missing or bad") from error


class _ZipSource(_Source):
    """The archive that `torch.save` writes since 1.6, its entries stored without compression.

    Stored entries are used in place and without their checksums, which PyTorch can be told to
    leave out. Archives that something else has compressed are read too.
    """

    def __init__(self, archive: zipfile.ZipFile, mapped: mmap.mmap) -> None:
        super().__init__(mapped)
        self._archive = archive
        self._entries = {entry.filename: entry for entry in archive.infolist()}
        self._root = self._find_root()
        self._inflated: dict[str, np.ndarray] = {}
        self._inflatable = max(_MIN_INFLATION_BYTES, _MAX_INFLATION * len(mapped))

    def load(self) -> Any:
        if f"{self._root}byteorder" in self._entries:
            order = self._entry("byteorder").tobytes()
            if order not in (b"little", b"big"):
                raise _damaged("its byte order is neither little nor big")
            self.byteorder = "<" if order == b"little" else ">"
        return _Machine(io.BytesIO(self._entry("data.pkl").tobytes()), {}).run()

    def _find_root(self) -> str:
        """The folder of the archive that holds everything, with its slash."""
        found = [name for name in self._entries if re.fullmatch(r"([^/]*/)?data\.pkl", name)]
        if len(found) != 1:
            raise _Refusal(
                "is a zip archive but not a PyTorch checkpoint, as it has no data.pkl: "
                "give a file written by torch.save"
            )
        root = found[0].removesuffix("data.pkl")
        if any(name.startswith((f"{root}constants.pkl", f"{root}code/")) for name in self._entries):
            raise _Refusal(
                "is a TorchScript archive (a compiled model), not a checkpoint: "
                "load it with torch.jit.load and save its state_dict() with torch.save"
            )
        return root

    def _raw(self, key: str) -> np.ndarray:
        return self._entry(f"data/{key}")

    def _entry(self, name: str) -> np.ndarray:
        """The content of an entry: uint8 `[size]`."""
        entry = self._entries.get(self._root + name)
        if entry is None:
            raise _damaged(f"its entry {_shown(name)} is missing")
        if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:
            return self._stored(entry)
        if name not in self._inflated:
            self._inflated[name] = self._inflate(entry)
        return self._inflated[name]

    def _stored(self, entry: zipfile.ZipInfo) -> np.ndarray:
        header = self._mapped[entry.header_offset : entry.header_offset + 30]
        if entry.header_offset < 0 or len(header) < 30 or header[:4] != _ZIP_MAGICS[0]:
            raise _damaged(f"its entry {_shown(entry.filename)} is not where it should be")
        # The lengths of the name and of the extra field, which differs from the directory's.
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        stop = start + entry.file_size
        if stop > len(self.bytes) or entry.compress_size != entry.file_size:
            raise _damaged(f"its entry {_shown(entry.filename)} does not fit the file")
        return self.bytes[start:stop]

    def _inflate(self, entry: zipfile.ZipInfo) -> np.ndarray:
        # `zipfile` never gives more than the declared size, so that is what must be bounded.
        self._inflatable -= entry.file_size
        if self._inflatable < 0:
            raise _absurd("it is a zip archive that inflates to many times its size")
        try:
            with self._archive.open(entry) as stream:
                content = stream.read(entry.file_size)
        except _ZIP_ERRORS as error:
            raise _damaged(f"its entry {_shown(entry.filename)} cannot be unpacked") from error
        if len(content) != entry.file_size:
            raise _damaged(f"its entry {_shown(entry.filename)} is cut short")
        return np.frombuffer(content, np.uint8)


# ---------------------------------------------------------------------------------------
# From the pickle's values to arrays and plain values
# ---------------------------------------------------------------------------------------


def _contents(source: _Source) -> tuple[dict[str, np.ndarray], dict[Any, Any]]:
    """The state dict's arrays, and everything else as plain values."""
    root = source.load()
    path = _find_state(root)
    if path is None:
        if isinstance(root, _Instance):
            raise _Refusal(
                f"holds a whole pickled object ({_shown(root.name)}) instead of weights by name: "
                "load it where its code is installed and save its state_dict()"
            )
        raise _Refusal("holds no network weights: give a checkpoint with a state dict")
    converter = _Converter(source)
    state = root
    for key in path:
        state = _mapping(state)[key]
    arrays = {
        name: converter.array(value)
        for name, value in _mapping(state).items()
        if _is_weight(name, value)
    }
    return arrays, converter.plain(_without_weights(root, path))


def _mapping(value: Any) -> dict[Any, Any]:
    """The items of a dict or of an instance of a dict's subclass; none for anything else."""
    if isinstance(value, _Instance):
        return value.items
    return value if isinstance(value, dict) else {}


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, _Tensor | _NumpyArray)


def _find_state(value: Any, depth: int = 0) -> tuple[str, ...] | None:
    """The keys that lead to the state dict; () where `value` is one itself, None without."""
    mapping = _mapping(value)
    for key in _STATE_KEYS:
        if key in mapping and depth < len(_STATE_KEYS):
            path = _find_state(mapping[key], depth + 1)
            if path is not None:
                return (key, *path)
    if any(_is_weight(name, item) for name, item in mapping.items()):
        return ()
    return None


def _without_weights(value: Any, path: tuple[str, ...]) -> dict[Any, Any]:
    mapping = _mapping(value)
    if not path:
        return {name: item for name, item in mapping.items() if not _is_weight(name, item)}
    rest = {key: item for key, item in mapping.items() if key != path[0]}
    if inner := _without_weights(mapping[path[0]], path[1:]):
        rest[path[0]] = inner
    return rest


class _Converter:
    """Writes the pickle's values out as arrays and a tree of plain values.

    The pickle may refer to one list a thousand times, from lists it refers to a thousand times;
    whoever prints a tree or writes it as JSON would visit each. So the tree is a real one, with
    nothing shared, and its size is bounded.
    """

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._values_left = _MAX_OBJECTS
        self._bytes_left = max(_MIN_VIEW_BYTES, _MAX_VIEW_FACTOR * len(source.bytes))
        self._open: set[int] = set()

    def plain(self, value: Any, depth: int = 0) -> Any:
        self._values_left -= 1
        if self._values_left < 0 or depth > _MAX_DEPTH:
            raise _absurd("its values are nested too deep or repeated too often")
        if isinstance(value, _Tensor | _NumpyArray):
            return self.array(value)
        if isinstance(value, _Storage):
            return self.array(_Tensor(value, value.dtype, 0, (value.numel,), (1,)))
        if isinstance(value, _NumpyDtype):
            return str(value.build())
        if not isinstance(value, dict | list | tuple | set | _Instance):
            return value
        if id(value) in self._open:
            return Placeholder("<cycle>")
        self._open.add(id(value))
        converted = self._container(value, depth + 1)
        self._open.discard(id(value))
        return converted

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {self._key(key): self.plain(item, depth) for key, item in value.items()}
        if isinstance(value, set):
            return {self._key(item) for item in value}
        if isinstance(value, _Instance):
            return self._object(value, depth)
        items = [self.plain(item, depth) for item in value]
        return tuple(items) if isinstance(value, tuple) else items

    def _key(self, key: Any) -> Any:
        self._values_left -= 1
        if isinstance(key, tuple):
            return tuple(self._key(part) for part in key)
        if isinstance(key, _Instance | _Tensor):
            return Placeholder(key.name if isinstance(key, _Instance) else "torch.Tensor")
        return key

    def _object(self, instance: _Instance, depth: int) -> Any:
        """Containers and namespaces as their content, all else as a placeholder with it."""
        state = instance.state
        if instance.name in _NAMESPACES:
            return self.plain(state or {}, depth)
        if instance.name.startswith("omegaconf.") and isinstance(state, dict):
            for key in ("_content", "_val"):  # of its containers and of its leaves
                if key in state:
                    return self.plain(state[key], depth)
        if instance.items or instance.name.endswith(".AttributeDict"):
            return self.plain(instance.items, depth)
        if instance.elements:
            return self.plain(instance.elements, depth)
        content = state if state is not None else list(instance.args) or None
        return Placeholder(instance.name, self.plain(content, depth))

    def array(self, value: _Tensor | _NumpyArray) -> np.ndarray:
        """A tensor or NumPy array of the file, in the machine's byte order."""
        if isinstance(value, _Tensor):
            return self._tensor(value)
        if value.array is None:
            raise _damaged("a NumPy array without content")
        self._take_bytes(value.array.nbytes)
        return value.array.astype(value.array.dtype.newbyteorder("="), copy=False)

    def _tensor(self, tensor: _Tensor) -> np.ndarray:
        if len(tensor.shape) != len(tensor.strides):
            raise _damaged("a tensor with more or fewer strides than sizes")
        stored = _stored_dtype(tensor.dtype)
        self._take_bytes(math.prod(max(size, 1) for size in tensor.shape) * stored.itemsize)
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, "float32" if tensor.dtype == "bfloat16" else stored)
        # The stride of a dimension of size 1 is never used, and may be any number.
        strides = [0 if n == 1 else s for n, s in zip(tensor.shape, tensor.strides, strict=True)]
        last = sum((n - 1) * stride for n, stride in zip(tensor.shape, strides, strict=True))
        raw = self._source.storage(tensor.storage)
        if (tensor.offset + last + 1) * stored.itemsize > len(raw):
            raise _damaged("a tensor reaches outside its storage")
        view: np.ndarray = np.ndarray(
            tensor.shape,
            stored.newbyteorder(self._source.byteorder),
            raw,
            tensor.offset * stored.itemsize,
            [stride * stored.itemsize for stride in strides],
        )
        return _decoded(view, tensor)

    def _take_bytes(self, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise _absurd("it holds tensors far larger than itself")


def _decoded(stored: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """Turns numbers as stored into NumPy's own; a view where they are the same."""
    array = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if tensor.dtype == "bfloat16":  # the upper half of a float32
        wide = np.left_shift(array.astype(np.uint32), np.uint32(16))
        array = np.asarray(wide).view(np.float32)
    elif tensor.dtype == "bool":  # any byte but 0 and 1 would be undefined
        array = np.asarray(stored.view(np.uint8) != 0)
    if tensor.conjugated:
        array = np.asarray(np.conj(array))
    return np.asarray(-array) if tensor.negated else array
