"""Tests of the checkpoint reader: files of both formats written here without PyTorch, byte by
byte, the golden files where they lie beside the repository, and PyTorch itself where the
environment variable TORCH_PYTHON names an interpreter that has it.
"""

import copyreg
import datetime
import enum
import hashlib
import io
import json
import math
import os
import pathlib
import pickle
import random
import re
import resource
import socket
import struct
import subprocess
import time
import tracemalloc
import typing
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weight_converter import torch_checkpoint
from weight_converter.torch_checkpoint import (
    Checkpoint,
    CheckpointError,
    Placeholder,
    read_checkpoint,
)

GOLDEN = pathlib.Path(
    os.environ.get("LASAFT_GOLDEN")
    or pathlib.Path(__file__).resolve().parents[2] / "shared" / "lasaft" / "golden"
)
FAMILIES = [
    "gpocm_lasaft",
    "gpocm_lightsaft",
    "gpocm_tdf",
    "gpocm",
    "film",
    "film_tdf",
    "film_lasaft",
]
VARIANTS = {
    "attributedict_hparams.ckpt",
    "bare_state_dict.pt",
    "dataparallel.ckpt",
    "era_torch18_pl132_cuda.ckpt",
    "half.ckpt",
    "legacy_nonzip.ckpt",
}

# ---------------------------------------------------------------------------------------
# Writing pickles and checkpoints opcode by opcode
# ---------------------------------------------------------------------------------------


class Ops(bytes):
    """Opcodes that leave one value on the stack."""


def push(value) -> Ops:
    match value:
        case Ops():
            return value
        case None:
            return Ops(b"N")
        case bool():
            return Ops(b"\x88" if value else b"\x89")
        case int():
            digits = pickle.encode_long(value)
            return Ops(b"\x8b" + struct.pack("<i", len(digits)) + digits)
        case float():
            return Ops(b"G" + struct.pack(">d", value))
        case str():
            text = value.encode()
            return Ops(b"X" + struct.pack("<I", len(text)) + text)
        case bytes():
            return Ops(b"B" + struct.pack("<I", len(value)) + value)
        case tuple():
            return Ops(b"(" + b"".join(map(push, value)) + b"t")
        case list():
            return Ops(b"](" + b"".join(map(push, value)) + b"e")
        case dict():
            return Ops(b"}" + pairs(value))
    raise TypeError(type(value))


def pairs(items: dict) -> bytes:
    return b"(" + b"".join(push(key) + push(value) for key, value in items.items()) + b"u"


def name(full: str) -> Ops:
    module, _, attribute = full.rpartition(".")
    return Ops(f"c{module}\n{attribute}\n".encode())


def call(full: str, *args) -> Ops:
    return Ops(name(full) + push(args) + b"R")


def new(full: str, *args) -> Ops:
    return Ops(name(full) + push(args) + b"\x81")


def build(target, state) -> Ops:
    return Ops(push(target) + push(state) + b"b")


def with_items(target: Ops, items: dict) -> Ops:
    return Ops(target + pairs(items))


def ordered(items: dict, metadata: bool = True) -> Ops:
    """An OrderedDict as a state dict is: items, then a BUILD for its `_metadata`."""
    made = with_items(call("collections.OrderedDict"), items)
    return build(made, {"_metadata": {"": {"version": 1}}}) if metadata else made


def persistent(*parts) -> Ops:
    return Ops(push(parts) + b"Q")


def storage(kind="Float", key="0", numel=6, location="cpu", legacy=False, view=None) -> Ops:
    parts = ("storage", name(f"torch.{kind}Storage"), key, location, numel)
    return persistent(*parts, view) if legacy else persistent(*parts)


def tensor(stored: Ops, shape, strides, offset=0, function="_rebuild_tensor_v2", *rest) -> Ops:
    return call(f"torch._utils.{function}", stored, offset, shape, strides, False, {}, *rest)


def dump(value) -> bytes:
    return b"\x80\x02" + push(value) + b"."


def zip_checkpoint(value, storages, byteorder=b"little", root="archive/", method=0) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(f"{root}data.pkl", value if isinstance(value, bytearray) else dump(value))
        if byteorder:
            archive.writestr(f"{root}byteorder", byteorder)
        for key, content in storages.items():
            archive.writestr(f"{root}data/{key}", content)
        archive.writestr(f"{root}version", "3\n")
    return stream.getvalue()


def legacy_checkpoint(value, storages, little=True) -> bytes:
    """`storages`: key to (number of elements, bytes)."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": little}]
    stream = b"".join(map(dump, [*head, value, sorted(storages)]))
    for _, (numel, content) in sorted(storages.items()):
        stream += struct.pack("<q" if little else ">q", numel) + content
    return stream


@pytest.fixture
def load(tmp_path):
    def load(content: bytes) -> Checkpoint:
        path = tmp_path / "file.ckpt"
        path.write_bytes(content)
        return read_checkpoint(path)

    return load


@pytest.fixture
def refuse(load, tmp_path):
    """Loads a file that must be refused, and gives back the sentence without the path."""

    def refuse(content: bytes) -> str:
        with pytest.raises(CheckpointError) as caught:
            load(content)
        return checked_sentence(caught.value, tmp_path / "file.ckpt")

    return refuse


def checked_sentence(error: CheckpointError, path) -> str:
    sentence = str(error)
    assert sentence.startswith(f"{path} ")
    assert sentence.isprintable() and sentence.endswith(".") and ":" in sentence
    assert len(sentence) < len(str(path)) + 400
    return sentence.removeprefix(f"{path} ")


SIX = np.arange(6, dtype=np.float32)


def weights(**extra):
    """A checkpoint with one weight, and what a test adds beside the state dict."""
    return {"state_dict": ordered({"w": tensor(storage(), (2, 3), (3, 1))}), **extra}


def zip_of(value) -> bytes:
    return zip_checkpoint(value, {"0": SIX.tobytes()})


# ---------------------------------------------------------------------------------------
# Tensors
# ---------------------------------------------------------------------------------------

DTYPES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", DTYPES)
def test_zip_dtypes_in_both_byte_orders(load, kind, order):
    values = np.array([1, 2, 3, 4, 5, 100], DTYPES[kind])
    stored = values.astype(values.dtype.newbyteorder("<" if order == "little" else ">"))
    state = ordered({"w": tensor(storage(kind), (2, 3), (3, 1))})
    read = load(zip_checkpoint(state, {"0": stored.tobytes()}, order.encode())).arrays["w"]
    assert read.dtype == values.dtype and read.dtype.isnative
    np.testing.assert_array_equal(read, values.reshape(2, 3))


def test_zip_without_byteorder_record_is_little_endian(load):
    state = ordered({"w": tensor(storage(), (6,), (1,))})
    read = load(zip_checkpoint(state, {"0": SIX.astype("<f4").tobytes()}, None))
    np.testing.assert_array_equal(read.arrays["w"], SIX)


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize("kind", DTYPES)
def test_legacy_dtypes(load, kind, little):
    values = np.array([1, 2, 3, 4, 5, 100], DTYPES[kind])
    stored = values.astype(values.dtype.newbyteorder("<")).tobytes()
    state = ordered({"w": tensor(storage(kind, legacy=True), (6,), (1,))})
    read = load(legacy_checkpoint(state, {"0": (6, stored)}, little)).arrays["w"]
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("order", ["<", ">"])
def test_bfloat16_becomes_float32(load, order):
    values = np.array([1.0, -2.5, 3e38, 0.0, 1e-30, np.inf], np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    state = {
        "w": tensor(storage("BFloat16"), (2, 3), (1, 2)),
        "scalar": tensor(storage("BFloat16"), (), (), 1),
        "expanded": tensor(storage("BFloat16"), (2, 4), (1, 0)),
        "empty": tensor(storage("BFloat16"), (0, 3), (3, 1)),
    }
    content = halves.astype(f"{order}u2").tobytes()
    read = load(zip_checkpoint(state, {"0": content}, b"little" if order == "<" else b"big"))
    assert {array.dtype for array in read.arrays.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(read.arrays["w"], expected.reshape(3, 2).T)
    assert read.arrays["scalar"].shape == () and read.arrays["scalar"] == -2.5
    np.testing.assert_array_equal(read.arrays["expanded"], [[1.0] * 4, [-2.5] * 4])
    assert read.arrays["empty"].shape == (0, 3)


def test_bool_normalises_odd_bytes(load):
    state = {
        "w": tensor(storage("Bool"), (2, 3), (3, 1)),
        "scalar": tensor(storage("Bool"), (), (), 5),
    }
    read = load(zip_checkpoint(state, {"0": bytes([0, 1, 2, 255, 0, 1])})).arrays
    np.testing.assert_array_equal(read["w"], [[False, True, True], [True, False, True]])
    assert read["w"].view(np.uint8).max() == 1
    assert read["scalar"].shape == () and read["scalar"].dtype == bool and read["scalar"]


@pytest.mark.parametrize("legacy", [False, True])
def test_views_offsets_and_strides(load, legacy):
    stored = storage("Float", "0", 12, "cuda:0", legacy)
    state = ordered(
        {
            "whole": tensor(stored, (3, 4), (4, 1)),
            "transposed": tensor(stored, (4, 3), (1, 4)),
            "inner": tensor(stored, (2, 2), (4, 2), 5),
            "expanded": tensor(stored, (2, 5), (1, 0), 10),
            "scalar": tensor(stored, (), (), 11),
            "empty": tensor(stored, (0, 7), (7, 1), 3),
            "one": tensor(stored, (1, 2), (2**62, 1), 10),  # the first stride is never used
        }
    )
    values = np.arange(12, dtype=np.float32)
    if legacy:
        read = load(legacy_checkpoint(state, {"0": (12, values.tobytes())})).arrays
    else:
        read = load(zip_checkpoint(state, {"0": values.tobytes()})).arrays
    whole = values.reshape(3, 4)
    assert list(read) == ["whole", "transposed", "inner", "expanded", "scalar", "empty", "one"]
    np.testing.assert_array_equal(read["whole"], whole)
    np.testing.assert_array_equal(read["transposed"], whole.T)
    np.testing.assert_array_equal(read["inner"], [[5, 7], [9, 11]])
    np.testing.assert_array_equal(read["expanded"], [[10] * 5, [11] * 5])
    assert read["scalar"].shape == () and read["scalar"] == 11
    assert read["empty"].shape == (0, 7) and read["empty"].dtype == np.float32
    np.testing.assert_array_equal(read["one"], [[10, 11]])
    assert np.shares_memory(read["whole"], read["transposed"])
    assert not any(array.flags.writeable for key, array in read.items() if key != "empty")


def test_legacy_storage_views(load):
    """Before 0.4 a storage could be a part of another one: (key, offset, size)."""
    state = {
        "a": tensor(storage(legacy=True), (6,), (1,)),
        "b": tensor(storage(legacy=True, view=("1", 2, 3)), (3,), (1,)),
    }
    read = load(legacy_checkpoint(state, {"0": (6, SIX.tobytes())})).arrays
    np.testing.assert_array_equal(read["b"], [2, 3, 4])


def test_legacy_view_keeps_inside_its_part(refuse):
    part = storage(legacy=True, view=("1", 2, 3))
    sentence = refuse(legacy_checkpoint({"b": tensor(part, (4,), (1,))}, {"0": (6, SIX.tobytes())}))
    assert "outside its storage" in sentence


@pytest.mark.parametrize("kind", ["storage.Untyped", "storage._Untyped", "Untyped"])
def test_untyped_storages(load, kind):
    stored = storage(kind, numel=12)
    made = tensor(stored, (3,), (2,), 0, "_rebuild_tensor_v3", name("torch.uint16"), {})
    values = np.arange(6, dtype=np.uint16)
    read = load(zip_checkpoint({"w": made}, {"0": values.tobytes()})).arrays["w"]
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, [0, 2, 4])


def test_cuda_storage_class_and_old_rebuild_function(load):
    made = call("torch._utils._rebuild_tensor", storage("cuda.Float"), 1, (2,), (2,))
    read = load(zip_of({"w": made})).arrays["w"]
    np.testing.assert_array_equal(read, [1, 3])


def test_parameters_and_tensors_with_attributes(load):
    made = tensor(storage(), (6,), (1,))
    inner = (storage(), 1, (2,), (1,), False, {})
    function = name("torch._utils._rebuild_tensor_v2")
    state = {
        "parameter": call("torch._utils._rebuild_parameter", made, True, {}),
        "stateful": call("torch._utils._rebuild_parameter_with_state", made, True, {}, {"a": 1}),
        "subclass": call(
            "torch._tensor._rebuild_from_type_v2", function, name("my.Tensor"), inner, {"a": 1}
        ),
    }
    read = load(zip_of(state)).arrays
    np.testing.assert_array_equal(read["parameter"], SIX)
    np.testing.assert_array_equal(read["stateful"], SIX)
    np.testing.assert_array_equal(read["subclass"], [1, 2])


def test_conjugated_and_negated_views(load):
    values = np.array([1 + 2j, 3 - 4j], np.complex64)
    stored = storage("ComplexFloat", numel=2)
    state = {
        "conj": tensor(stored, (2,), (1,), 0, "_rebuild_tensor_v2", {"conj": True}),
        "neg": tensor(stored, (2,), (1,), 0, "_rebuild_tensor_v2", {"neg": True}),
    }
    read = load(zip_checkpoint(state, {"0": values.tobytes()})).arrays
    np.testing.assert_array_equal(read["conj"], values.conj())
    np.testing.assert_array_equal(read["neg"], -values)


def test_compressed_archive(load):
    content = zip_checkpoint(weights(), {"0": SIX.tobytes()}, method=zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(load(content).arrays["w"], SIX.reshape(2, 3))


@pytest.mark.parametrize("root", ["", "archive/", "epoch=41 ä/"])
def test_archive_folder_has_any_name(load, root):
    assert list(load(zip_checkpoint(weights(), {"0": SIX.tobytes()}, root=root)).arrays) == ["w"]


# ---------------------------------------------------------------------------------------
# The state dict and the metadata
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [(), ("state_dict",), ("model",), ("model_state_dict",), ("state",)]
)
def test_finds_the_state_dict(load, path):
    value = ordered({"module.w": tensor(storage(), (6,), (1,)), "steps": 7})
    for key in path:
        value = {"epoch": 3, key: value}
    read = load(zip_of(value))
    assert list(read.arrays) == ["module.w"]
    if path:
        assert read.metadata == {"epoch": 3, path[0]: {"steps": 7}}
    else:
        assert read.metadata == {"steps": 7}


def test_finds_the_state_dict_two_levels_down(load):
    state = ordered({"w": tensor(storage(), (6,), (1,))})
    read = load(zip_of({"model": {"state_dict": state, "name": "x"}, "state_dict": None}))
    assert list(read.arrays) == ["w"]
    assert read.metadata == {"model": {"name": "x"}, "state_dict": None}


def test_digest_is_the_files(load):
    content = zip_of(weights())
    assert load(content).sha256 == hashlib.sha256(content).hexdigest()


def hyper_parameters(load, value):
    return load(zip_of(weights(hyper_parameters=value))).metadata["hyper_parameters"]


def test_callbacks_keyed_by_class(load):
    checkpoint = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    score = tensor(storage(), (), (), 4)
    extra = {"callbacks": {name(checkpoint): {"best": score, "path": "x"}}, "epoch": 42}
    read = load(zip_of(weights(**extra))).metadata
    assert read["epoch"] == 42
    best = read["callbacks"][Placeholder(checkpoint)]["best"]
    assert isinstance(best, np.ndarray) and best == 4


@pytest.mark.parametrize("items", [{}, {"n_fft": 256, "inner": {"a": [1, (2.5, None, True)]}}])
def test_attribute_dict(load, items):
    made = with_items(new("pytorch_lightning.utilities.parsing.AttributeDict"), items)
    read = hyper_parameters(load, made)
    assert type(read) is dict and read == items


def test_namespace_by_both_ways_of_pickling(load):
    state = {"lr": 0.5}
    made = build(new("argparse.Namespace"), state)
    assert hyper_parameters(load, made) == state
    made = call(
        "copy_reg._reconstructor", name("argparse.Namespace"), name("builtins.object"), None
    )
    assert hyper_parameters(load, build(made, state)) == state


def test_omegaconf_containers(load):
    def node(value):
        state = {
            "_metadata": build(new("omegaconf.base.Metadata"), {"optional": True}),
            "_val": value,
        }
        return build(new("omegaconf.nodes.AnyNode"), state)

    items = build(new("omegaconf.listconfig.ListConfig"), {"_content": [node(1), node(2)]})
    made = build(
        new("omegaconf.dictconfig.DictConfig"),
        {"_metadata": None, "_parent": None, "_content": {"lr": node(0.1), "layers": items}},
    )
    assert hyper_parameters(load, made) == {"lr": 0.1, "layers": [1, 2]}


def test_loss_object_keeps_name_and_state(load):
    state = {"training": True, "_parameters": ordered({}, False), "weight": None}
    read = hyper_parameters(load, {"loss": build(new("torch.nn.modules.loss.L1Loss"), state)})
    assert read == {"loss": Placeholder("torch.nn.modules.loss.L1Loss")}
    assert read["loss"].content == {"training": True, "_parameters": {}, "weight": None}


def test_legacy_class_with_source(load):
    """The legacy format adds a module class's source file and text to its name."""
    cls = persistent("module", name("my.Net"), "net.py", "class Net: pass")
    value = {"state_dict": {"w": tensor(storage(legacy=True), (6,), (1,))}, "net": cls}
    read = load(legacy_checkpoint(value, {"0": (6, SIX.tobytes())}))
    assert read.metadata == {"net": Placeholder("my.Net")}


def test_values_of_known_classes(load):
    read = hyper_parameters(
        load,
        {
            "path": call("pathlib.PosixPath", "/", "data", "x.wav"),
            "device": call("torch.device", "cuda", 0),
            "dtype": name("torch.float32"),
            "size": call("torch.Size", (2, 3)),
            "default": with_items(call("collections.defaultdict", name("os.system")), {"a": 1}),
            "counter": call("collections.Counter", {"a": 2}),
            "queue": Ops(call("collections.deque", []) + b"(K\x01K\x02e"),
            "set": call("builtins.set", [1, 2]),
            "complex": call("builtins.complex", 1.0, 2.0),
            "bytes": call("_codecs.encode", "\xff\x00", "latin1"),
            "partial": call("functools.partial", name("torch.nn.ReLU")),
            "pair": new("my.Pair", 1, 2),
            "old style": call("collections.OrderedDict", [["a", 1], ["b", 2]]),
        },
    )
    assert read.pop("partial").content == [Placeholder("torch.nn.ReLU")]
    assert read.pop("pair").content == [1, 2]
    assert read == {
        "path": "/data/x.wav",
        "device": "cuda:0",
        "dtype": Placeholder("torch.float32"),
        "size": (2, 3),
        "default": {"a": 1},
        "counter": {"a": 2},
        "queue": [1, 2],
        "set": {1, 2},
        "complex": 1 + 2j,
        "bytes": b"\xff\x00",
        "old style": {"a": 1, "b": 2},
    }


class Mode(enum.Enum):
    FAST = "fast"


@pytest.mark.parametrize("protocol", range(2, 6))
def test_enums_and_types_keep_their_names(load, protocol):
    """What Python's own pickler makes of them; torch.save takes protocol 2."""
    values = {
        "member": Mode.FAST,
        "range": range(3),
        "zone": datetime.timezone.utc,  # noqa: UP017 Python 3.10 has no other
        "nothing": type(None),
        "old hint": typing.Optional[typing.Dict[str, int]],
    }
    read = hyper_parameters(load, Ops(pickle.dumps(values, protocol)[2:-1]))
    assert read["member"] == Placeholder(here(Mode)) and read["member"].content == ["fast"]
    assert read["range"].content == [0, 3, 1]
    assert read["nothing"] == Placeholder("types.NoneType")
    assert read["zone"] == Placeholder("datetime.timezone")
    assert isinstance(read["old hint"], Placeholder)


def test_names_in_classes(load):
    """Of Python 3.11.0's enum members, and of classes in classes before protocol 4."""
    made = call("builtins.getattr", name("my.Mode"), "FAST")
    assert hyper_parameters(load, made) == Placeholder("my.Mode.FAST")


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_pickle_protocol(load, protocol):
    """What Python's own pickler makes of plain and NumPy values."""
    values = {
        "numbers": [0, 1, -1, 255, 70000, 2**40, -(2**70), 0.1, math.inf, True, False, None],
        "text": ["", "ä\n\\u", "x" * 300],
        "nested": {"a": ({"b": [[]]}, ()), 3: {1, 2}, (1, "x"): "tuple"},
        "bytes": b"\x00\xff",
        "shared": [shared := ["again"], shared],
        "numpy": np.float64(0.25),
        "integer": np.int64(-3),
        "array": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    }
    pickled = pickle.dumps(values, protocol)
    body = pickled[2:-1] if protocol >= 2 else pickled[:-1]
    read = hyper_parameters(load, Ops(body))
    array = read.pop("array")
    expected = values.pop("array")
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, expected)
    assert read == values
    assert type(read["numpy"]) is float and type(read["integer"]) is int
    assert read["shared"][0] is not read["shared"][1]


def test_cycles_become_placeholders(load):
    made = Ops(b"]q\x07h\x07a")  # a list that holds itself
    assert hyper_parameters(load, made) == [Placeholder("<cycle>")]


def test_loads_do_not_influence_each_other(load):
    """State set on a name in one file must not show in the next one."""
    with pytest.raises(CheckpointError):
        load(zip_of(weights(x=build(name("my.Class"), {"content": 1}))))
    assert load(zip_of(weights(x=name("my.Class")))).metadata["x"].content is None


# ---------------------------------------------------------------------------------------
# Malice
# ---------------------------------------------------------------------------------------


class Bomb:
    """Writes a file as soon as an unpickler makes, fills or initialises one."""

    def __new__(cls, path, *more, **keywords):
        pathlib.Path(path).write_text("new")
        return super().__new__(cls)


def fuse(path):
    pathlib.Path(path).write_text("called")


class LateBomb:
    def __setstate__(self, path):
        pathlib.Path(path).write_text("setstate")


class Plain:
    pass


def here(cls) -> str:
    return f"{__name__}.{cls.__name__}"


def touch(path) -> str:
    return f"touch '{path}'"


# Each payload writes a file when Python's own unpickler reads it. The second item is the name
# that the refusal gives, or None where an inert object results.
PAYLOADS = {
    "reduce": (lambda path: call("os.system", touch(path)), "os.system"),
    "reduce posix": (lambda path: call("posix.system", touch(path)), "posix.system"),
    "reduce eval": (
        lambda path: call("builtins.eval", f"open({str(path)!r}, 'w').close()"),
        "builtins.eval",
    ),
    "python 2 eval": (
        lambda path: call("__builtin__.eval", f"open({str(path)!r}, 'w').close()"),
        "builtins.eval",
    ),
    "stack global": (
        lambda path: Ops(push("os") + push("system") + b"\x93" + push((touch(path),)) + b"R"),
        "os.system",
    ),
    "dotted": (
        lambda path: Ops(
            push("pathlib") + push("os.system") + b"\x93" + push((touch(path),)) + b"R"
        ),
        "pathlib.os.system",
    ),
    "inst": (lambda path: Ops(b"(" + push(touch(path)) + b"ios\nsystem\n"), "os.system"),
    "obj": (lambda path: Ops(b"(" + name("os.system") + push(touch(path)) + b"o"), "os.system"),
    "class by reduce": (lambda path: call(here(Bomb), str(path)), None),  # as an enum's member
    "class by reduce, more arguments": (
        lambda path: call(here(Bomb), str(path), 1),
        here(Bomb),
    ),
    "class by inst": (
        lambda path: Ops(b"(" + push(str(path)) + f"i{__name__}\nBomb\n".encode()),
        here(Bomb),
    ),
    "function by reduce": (lambda path: call(here(fuse), str(path)), here(fuse)),
    "newobj": (lambda path: new(here(Bomb), str(path)), None),
    "newobj_ex": (
        lambda path: Ops(name(here(Bomb)) + push((str(path),)) + push({"a": 1}) + b"\x92"),
        None,
    ),
    "newobj by function": (
        lambda path: call("copyreg.__newobj__", name(here(Bomb)), str(path)),
        None,
    ),
    "setstate of a class": (lambda path: build(new(here(LateBomb)), str(path)), None),
    "setstate by build": (
        lambda path: build(
            build(new(here(Plain)), {"__setstate__": name("os.system")}), touch(path)
        ),
        "os.system",
    ),
    "setstate on OrderedDict": (
        lambda path: build(
            build(call("collections.OrderedDict"), {"__setstate__": name("os.system")}),
            touch(path),
        ),
        "os.system",
    ),
    "setstate by slots": (
        lambda path: build(
            build(new(here(Plain)), (None, {"__setstate__": name("os.system")})), touch(path)
        ),
        "os.system",
    ),
    "partial": (
        lambda path: Ops(
            call("functools.partial", name("os.system")) + push((touch(path),)) + b"R"
        ),
        "functools.partial",
    ),
    "getattr": (
        lambda path: Ops(
            call("builtins.getattr", name("os.path"), "os") + push((touch(path),)) + b"R"
        ),
        "builtins.getattr",
    ),
}
HARMLESS_IN_PYTHON = {"dotted", "getattr"}  # refused all the same
PLACES = {
    "root": lambda payload: payload,
    "hyper_parameters": lambda payload: weights(hyper_parameters=payload),
    "deep": lambda payload: weights(hyper_parameters={"a": [({"b": [payload]},)]}),
    "state_dict": lambda payload: {"state_dict": {"w": payload}},
}


@pytest.mark.parametrize("kind", sorted(set(PAYLOADS) - HARMLESS_IN_PYTHON))
def test_payloads_do_run_in_python(tmp_path, kind):
    """Without this, the tests below could pass on payloads that are broken."""
    pickle.loads(dump(PAYLOADS[kind][0](tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("container", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", PAYLOADS)
def test_payloads_never_run(tmp_path, load, kind, place, container):
    target = tmp_path / "ran"
    payload, named = PAYLOADS[kind]
    value = PLACES[place](payload(target))
    content = {
        "zip": lambda: zip_of(value),
        "legacy": lambda: legacy_checkpoint(value, {"0": (6, SIX.tobytes())}),
        "bare pickle": lambda: dump(value),
    }[container]()
    try:
        read = load(content)
    except CheckpointError as error:
        sentence = checked_sentence(error, tmp_path / "file.ckpt")
        # The persistent ids of the two containers differ, and stop the machine before a payload.
        if named and (container == "zip" or place in ("root", "state_dict")):
            assert f"call {named}; nothing was run" in sentence or (
                f"({named}); nothing was run" in sentence
            )
    else:
        assert named is None and container != "bare pickle"
        assert read.arrays["w"].shape == (2, 3)
    assert not target.exists()


def test_unknown_object_is_an_inert_placeholder(load):
    read = hyper_parameters(load, {"a": PAYLOADS["newobj"][0]("nowhere")})["a"]
    assert read == Placeholder(here(Bomb)) and read.content == ["nowhere"]


@pytest.mark.parametrize(
    "full", ["os.system", "posix.system", "builtins.eval", "subprocess.Popen", "types.CodeType"]
)
@pytest.mark.parametrize("way", ["NEWOBJ", "NEWOBJ_EX", "__newobj__", "_reconstructor"])
def test_objects_of_the_standard_library_are_refused_by_name(refuse, full, way):
    made = {
        "NEWOBJ": new(full, "x"),
        "NEWOBJ_EX": Ops(name(full) + push(()) + push({}) + b"\x92"),
        "__newobj__": call("copyreg.__newobj__", name(full), "x"),
        "_reconstructor": call("copyreg._reconstructor", name(full), name("builtins.object"), None),
    }[way]
    sentence = refuse(zip_of(weights(hyper_parameters=[made])))
    assert f"call {full}; nothing was run" in sentence


def test_rebuilding_a_tensor_type_does_not_take_any_function(refuse):
    made = call("torch._tensor._rebuild_from_type_v2", name("os.system"), None, ("x",), None)
    assert "call os.system; nothing was run" in refuse(zip_of({"w": made}))


@pytest.mark.parametrize("opcode", [b"\x82\x7b", b"\x83\x7b\x00", b"\x84\x7b\x00\x00\x00"])
def test_extension_codes_are_refused(refuse, tmp_path, opcode):
    """Extension codes stand for what the running program registered."""
    copyreg.add_extension("os", "system", 0x7B)
    payload = Ops(opcode + push((touch(tmp_path / "ran"),)) + b"R")
    try:
        sentence = refuse(zip_of(weights(hyper_parameters=payload)))
    finally:
        copyreg.remove_extension("os", "system", 0x7B)
    assert "EXT" in sentence
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "stored",
    [
        Ops(b"P0\n"),
        persistent("storage"),
        persistent("file", "/etc/passwd"),
        persistent("storage", "torch.FloatStorage", "0", "cpu", 6),
        persistent("storage", name("torch.FloatStorage"), 0, "cpu", 6),
        persistent("storage", name("torch.FloatStorage"), "0", "cpu", -1),
        persistent("storage", name("torch.FloatStorage"), "0", "cpu", "6"),
        persistent("storage", name("torch.FloatStorage"), "0", "cpu", 6, "view"),
        persistent("storage", name("torch.FloatStorage"), "../data.pkl", "cpu", 6),
        persistent("storage", name("os.FloatStorage"), "0", "cpu", 6),
        push("0"),
    ],
)
def test_strange_storages_are_refused(refuse, stored):
    refuse(zip_of({"w": tensor(stored, (6,), (1,))}))


# ---------------------------------------------------------------------------------------
# Bounds
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((7,), (1,), 0),
        ((6,), (1,), 1),
        ((2, 3), (4, 1), 0),
        ((1,), (1,), 6),
        ((2,), (2**61,), 0),  # bytes that wrap around 64 bits
        ((2,), (2**62,), 0),
        ((1,), (1,), 2**62),
        ((), (), 2**63 - 1),
        ((-1,), (1,), 0),
        ((6,), (-1,), 5),
        ((6,), (1,), -1),
        ((2**64,), (1,), 0),
        ((6,), (1, 1), 0),
        ((6.0,), (1,), 0),
        ((True,), (1,), 0),
        (6, 1, 0),
        ((2**40,), (0,), 0),
        ((2**20, 2**20), (0, 0), 0),
        ((0, 2**62), (1, 1), 0),
        ((1,) * 33, (1,) * 33, 0),
    ],
)
def test_tensors_stay_inside_their_storage(refuse, shape, strides, offset, legacy):
    state = {"w": tensor(storage(legacy=legacy), shape, strides, offset)}
    if legacy:
        refuse(legacy_checkpoint(state, {"0": (6, SIX.tobytes())}))
    else:
        refuse(zip_of(state))


def test_many_expanded_tensors_are_refused(refuse):
    state = {f"w{i}": tensor(storage(), (2**26,), (0,)) for i in range(8)}
    assert "far larger" in refuse(zip_of(state))


def test_storage_shorter_than_announced(refuse):
    state = {"w": tensor(storage(numel=60), (6,), (1,))}
    assert "shorter" in refuse(zip_of(state))


def test_storage_keeps_its_first_type(load):
    """A key has one dtype; PyTorch refuses to write anything else, and its loader does so too."""
    state = {"w": tensor(storage("Float"), (6,), (1,)), "x": tensor(storage("Int"), (6,), (1,))}
    np.testing.assert_array_equal(load(zip_of(state)).arrays["x"], SIX)


def test_tied_weights_may_exceed_the_file(load, monkeypatch):
    monkeypatch.setattr(torch_checkpoint, "_MIN_VIEW_BYTES", 0)
    values = np.arange(2000, dtype=np.float32)
    tied = storage(numel=2000)
    state = {key: tensor(tied, (2000,), (1,)) for key in ("encoder", "decoder", "head")}
    read = load(zip_checkpoint(state, {"0": values.tobytes()})).arrays
    np.testing.assert_array_equal(read["head"], values)


def test_missing_storage(refuse):
    assert "missing" in refuse(zip_checkpoint(weights(), {}))


LAUGHS = b"(K\x01l" + b"".join(b"q%c(" % i + b"h%c" % i * 10 + b"l" for i in range(40))
NESTED_TUPLE = b")" + b"\x85" * 200_000


@pytest.mark.parametrize(
    "value",
    {
        "deep list": Ops(b"]" * 100_000 + b"a" * 99_999),
        "deep tuple": Ops(NESTED_TUPLE),
        "deep tuple as key": Ops(b"}" + NESTED_TUPLE + b"K\x01s"),
        "deep tuple in a set": Ops(b"\x8f(" + NESTED_TUPLE + b"\x90"),
        "deep tuple in a frozenset": Ops(b"(" + NESTED_TUPLE + b"\x91"),
        "doubled tuple as key": Ops(b"}" + b")" + b"2\x86" * 60 + b"K\x01s"),
        "doubled tuple": Ops(b")" + b"2\x86" * 60),
        "billion laughs": Ops(LAUGHS),
        "laughs in an object": build(new("my.Class"), Ops(LAUGHS)),
        "copied over and over": Ops(
            b"(("
            + b"K\x01" * 9000
            + b"lq\x07\x85q\x08"
            + (name("builtins.set") + b"h\x08R") * 300
            + b"l"
        ),
        "copied text": Ops(
            b"("
            + push(("x" * 2**20, "latin1"))
            + b"q\x08"
            + (name("_codecs.encode") + b"h\x08R") * 300
            + b"l"
        ),
        "memo index": Ops(b"K\x01p99999999999999999999\n"),
        "colliding integers": {Ops(push((2**61 - 1) << 70)): 1},
        "huge integer": 2**100_000,
        "integer beyond floats": call("builtins.complex", 2**1024, 0),
        "long text integer": Ops(b"L" + b"9" * 100_000 + b"L\n"),
        "long global": name("a." + "b" * 100_000),
        "announced bytes": Ops(b"\x8e" + struct.pack("<Q", 2**62) + b"x"),
        "announced text": Ops(b"\x8d" + struct.pack("<Q", 2**40) + b"x"),
        "announced negative": Ops(b"\x8b" + struct.pack("<i", -5)),
        "out-of-band buffer": Ops(b"\x97"),
        "millions of opcodes": Ops(b"N" + b"N0" * 600_000),
    }.items(),
    ids=lambda item: item[0],
)
def test_absurd_pickles_are_refused_soon(refuse, value):
    content = zip_of(weights(hyper_parameters=value[1]))
    started = time.monotonic()
    refuse(content)
    assert time.monotonic() - started < 10


def test_large_memo_indices_cost_nothing(load):
    made = Ops(b"K\x07r\xff\xff\xff\xff")
    tracemalloc.start()
    assert hyper_parameters(load, made) == 7
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"N",
        b".",
        b"\xff.",
        b"R.",
        b"0.",
        b"t.",
        b"(.",
        b"h\x05.",
        b"2.",
        b"q\x01.",
        b"Na.",
        b"]K\x01K\x02s.",
        b"}(K\x01u.",
        b"}]K\x01s.",
        b"NK\x01\x85b.",
        b"K\x01K\x02\x93.",
        b"cos\nsystem\nNR.",
        b"NN\x81.",
        b"X\x01\x00\x00\x00\xff.",
        b"Fnonsense\n.",
        b"Inonsense\n.",
        b"S'\\x4\n.",
        b"(o.",
        b"\x8f}\x90.",
    ],
)
def test_broken_pickles_are_refused(refuse, broken):
    refuse(zip_checkpoint(bytearray(b"\x80\x02" + broken), {}))


@pytest.mark.parametrize(
    "value",
    [
        call("torch._utils._rebuild_tensor_v2"),
        call("torch._utils._rebuild_tensor_v2", 1, 2, 3, 4, 5, 6),
        call("torch._utils._rebuild_tensor_v3", storage(), 0, (1,), (1,), False, {}, "float32"),
        call("torch._utils._rebuild_parameter", "x", True, {}),
        call("collections.OrderedDict", [1]),
        call("collections.OrderedDict", 1, 2),
        call("collections.OrderedDict", [[[], 1]]),
        call("collections.Counter", "x"),
        call("torch.Size", "x"),
        call("pathlib.PosixPath", 1),
        call("builtins.complex", "x", 1),
        call("builtins.bytearray", 2**40),
        call("_codecs.encode", "x", "zlib"),
        call("_codecs.encode", "\u20ac", "latin1"),
        call("copyreg._reconstructor", 1, 2, 3),
        call("copyreg.__newobj__", 1),
        call("numpy.dtype", "O"),
        call("numpy.dtype", "f3"),
        call("numpy.dtype", 1),
        call("numpy.core.multiarray.scalar", call("numpy.dtype", "f8"), b"123"),
        call("numpy.core.multiarray.scalar", call("numpy.dtype", "S0"), b""),
        build(call("numpy.core.multiarray._reconstruct"), (1, (3,), 1, False, b"")),
        build(
            call("numpy.core.multiarray._reconstruct"),
            (1, (2**62, 4), call("numpy.dtype", "f8"), False, b""),
        ),
        build(
            call("numpy.core.multiarray._reconstruct"),
            (1, (0, 2**62), call("numpy.dtype", "f8"), False, b""),
        ),
        call("numpy.core.multiarray._reconstruct"),
        build(call("numpy.dtype", "f8"), (3, "?")),
    ],
)
def test_bad_arguments_are_refused(refuse, value):
    refuse(zip_of(weights(hyper_parameters=value)))


# ---------------------------------------------------------------------------------------
# Other files
# ---------------------------------------------------------------------------------------


def zip_with(names) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for entry in names:
            archive.writestr(entry, "x")
    return stream.getvalue()


def bomb(size: int, names=("archive/data/0",)) -> bytes:
    """Entries that inflate a thousandfold."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        if "archive/data.pkl" not in names:
            archive.writestr("archive/data.pkl", dump({"w": tensor(storage(), (6,), (1,))}))
        for entry in names:
            archive.writestr(entry, bytes(size))
    return stream.getvalue()


def with_declared_size(content: bytes, entry: bytes, size: int, fields=(20, 24)) -> bytes:
    """Changes the sizes that the archive's directory gives for an entry."""
    changed = bytearray(content)
    header = changed.rindex(entry) - 46
    assert changed[header : header + 4] == b"PK\x01\x02"
    for at in fields:
        changed[header + at : header + at + 4] = struct.pack("<I", size)
    return bytes(changed)


def with_bytes(content: bytes, entry: bytes, at: int, new: bytes) -> bytes:
    header = content.rindex(entry) - 46
    return content[: header + at] + new + content[header + at + len(new) :]


GOOD_ZIP = zip_of(weights())
GOOD_LEGACY = legacy_checkpoint(
    {"state_dict": ordered({"w": tensor(storage(legacy=True), (6,), (1,))})},
    {"0": (6, SIX.tobytes())},
)
SAFETENSORS = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
REFUSED = {
    "empty": (b"", "is empty"),
    "random": (random.Random(1).randbytes(5000), "is not a PyTorch checkpoint"),
    "text": (b"Weights are on the other server.\n", "is not a PyTorch checkpoint"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a PyTorch checkpoint"),
    "web page": (b"\n<!DOCTYPE html><html>", "web page"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n",
        "`git lfs pull`",
    ),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "safetensors": (
        struct.pack("<Q", len(SAFETENSORS)) + SAFETENSORS + bytes(4),
        "safetensors file",
    ),
    "other pickle": (dump({"w": 1}), "a Python pickle but not a PyTorch checkpoint"),
    "docx": (zip_with(["[Content_Types].xml", "word/document.xml"]), "no data.pkl"),
    "empty zip": (zip_with([]), "no data.pkl"),
    "torchscript": (
        zip_with(["m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"]),
        "TorchScript",
    ),
    "truncated zip": (GOOD_ZIP[:-30], "damaged or truncated"),
    "zip cut to its first bytes": (GOOD_ZIP[:10], "damaged or truncated"),
    "truncated legacy": (GOOD_LEGACY[:-1], "ends inside storage"),
    "legacy cut in the length": (GOOD_LEGACY[:-28], "length of storage"),
    "legacy cut in the pickle": (GOOD_LEGACY[:150], "damaged or truncated"),
    "legacy of the future": (dump(0x1950A86A20F9469CFC6C) + dump(1002), "unknown version"),
    "legacy without keys": (GOOD_LEGACY.replace(dump(["0"]), dump(["7"])), "storage 7"),
    "legacy with one key less": (GOOD_LEGACY.replace(dump(["0"]), dump([])), "is missing"),
    "no weights": (zip_of({"epoch": 3, "state_dict": {}}), "no network weights"),
    "no dict": (zip_of([tensor(storage(), (6,), (1,))]), "no network weights"),
    "whole module": (zip_of(build(new("my.Net"), {"training": True})), "object (my.Net)"),
    "zip bomb": (bomb(2**26), "inflates"),
    "zip bomb in the pickle": (bomb(2**26, ["archive/data.pkl"]), "inflates"),
    "lying stored size": (
        with_declared_size(GOOD_ZIP, b"archive/data/0", 2**31),
        "does not fit",
    ),
    "lying compressed size": (
        with_declared_size(bomb(2**20), b"archive/data/0", 2**31, [24]),
        "inflates",
    ),
    "compressed entry larger than declared": (
        with_declared_size(bomb(2**20), b"archive/data/0", 100, [24]),
        "damaged",
    ),
    "encrypted": (with_bytes(GOOD_ZIP, b"archive/data/0", 8, b"\x01\x00"), "cannot be unpacked"),
    "unknown compression": (
        with_bytes(GOOD_ZIP, b"archive/data/0", 10, b"\x63\x00"),
        "cannot be unpacked",
    ),
    "entry elsewhere": (
        with_bytes(GOOD_ZIP, b"archive/data/0", 42, b"\x05\x00\x00\x00"),
        "not where it should be",
    ),
    "bad byte order": (zip_checkpoint(weights(), {}, b"middle"), "byte order"),
    "quantized": (
        zip_of({"w": call("torch._utils._rebuild_qtensor", 1)}),
        "special kind (qtensor)",
    ),
    "quantized storage": (zip_of({"w": tensor(storage("QInt8"), (1,), (1,))}), "QInt8Storage"),
    "sparse": (
        zip_of({"w": call("torch._utils._rebuild_sparse_tensor", 1)}),
        "kind (sparse_tensor)",
    ),
    "float8": (
        zip_of(
            {
                "w": tensor(
                    storage("storage.Untyped"),
                    (1,),
                    (1,),
                    0,
                    "_rebuild_tensor_v3",
                    name("torch.float8_e5m2"),
                )
            }
        ),
        "torch.float8_e5m2",
    ),
    "line break in a name": (zip_of({"w": Ops(b"\x8c\x02a\n\x8c\x02b\r\x93)R")}), "a\\n.b\\r"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_are_one_sentence(refuse, kind):
    content, expected = REFUSED[kind]
    assert expected in refuse(content)


def test_many_small_bombs_count_together(refuse):
    keys = [str(i) for i in range(9)]
    state = {key: tensor(storage(key=key, numel=2**20), (1,), (1,)) for key in keys}
    content = zip_checkpoint(state, dict.fromkeys(keys, bytes(2**22)), method=zipfile.ZIP_DEFLATED)
    assert "inflates" in refuse(content)


def test_good_files_of_the_refusal_tests_are_good(load):
    """The files above are cut and changed from these."""
    assert list(load(GOOD_ZIP).arrays) == list(load(GOOD_LEGACY).arrays) == ["w"]


def test_paths_that_are_no_files(tmp_path):
    pipe, bound = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bound))
    for path, expected in [
        (tmp_path / "missing.ckpt", "does not exist"),
        (tmp_path / "missing" / "x.ckpt", "does not exist"),
        (tmp_path, "is a directory"),
        (pipe, "is not a regular file"),
        (bound, "is not a regular file"),
        ("x" * 5000, "cannot be read"),
    ]:
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert expected in str(caught.value)
        if len(str(path)) < 5000:
            checked_sentence(caught.value, path)
    with pytest.raises(CheckpointError, match="is not a possible file name"):
        read_checkpoint("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path):
    path = tmp_path / "secret.ckpt"
    path.write_bytes(GOOD_ZIP)
    path.chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(path)


def fuzzed(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(changed))
        match rng.randrange(6):
            case 0:
                changed = changed[: max(1, at)]
            case 1:
                del changed[at : at + rng.randrange(1, 9)]
            case 2:
                changed[at:at] = rng.randbytes(rng.randrange(1, 9))
            case _:
                changed[at] = rng.choice([rng.randrange(256), changed[at] ^ 1 << rng.randrange(8)])
        if not changed:
            break
    return bytes(changed)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("container", ["zip", "compressed", "legacy"])
def test_damaged_files_are_refused_or_read(tmp_path, container):
    legacy = container == "legacy"
    stored = storage(numel=6, legacy=legacy)
    attributes = new("pytorch_lightning.utilities.parsing.AttributeDict")
    array = np.arange(3)
    value = {
        "state_dict": ordered({"w": tensor(stored, (2, 3), (3, 1)), "b": tensor(stored, (), ())}),
        "callbacks": {name("my.Callback"): {"best": 1.5}},
        "hyper_parameters": with_items(attributes, {"a": [1, 2.5, "x", None, (True,)]}),
        "array": Ops(pickle.dumps(array, 2)[2:-1]),
    }
    if legacy:
        content = legacy_checkpoint(value, {"0": (6, SIX.tobytes())})
    else:
        method = zipfile.ZIP_DEFLATED if container == "compressed" else zipfile.ZIP_STORED
        content = zip_checkpoint(value, {"0": SIX.tobytes()}, method=method)
    path = tmp_path / "fuzzed.ckpt"
    rng = random.Random(20201116)
    outcomes = {"read": 0, "refused": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3000):
        path.write_bytes(fuzzed(content, rng))
        started = time.monotonic()
        try:
            read = read_checkpoint(path)
        except CheckpointError as error:
            checked_sentence(error, path)
            outcomes["refused"] += 1
        else:
            json.dumps({key: array.tolist() for key, array in read.arrays.items()})
            repr(read.metadata)
            outcomes["read"] += 1
        assert time.monotonic() - started < 2
    assert min(outcomes.values()) > 50
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@pytest.mark.parametrize("legacy", [False, True])
def test_large_files_are_not_copied(tmp_path, legacy):
    """Reading 100 MB and looking at every number takes next to no memory of its own."""
    numel = 25_000_000
    values = np.arange(numel, dtype=np.float32)
    state = {"w": tensor(storage(numel=numel, legacy=legacy), (numel,), (1,))}
    path = tmp_path / "large.ckpt"
    if legacy:
        path.write_bytes(legacy_checkpoint(state, {"0": (numel, values.tobytes())}))
    else:
        path.write_bytes(zip_checkpoint(state, {"0": values.tobytes()}))
    tracemalloc.start()
    read = read_checkpoint(path).arrays["w"]
    last = read[-1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last == values[-1]
    assert peak < 8_000_000
    np.testing.assert_array_equal(read, values)


# ---------------------------------------------------------------------------------------
# Golden files
# ---------------------------------------------------------------------------------------

needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is missing")


@needs_golden
@pytest.mark.parametrize("size", ["a", "b"])
@pytest.mark.parametrize("family", FAMILIES)
def test_golden_families(family, size):
    read = read_checkpoint(GOLDEN / f"{family}_{size}.ckpt")
    config = json.loads(str(np.load(GOLDEN / f"{family}_{size}.npz")["config_json"]))
    hyper = read.metadata["hyper_parameters"]
    assert type(hyper) is dict and hyper["n_blocks"] == (5 if size == "a" else 7)
    assert {key: hyper[key] for key in hyper if key in config} == {
        key: config[key] for key in hyper if key in config
    }
    window = read.arrays["stft.stft.window"]
    expected = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(len(window)) / len(window))
    np.testing.assert_allclose(window, expected, atol=1e-6)
    assert len(window) == hyper["n_fft"]
    assert all(np.isfinite(array).all() for array in read.arrays.values())


@needs_golden
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_golden_variants_hold_the_same_weights(variant):
    plain = read_checkpoint(GOLDEN / "gpocm_lasaft_a.ckpt")
    other = read_checkpoint(GOLDEN / f"v_{variant}")
    prefix = "module." if variant.startswith("dataparallel") else ""
    names = [re.sub("^module[.]", "", key) if prefix else key for key in other.arrays]
    assert set(names) == set(plain.arrays)
    for key, array in zip(names, other.arrays.values(), strict=True):
        expected = plain.arrays[key]
        if variant.startswith("half") and expected.dtype == np.float32:
            expected = expected.astype(np.float16)
        assert array.dtype == expected.dtype, key
        np.testing.assert_array_equal(array, expected, key)
    if not variant.startswith("bare"):
        assert type(other.metadata["hyper_parameters"]) is dict
        assert other.metadata["hyper_parameters"] == plain.metadata["hyper_parameters"]


@needs_golden
def test_golden_callbacks_are_keyed_by_class():
    read = read_checkpoint(GOLDEN / "v_era_torch18_pl132_cuda.ckpt")
    key = Placeholder("pytorch_lightning.callbacks.early_stopping.EarlyStopping")
    assert read.metadata["callbacks"][key]["patience"] == 300
    assert read.metadata["pytorch-lightning_version"] == "1.3.2"


@needs_golden
@pytest.mark.parametrize(
    ("file", "expected"),
    [("bad_lfs_pointer.ckpt", "`git lfs pull`"), ("bad_truncated.ckpt", "damaged or truncated")],
)
def test_golden_bad_files(file, expected):
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_checkpoint(GOLDEN / file)
    checked_sentence(caught.value, GOLDEN / file)


# ---------------------------------------------------------------------------------------
# PyTorch itself
# ---------------------------------------------------------------------------------------

TORCH_PYTHON = os.environ.get("TORCH_PYTHON")
needs_torch = pytest.mark.skipif(
    not TORCH_PYTHON, reason="TORCH_PYTHON does not name an interpreter with PyTorch"
)

# Answers each line of JSON: saves the tensors it describes, or loads a file, and writes what
# PyTorch makes of them to an .npz file. One interpreter serves all tests, as it starts slowly.
SERVER = r"""
import json, pickle, sys
import numpy as np
import torch

class Anything(dict):
    pass

class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if module.startswith("pytorch_lightning"):
            return type(name, (Anything,), {})
        return super().find_class(module, name)

class Pickle:
    Unpickler = Unpickler
    load = staticmethod(lambda file, **options: Unpickler(file, **options).load())

def made(request):
    state = {}
    generator = torch.Generator().manual_seed(request["seed"])
    pools = {}
    for i, (dtype, shape, strides, offset, numel) in enumerate(request["tensors"]):
        if (dtype, numel) not in pools:
            pool = torch.randint(-100, 100, (numel,), generator=generator).double() / 8
            pools[dtype, numel] = pool.to(getattr(torch, dtype))
        state[f"layer.{i}"] = torch.as_strided(pools[dtype, numel], shape, strides, offset)
    torch.save(
        {"state_dict": state, "epoch": 1, "hyper_parameters": request["hyper"]},
        request["path"],
        _use_new_zipfile_serialization=not request["legacy"],
        pickle_protocol=request["protocol"],
    )
    return state

def loaded(request):
    value = torch.load(request["path"], "cpu", Pickle, weights_only=False)
    return value.get("state_dict", value)

for line in sys.stdin:
    request = json.loads(line)
    state = (made if "tensors" in request else loaded)(request)
    arrays = {
        key: (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()
        for key, value in state.items()
    }
    np.savez(request["answer"], **arrays)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def torch_server(tmp_path_factory):
    answer = tmp_path_factory.mktemp("torch") / "answer.npz"
    command = [TORCH_PYTHON, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(**request) -> dict[str, np.ndarray]:
            process.stdin.write(json.dumps({**request, "answer": str(answer)}) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            with np.load(answer) as arrays:
                return dict(arrays)

        yield ask
        process.stdin.close()


@st.composite
def tensors(draw):
    """Up to six tensors, some of them views of one storage: dtype, shape, strides, offset, size."""
    numel = draw(st.integers(1, 60))
    described = []
    for _ in range(draw(st.integers(1, 6))):
        dtype = draw(
            st.sampled_from(
                [
                    "float16",
                    "bfloat16",
                    "float32",
                    "float64",
                    "uint8",
                    "int8",
                    "int16",
                    "int32",
                    "int64",
                    "bool",
                    "complex64",
                    "complex128",
                ]
            )
        )
        offset = draw(st.integers(0, numel - 1))
        left = numel - 1 - offset  # how far the last element may lie behind the first
        shape, strides = [], []
        for _ in range(draw(st.integers(0, 4))):
            stride = draw(st.integers(0, 8))
            size = draw(st.integers(0, min(5, left // stride + 1 if stride else 5)))
            left -= max(size - 1, 0) * stride
            shape.append(size)
            strides.append(stride)
        described.append((dtype, shape, strides, offset, numel))
    return described


@needs_torch
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    described=tensors(),
    legacy=st.booleans(),
    protocol=st.sampled_from([2, 3, 4, 5]),
    seed=st.integers(0, 2**16),
    hyper=st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False) | st.text()),
)
def test_round_trip_with_torch(torch_server, tmp_path, described, legacy, protocol, seed, hyper):
    path = tmp_path / "torch.ckpt"
    expected = torch_server(
        path=str(path), tensors=described, legacy=legacy, protocol=protocol, seed=seed, hyper=hyper
    )
    read = read_checkpoint(path)
    assert list(read.arrays) == list(expected)
    for key, array in read.arrays.items():
        assert array.dtype == expected[key].dtype, key
        np.testing.assert_array_equal(array, expected[key], key)
    assert read.metadata == {"epoch": 1, "hyper_parameters": hyper}


@needs_torch
@needs_golden
def test_golden_files_as_torch_reads_them(torch_server):
    files = [path for path in GOLDEN.glob("*.[cp][kt]*") if not path.name.startswith("bad_")]
    assert len(files) >= 20
    for path in files:
        expected = torch_server(path=str(path))
        read = read_checkpoint(path).arrays
        assert list(read) == list(expected), path
        for key, array in read.items():
            assert array.dtype == expected[key].dtype, (path, key)
            np.testing.assert_array_equal(array, expected[key], f"{path} {key}")
