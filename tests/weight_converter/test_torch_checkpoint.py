"""The checkpoint reader, on files written byte by byte and on the golden checkpoints."""

import copyreg
import enum
import hashlib
import io
import json
import math
import os
import pathlib
import pickle
import pickletools
import random
import re
import struct
import subprocess
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from support.golden import golden

from weight_converter.torch_checkpoint import CheckpointError, Placeholder, read_checkpoint

# === Pickles and checkpoints, opcode by opcode ===


class Ops(bytes):
    """Opcodes that leave one value on the stack."""


def push(value) -> Ops:
    match value:
        case Ops():
            return value
        case tuple():
            return Ops(b"(" + b"".join(map(push, value)) + b"t")
        case list():
            return Ops(b"](" + b"".join(map(push, value)) + b"e")
        case dict():
            return Ops(b"}" + pairs(value))
    return Ops(pickletools.optimize(pickle.dumps(value, 3))[2:-1])


def pairs(items: dict) -> bytes:
    return b"(" + b"".join(push(key) + push(value) for key, value in items.items()) + b"u"


def name(full: str) -> Ops:
    module, _, attribute = full.rpartition(".")
    return Ops(f"c{module}\n{attribute}\n".encode())


def call(full: str, *args) -> Ops:
    return Ops(name(full) + push(args) + b"R")


def new(full: str, *args) -> Ops:
    return Ops(name(full) + push(args) + b"\x81")


def build(target: Ops, state) -> Ops:
    return Ops(target + push(state) + b"b")


def ordered(items: dict) -> Ops:
    """A state dict: an OrderedDict, filled, with its `_metadata` set by BUILD."""
    return build(Ops(call("collections.OrderedDict") + pairs(items)), {"_metadata": {}})


def storage(kind="Float", key="0", numel=6, *view) -> Ops:
    return Ops(push(("storage", name(f"torch.{kind}Storage"), key, "cpu", numel, *view)) + b"Q")


def tensor(stored=None, shape=(6,), strides=(1,), offset=0, *rest) -> Ops:
    args = (stored or storage(), offset, shape, strides, False, {}, *rest)
    return call("torch._utils._rebuild_tensor_v2", *args)


def dump(value) -> bytes:
    return b"\x80\x02" + push(value) + b"."


SIX = np.arange(6, dtype="<f4").tobytes()


def zipped(value, storages=None, order=b"little", root="archive/", method=0) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(f"{root}data.pkl", value if isinstance(value, bytearray) else dump(value))
        if order:
            archive.writestr(f"{root}byteorder", order)
        for key, content in ({"0": SIX} if storages is None else storages).items():
            archive.writestr(f"{root}data/{key}", content)
    return stream.getvalue()


def legacy(value, stored=SIX, numel=6, order="<") -> bytes:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": order == "<"}, value, ["0"]]
    return b"".join(map(dump, head)) + struct.pack(f"{order}q", numel) + stored


def compressed(value) -> bytes:
    return zipped(value, method=zipfile.ZIP_DEFLATED)


def weights(**extra):
    return {"state_dict": ordered({"w": tensor()}), **extra}


@pytest.fixture
def load(tmp_path):
    def load(content: bytes):
        path = tmp_path / "file.ckpt"
        path.write_bytes(content)
        return read_checkpoint(path)

    return load


@pytest.fixture
def refuse(load, tmp_path):
    """Load a file that must be refused; return the sentence without the path."""

    def refuse(content: bytes) -> str:
        with pytest.raises(CheckpointError) as caught:
            load(content)
        return checked_sentence(caught.value, tmp_path / "file.ckpt")

    return refuse


def checked_sentence(error: CheckpointError, path) -> str:
    sentence = str(error)
    assert sentence.startswith(f"{path} ") and sentence.endswith(".") and ":" in sentence
    assert sentence.isprintable() and len(sentence) < len(str(path)) + 400
    return sentence.removeprefix(f"{path} ")


# === Values ===

DTYPES = {
    "Double": "f8", "Float": "f4", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2",
    "Char": "i1", "Byte": "u1", "Bool": "?", "ComplexFloat": "c8", "cuda.ComplexDouble": "c16",
}  # fmt: skip


@pytest.mark.parametrize("container", ["little zip", "big zip", "< legacy", "> legacy"])
@pytest.mark.parametrize("kind", DTYPES)
def test_dtypes(load, kind, container):
    values = np.array([0, 1, 2, 3, 4, 100], DTYPES[kind])
    state = ordered({"w": tensor(storage(kind), (2, 3), (3, 1))})
    order, form = container.split()
    if form == "zip":
        stored = values.astype(values.dtype.newbyteorder("<" if order == "little" else ">"))
        read = load(zipped(state, {"0": stored.tobytes()}, order.encode())).arrays["w"]
    else:  # always little-endian, but for the storage's length
        stored = values.astype(values.dtype.newbyteorder("<"))
        read = load(legacy(state, stored.tobytes(), order=order)).arrays["w"]
    assert read.dtype == values.dtype and read.dtype.isnative
    np.testing.assert_array_equal(read, values.reshape(2, 3))


@pytest.mark.parametrize("order", ["<", ">"])
def test_bfloat16_becomes_float32(load, order):
    halves = (np.array([1, -2.5, 3e38, 0, 1e-30, np.inf], "f4").view("u4") >> 16).astype("u2")
    state = {"w": tensor(storage("BFloat16"), (3, 2), (1, 3)), "scalar": tensor(
        storage("BFloat16"), (), (), 1)}  # fmt: skip
    content = {"0": halves.astype(f"{order}u2").tobytes()}
    read = load(zipped(state, content, b"little" if order == "<" else b"big")).arrays
    expected = (halves.astype("u4") << 16).view("f4").reshape(2, 3).T
    np.testing.assert_array_equal(read["w"], expected)
    assert read["w"].dtype == read["scalar"].dtype == np.float32 and read["scalar"] == -2.5


def test_bool_of_odd_bytes(load):
    read = load(zipped({"w": tensor(storage("Bool"))}, {"0": bytes([0, 1, 2, 255, 0, 1])}))
    np.testing.assert_array_equal(read.arrays["w"].view(np.uint8), [0, 1, 1, 1, 0, 1])


VIEWS = {  # shape, strides, offset: expected
    "whole": ((2, 3), (3, 1), 0, [[0, 1, 2], [3, 4, 5]]),
    "transposed": ((3, 2), (1, 3), 0, [[0, 3], [1, 4], [2, 5]]),
    "inner": ((2, 2), (3, 1), 1, [[1, 2], [4, 5]]),
    "expanded": ((2, 3), (1, 0), 4, [[4] * 3, [5] * 3]),
    "scalar": ((), (), 5, 5),
    "empty": ((0, 7), (7, 1), 3, np.zeros((0, 7))),
    "unused stride": ((1, 2), (2**62, 1), 4, [[4, 5]]),
}


@pytest.mark.parametrize("write", [zipped, legacy, compressed])
def test_views(load, write):
    state = {key: tensor(None, *view[:3]) for key, view in VIEWS.items()}
    state["parameter"] = call("torch._utils._rebuild_parameter", tensor(), True, {})
    state["old"] = call("torch._utils._rebuild_tensor", storage(), 0, (6,), (1,))
    inner = (storage("Float"), 0, (6,), (1,), False, {})
    function, kind = name("torch._utils._rebuild_tensor_v2"), name("my.Tensor")
    state["subclass"] = call("torch._tensor._rebuild_from_type_v2", function, kind, inner, {})
    read = load(write(ordered(state))).arrays
    assert list(read) == list(state)
    for key, view in VIEWS.items():
        np.testing.assert_array_equal(read[key], np.array(view[3], "f4"))
        assert read[key].dtype == np.float32
    for key in ("parameter", "old", "subclass"):
        np.testing.assert_array_equal(read[key], np.arange(6))
    assert np.shares_memory(read["whole"], read["transposed"])


def test_digest_and_archives_of_other_forms(load):
    for content in (zipped(weights(), root=""), zipped(weights(), None, None, "epoch=4 ä/")):
        read = load(content)
        assert list(read.arrays) == ["w"] and read.metadata == {}
        assert read.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "path",
    ["", "state_dict", "model", "model_state_dict", "model/state", "ema", "net", "ema/state_dict"],
)
def test_the_state_dict_is_found(load, path):
    value, expected = ordered({"module.w": tensor(), "steps": 7}), {"steps": 7}
    for key in reversed(path.split("/") if path else []):
        value, expected = {"epoch": 3, key: value}, {"epoch": 3, key: expected}
    read = load(zipped(value))
    assert list(read.arrays) == ["module.w"] and read.metadata == expected
    assert read.place == path.replace("/", ".") and not read.siblings


def test_further_state_dicts_are_siblings(load):
    """Single numbers are no state dict, nor is what an optimizer keeps."""
    states = {
        "ema_state_dict": ordered({"w": tensor(shape=(2,))}),
        "optimizer": {"state": {"w": tensor()}},
        "averaged": {"n_averaged": tensor(shape=(), strides=())},
        "model": {"state": ordered({"w": tensor(shape=(3,))}), "epoch": 3},
    }
    read = load(zipped({**states, "state_dict": ordered({"w": tensor()})}))
    assert read.place == "state_dict" and read.arrays["w"].shape == (6,)
    shapes = {place: state["w"].shape for place, state in read.siblings.items()}
    assert shapes == {"model.state": (3,), "ema_state_dict": (2,)}
    assert set(read.metadata) == set(states)


class Mode(enum.Enum):
    FAST = "fast"


def here(thing) -> str:
    return f"{__name__}.{thing.__name__}"


LOSS, DICT = "torch.nn.modules.loss.L1Loss", "lightning.AttributeDict"
RECONSTRUCT = np.zeros(0).__reduce__()[0]  # in numpy.core, or numpy._core from NumPy 2 on
VALUES = {  # opcodes: plain value, content of a placeholder
    "attributes": (Ops(new(DICT) + pairs({"a": [1, (2.5,)]})), {"a": [1, (2.5,)]}),
    "no attributes": (new(DICT), {}),
    "namespace": (build(new("argparse.Namespace"), {"lr": 0.5}), {"lr": 0.5}),
    "old namespace": (build(call("copy_reg._reconstructor", name("argparse.Namespace"),
        name("builtins.object"), None), {"lr": 0.5}), {"lr": 0.5}),
    "omegaconf": (build(new("omegaconf.DictConfig"), {"_parent": None, "_content": {"lr": build(
        new("omegaconf.AnyNode"), {"_metadata": None, "_val": 0.1})}}), {"lr": 0.1}),
    "class": (name(LOSS), Placeholder(LOSS)),
    "key": ({name(LOSS): 1}, {Placeholder(LOSS): 1}),
    "object": (build(new(LOSS), {"training": True}), Placeholder(LOSS), {"training": True}),
    "slots": (build(new("my.X"), (None, {"a": 1})), Placeholder("my.X"), (None, {"a": 1})),
    "arguments": (new("my.Pair", 1, 2), Placeholder("my.Pair"), [1, 2]),
    "enum": (push(Mode.FAST), Placeholder(here(Mode)), ["fast"]),
    "default": (Ops(call("collections.defaultdict", name("os.system")) + pairs({"a": 1})),
        {"a": 1}),
    "pairs": (call("collections.OrderedDict", [["a", 1], ["b", 2]]), {"a": 1, "b": 2}),
    "path": (call("pathlib.PosixPath", "/", "a"), Placeholder("pathlib.PosixPath"), ["/", "a"]),
    "set": (push({1, 2}), Placeholder("builtins.set"), [[1, 2]]),
    "nothing": (push(type(None)), Placeholder("builtins.type"), [None]),
    "queue": (Ops(call("collections.deque", []) + b"(K\x01K\x02e"),
        Placeholder("collections.deque"), [1, 2]),
    "cycle": (Ops(b"]q\x07h\x07a"), [Placeholder("<cycle>")]),
    "numpy": (push(np.float64(0.25)), 0.25),
    "numpy integer": (push(np.array([-3], ">i2")[0]), -3),
    "array": (push(np.zeros(3)), Placeholder(f"{RECONSTRUCT.__module__}._reconstruct")),
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
def test_values(load, kind):
    value, expected, *content = VALUES[kind]
    read = load(zipped(weights(x=value))).metadata["x"]
    assert type(read) is type(expected) and read == expected
    if content:
        assert read.content == content[0]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_protocol(load, protocol):
    shared = ["again"]
    value = {
        "numbers": [0, -1, 255, 70000, 2**40, -(2**70), 0.1, math.inf, True, False, None],
        "text": ["", "ä\n\\u", "x" * 300],
        "nested": {"a": ({"b": [[]]}, ()), (1, "x"): "tuple"},
        "bytes": b"\x00\xff",
        "shared": [shared, shared],
    }
    pickled = pickle.dumps(value, protocol)
    read = load(zipped(weights(x=Ops(pickled[2 * (protocol > 1) : -1])))).metadata["x"]
    assert read == value and read["shared"][0] is not read["shared"][1]


# === Attacks ===


class Bomb:
    """Writes a file as soon as an unpickler makes one."""

    def __new__(cls, path, *more, **keywords):
        pathlib.Path(path).write_text("new")
        return super().__new__(cls)


def fuse(path):
    pathlib.Path(path).write_text("called")


class LateBomb:
    def __setstate__(self, path):
        fuse(path)


class Plain:
    pass


SYSTEM = name("os.system")
HOOK = {"__setstate__": SYSTEM}
# Every payload writes a file in Python's own unpickler, but for the last eight. `path` is the file,
# `touch` a command that makes it. The second item is the call that the refusal names, None where
# an inert object results.
PAYLOADS = {
    "reduce": (lambda path, touch: call("os.system", touch), "os.system"),
    "reduce posix": (lambda path, touch: call("posix.system", touch), "posix.system"),
    "eval": (lambda path, touch: call("builtins.eval", f"open({path!r}, 'w')"), "builtins.eval"),
    "old eval": (lambda path, touch: call("__builtin__.eval", f"open({path!r}, 'w')"),
        "builtins.eval"),
    "stack global": (lambda path, touch: Ops(push("os") + push("system") + b"\x93" +
        push((touch,)) + b"R"), "os.system"),
    "inst": (lambda path, touch: Ops(b"(" + push(touch) + b"ios\nsystem\n"), "os.system"),
    "obj": (lambda path, touch: Ops(b"(" + SYSTEM + push(touch) + b"o"), "os.system"),
    "class by reduce": (lambda path, touch: call(here(Bomb), path), None),  # as an enum's member
    "class of more arguments": (lambda path, touch: call(here(Bomb), path, 1), here(Bomb)),
    "class by inst": (lambda path, touch: Ops(b"(" + push(path) +
        f"i{__name__}\nBomb\n".encode()), None),
    "function": (lambda path, touch: call(here(fuse), path), here(fuse)),
    "newobj": (lambda path, touch: new(here(Bomb), path), None),
    "newobj_ex": (lambda path, touch: Ops(name(here(Bomb)) + push((path,)) + push({"a": 1}) +
        b"\x92"), None),
    "newobj by function": (lambda path, touch: call("copyreg.__newobj__", name(here(Bomb)), path),
        None),
    "setstate of a class": (lambda path, touch: build(new(here(LateBomb)), path), None),
    "setstate by build": (lambda path, touch: build(build(new(here(Plain)), HOOK), touch),
        "os.system"),
    "setstate on OrderedDict": (lambda path, touch: build(build(call("collections.OrderedDict"),
        HOOK), touch), "os.system"),
    "setstate by slots": (lambda path, touch: build(build(new(here(Plain)), (None, HOOK)), touch),
        "os.system"),
    "partial": (lambda path, touch: Ops(call("functools.partial", SYSTEM) + push((touch,)) +
        b"R"), "functools.partial"),
    "dotted": (lambda path, touch: Ops(push("pathlib") + push("os.system") + b"\x93" +
        push((touch,)) + b"R"), "pathlib.os.system"),
    "getattr": (lambda path, touch: Ops(call("builtins.getattr", name("os.path"), "os") +
        push((touch,)) + b"R"), "builtins.getattr"),
    "system by newobj": (lambda path, touch: new("os.system", touch), "os.system"),
    "system by newobj_ex": (lambda path, touch: Ops(SYSTEM + push((touch,)) + push({}) + b"\x92"),
        "os.system"),
    "system by inst": (lambda path, touch: Ops(b"(ios\nsystem\n"), "os.system"),
    "system by __newobj__": (lambda path, touch: call("copyreg.__newobj__", SYSTEM, touch),
        "os.system"),
    "system by _reconstructor": (lambda path, touch: call("copyreg._reconstructor", SYSTEM,
        name("builtins.object"), None), "os.system"),
    "system by tensor": (lambda path, touch: call("torch._tensor._rebuild_from_type_v2", SYSTEM,
        None, (touch,), None), "os.system"),
}  # fmt: skip
PLACES = {
    "root": lambda payload: payload,
    "metadata": lambda payload: weights(x=payload),
    "deep": lambda payload: weights(x={"a": [({"b": [payload]},)]}),
    "state_dict": lambda payload: {"state_dict": {"w": payload}},
}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "ran"


@pytest.mark.parametrize("kind", list(PAYLOADS)[:-8])
def test_payloads_do_run_in_python(target, kind):
    pickle.loads(dump(PAYLOADS[kind][0](str(target), f"touch '{target}'")))
    assert target.exists()


@pytest.mark.parametrize("write", [zipped, legacy, dump])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", PAYLOADS)
def test_payloads_never_run(target, load, refuse, kind, place, write):
    payload, named = PAYLOADS[kind]
    content = write(PLACES[place](payload(str(target), f"touch '{target}'")))
    inert = named is None and place in ("metadata", "deep")
    if inert and write is not dump:
        assert load(content).arrays["w"].shape == (6,)
    else:
        sentence = refuse(content)
        if named:
            assert re.search(rf"\b{re.escape(named)}\)?; nothing was run", sentence)
    assert not target.exists()


@pytest.mark.parametrize("opcode", [b"\x82\x7b", b"\x83\x7b\x00", b"\x84\x7b\x00\x00\x00"])
def test_extension_codes_are_refused(refuse, target, opcode):
    """The unpickler returns a registered object that was used before without `find_class`."""
    copyreg.add_extension("os", "system", 0x7B)
    payload = Ops(opcode + push((f"touch '{target}'",)) + b"R")
    try:
        pickle.loads(dump(payload))
        assert target.exists()
        target.unlink()
        assert "EXT" in refuse(zipped(weights(x=payload)))
    finally:
        copyreg.remove_extension("os", "system", 0x7B)
    assert not target.exists()


TARGETS = [name("my.Class"), SYSTEM, name("collections.OrderedDict"), new("my.Class")]


@pytest.mark.parametrize("opcodes", [b"K\x01a", b"(K\x01e", b"K\x01K\x02s", b"\x8f0(K\x01\x90",
    push({"name": "x", "args": ()}) + b"b", push((None, {"name": "x"})) + b"b"])  # fmt: skip
@pytest.mark.parametrize("target_ops", TARGETS)
def test_globals_and_objects_cannot_be_changed(load, target_ops, opcodes):
    """State set on a name in one file does not show in the next one."""
    try:
        load(zipped(weights(x=Ops(target_ops + opcodes))))
    except CheckpointError:
        pass
    read = load(zipped(weights(x=name("my.Class"), y=new("my.Class")))).metadata
    assert read == {"x": Placeholder("my.Class"), "y": Placeholder("my.Class")}
    assert read["x"].content is read["y"].content is None


# === Absurd and broken pickles ===

LAUGHS = Ops(b"(K\x01l" + b"".join(b"q%c(" % i + b"h%c" % i * 10 + b"l" for i in range(40)))
DOWNWARD = Ops(  # every list is filled after its place in the one before
    b"".join(b"]q%c0" % i for i in range(40))
    + b"".join(b"h%c(" % i + b"h%c" % (i + 1) * 10 + b"e0" for i in range(39))
    + b"h\x00"
)
NESTED = b")" + b"\x85" * 200_000
SIGNS = [tuple(-1 - (i >> bit & 1) for bit in range(13)) for i in range(2**13)]  # one hash
BIG = [(2**61 - 1) * (2**70 + i) for i in range(5000)]  # hash 0
ABSURD = {
    "deep list": Ops(b"]" * 100_000 + b"a" * 99_999),
    "deep downward": Ops(b"]q\x00" + b"]q\x01a0h\x01" * 50_000 + b"0h\x00"),
    "deep tuple": Ops(NESTED),
    "deep tuple as key": Ops(b"}" + NESTED + b"K\x01s"),
    "deep tuple in a set": Ops(b"\x8f(" + NESTED + b"\x90"),
    "deep tuple in a frozenset": Ops(b"(" + NESTED + b"\x91"),
    "doubled tuple": Ops(b")" + b"2\x86" * 60),
    "doubled tuple as key": Ops(b"}" + b")" + b"2\x86" * 60 + b"K\x01s"),
    "one tuple as key, often": Ops(b"}" + b")" + b"2\x86" * 12 + b"q\x01K\x01s"
        + b"h\x01K\x01s" * 100_000),
    "billion laughs": LAUGHS,
    "billion laughs downward": DOWNWARD,
    "laughs in an object": build(new("my.Class"), LAUGHS),
    "copied list": Ops(b"((" + b"K\x01" * 9000 + b"lq\x07\x85q\x08"
        + (name("builtins.set") + b"h\x08R") * 300 + b"l"),
    "copied text": Ops(b"(" + push(("x" * 2**20, "latin1")) + b"q\x08"
        + (name("_codecs.encode") + b"h\x08R") * 300 + b"l"),
    "colliding integers": dict.fromkeys(BIG, 1),
    "colliding integers in pairs": call("collections.OrderedDict", [[key, 1] for key in BIG]),
    "colliding tuples": dict.fromkeys(SIGNS, 1),
    "colliding tuples in pairs": call("collections.OrderedDict", [[key, 1] for key in SIGNS]),
    "memo index": Ops(b"K\x01r\xff\xff\xff\xff"),
    "memo index as text": Ops(b"K\x01p99999999999999999999\n"),
    "huge integer": 2**100_000,
    "integer beyond floats": 2**1024,
    "long text integer": Ops(b"L" + b"9" * 100_000 + b"L\n"),
    "long global": name("a." + "b" * 100_000),
    "many globals": [name(f"a.b{i}") for i in range(11_000)],
    "announced bytes": Ops(b"\x8e" + struct.pack("<Q", 2**62) + b"x"),
    "announced text": Ops(b"\x8d" + struct.pack("<Q", 2**40) + b"x"),
    "announced negative": Ops(b"\x8b" + struct.pack("<i", -5)),
    "out-of-band buffer": Ops(b"\x97"),
    "millions of opcodes": Ops(b"N" + b"N0" * 600_000),
    "not hashable": Ops(b"}]K\x01s"),
}  # fmt: skip
BROKEN = [
    b"", b"N", b".", b"\xff.", b"R.", b"0.", b"t.", b"(.", b"h\x05.", b"2.", b"q\x01.", b"(q\x01.",
    b"Na.", b"]K\x01K\x02s.", b"}(K\x01u.", b"NK\x01\x85b.", b"K\x01K\x02\x93.", b"NN\x81.",
    b"cos\nsystem\nNR.", b"X\x01\x00\x00\x00\xff.", b"Fnonsense\n.", b"Inonsense\n.", b"S'\\x4\n.",
    b"(o.", b"\x8f}\x90.", b"P0\n.", b"K\x01q\xffK\x02p-1\n.",
]  # fmt: skip


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_pickles_are_refused_soon(refuse, kind):
    content = zipped(weights(x=ABSURD[kind]))
    started = time.monotonic()
    refuse(content)
    assert time.monotonic() - started < 120


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_pickles_are_refused(refuse, broken):
    refuse(zipped(bytearray(b"\x80\x02" + broken)))


VIEWS_OUTSIDE = [  # shape, strides, offset
    ((7,), (1,), 0), ((6,), (1,), 1), ((2, 3), (4, 1), 0), ((1,), (1,), 6),
    ((2,), (2**61,), 0), ((2,), (2**62,), 0), ((1,), (1,), 2**62), ((), (), 2**63 - 1),
    ((-1,), (1,), 0), ((6,), (-1,), 5), ((6,), (1,), -1), ((2**64,), (1,), 0), ((6,), (1, 1), 0),
    ((6.0,), (1,), 0), ((True,), (1,), 0), (6, 1, 0), ((2**40,), (0,), 0),
    ((2**20, 2**20), (0, 0), 0), ((0, 2**62), (1, 1), 0), ((1,) * 33, (1,) * 33, 0),
]  # fmt: skip


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("view", VIEWS_OUTSIDE)
def test_tensors_stay_inside_their_storage(refuse, view, write):
    refuse(write({"w": tensor(None, *view)}))


FLOAT = name("torch.FloatStorage")
STORAGES = [
    *(("storage",), ("file", "/etc/passwd"), ("storage", "torch.FloatStorage", "0", "cpu", 6)),
    *(("storage", FLOAT, 0, "cpu", 6), ("storage", FLOAT, "0", "cpu", -1)),
    *(("storage", FLOAT, "0", "cpu", "6"), ("storage", FLOAT, "0", "cpu", 6, "view")),
    *(("storage", FLOAT, "../data.pkl", "cpu", 6), ("storage", FLOAT, "1", "cpu", 6)),
    *(("storage", name("os.FloatStorage"), "0", "cpu", 6), ("storage", FLOAT, "0", "cpu", 60)),
]


@pytest.mark.parametrize("pid", STORAGES)
def test_strange_storages_are_refused(refuse, pid):
    refuse(zipped({"w": tensor(Ops(push(pid) + b"Q"))}))


# === Other files ===


def zip_with(names) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for entry in names:
            archive.writestr(entry, "x")
    return stream.getvalue()


def with_bytes(content: bytes, at: int, new: bytes, entry=b"archive/data/0") -> bytes:
    """Change what the archive's directory says of an entry."""
    at += content.rindex(entry) - 46
    return content[:at] + new + content[at + len(new) :]


def bomb(entry: str, size: int) -> bytes:
    """An archive with an entry that inflates a thousandfold."""
    stream = io.BytesIO(compressed(weights()))
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(entry, bytes(size))
    return stream.getvalue()


STATE = {"state_dict": ordered({"w": tensor()})}
ZIP, LEGACY = zipped(STATE), legacy(STATE)
SAFE = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
REFUSED = {
    "empty": (b"", "is empty"),
    "random": (random.Random(1).randbytes(5000), "is not a PyTorch checkpoint"),
    "text": (b"Weights are on the other server.\n", "is not a PyTorch checkpoint"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a PyTorch checkpoint"),
    "web page": (b"\n<!DOCTYPE html><html>", "web page"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid x\n", "`git lfs pull`"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "safetensors": (struct.pack("<Q", len(SAFE)) + SAFE + bytes(4), "safetensors file"),
    "other pickle": (dump({"w": 1}), "a Python pickle but not a PyTorch checkpoint"),
    "docx": (zip_with(["[Content_Types].xml", "word/document.xml"]), "no data.pkl"),
    "empty zip": (zip_with([]), "no data.pkl"),
    "truncated zip": (ZIP[:-30], "damaged or truncated"),
    "zip cut to its first bytes": (ZIP[:10], "damaged or truncated"),
    "truncated legacy": (LEGACY[:-1], "ends inside storage"),
    "legacy cut in the length": (LEGACY[:-28], "length of storage"),
    "legacy cut in the pickle": (LEGACY[:150], "damaged or truncated"),
    "legacy of the future": (dump(0x1950A86A20F9469CFC6C) + dump(1002), "unknown version"),
    "legacy of other keys": (LEGACY.replace(dump(["0"]), dump(["7"])), "storage 7"),
    "legacy with one key less": (LEGACY.replace(dump(["0"]), dump([])), "is missing"),
    "legacy without keys": (LEGACY.replace(dump(["0"]), dump(7)), "list of storages is missing"),
    "no storage": (zipped(STATE, {}), "is missing"),
    "no weights": (zipped({"epoch": 3, "state_dict": {}}), "no network weights"),
    "no dict": (zipped([tensor()]), "no network weights"),
    "whole module": (zipped(build(new("my.Net"), {"training": True})), "object (my.Net)"),
    "zip bomb": (bomb("archive/data/1", 2**26), "inflates"),
    "lying stored size": (with_bytes(ZIP, 24, struct.pack("<I", 2**31)), "inflates"),
    "entry larger than stored": (with_bytes(ZIP, 24, struct.pack("<I", 2**16)), "damaged"),
    "entry larger than declared": (with_bytes(compressed(STATE), 24, b"\x07"), "unpacked"),
    "encrypted": (with_bytes(ZIP, 8, b"\x01\x00"), "cannot be unpacked"),
    "unknown compression": (with_bytes(ZIP, 10, b"\x63\x00"), "cannot be unpacked"),
    "entry elsewhere": (with_bytes(ZIP, 42, b"\x05\x00\x00\x00"), "cannot be unpacked"),
    "changed weights": (ZIP.replace(SIX, bytes(24)), "cannot be unpacked"),
    "bad byte order": (zipped(weights(), None, b"middle"), "byte order"),
    "expanded": (zipped({f"w{i}": tensor(None, (2**26,), (0,)) for i in range(8)}), "far larger"),
    "quantized": (zipped({"w": call("torch._utils._rebuild_qtensor", 1)}), "kind (qtensor)"),
    "quantized storage": (zipped({"w": tensor(storage("QInt8"))}), "QInt8Storage"),
    "sparse": (zipped({"w": call("torch._utils._rebuild_sparse_tensor", 1)}), "sparse_tensor"),
    "conjugated": (zipped({"w": tensor(None, (6,), (1,), 0, {"conj": True})}), "conjugated"),
    "line break in a name": (zipped(Ops(b"\x8c\x02a\n\x8c\x02b\r\x93)R")), "a\\n.b\\r"),
    "bad tensor": (zipped({"w": call("torch._utils._rebuild_tensor_v2", 1)}), "arguments of"),
    "bad dict": (zipped({"w": call("collections.OrderedDict", [1])}), "arguments of"),
    "bad order": (zipped(build(call("numpy.dtype", "f8"), {"a": 1})), "arguments of numpy.dtype"),
    "unhashable": (zipped({"w": call("collections.OrderedDict", [[[], 1]])}), "used as a key"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_are_one_sentence(refuse, kind):
    content, expected = REFUSED[kind]
    assert expected in refuse(content)


def test_good_files_of_the_refusal_tests_are_good(load):
    for content in (ZIP, LEGACY, compressed(STATE)):
        assert list(load(content).arrays) == ["w"]


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, expected in [
        (tmp_path / "missing.ckpt", "does not exist"),
        (tmp_path / "missing" / "x.ckpt", "does not exist"),
        (pathlib.Path("a\0b"), "does not exist"),
        (tmp_path, "is a directory"),
        (tmp_path / "pipe", "is not a regular file"),
    ]:
        with pytest.raises(CheckpointError, match=expected):
            read_checkpoint(path)


# === Damaged and large files ===


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
@pytest.mark.parametrize("count", [150, pytest.param(6000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("write", [zipped, compressed, legacy])
def test_damaged_files_are_refused_or_read(tmp_path, write, count):
    values = {key: value for key, (value, *_) in VALUES.items() if key != "cycle"}
    content = write(weights(**values, b=tensor(None, (), ())))
    path = tmp_path / "fuzzed.ckpt"
    rng = random.Random(20201116)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(count):
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
        assert time.monotonic() - started < 60
    assert outcomes["refused"] > count / 20 and outcomes["read"] > 0


@pytest.mark.parametrize("write", [zipped, legacy])
def test_memory_stays_near_the_weights(tmp_path, write):
    numel = 5_000_000
    values = np.arange(numel, dtype="<f4")
    state = {"w": tensor(storage("Float", "0", numel), (numel,)), "tied": tensor(
        storage("Float", "0", numel), (numel // 5, 5), (5, 1))}  # fmt: skip
    content = {"0": values.tobytes()} if write is zipped else values.tobytes()
    arguments = () if write is zipped else (numel,)
    path = tmp_path / "large.ckpt"
    path.write_bytes(write(state, content, *arguments))
    del content
    tracemalloc.start()
    read = read_checkpoint(path).arrays
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(read["tied"].ravel(), values)
    assert peak < 1.2 * values.nbytes + 4e6


# === Golden files ===

FAMILIES = ["gpocm_lasaft", "gpocm_lightsaft", "gpocm_tdf", "gpocm", "film", "film_tdf",
    "film_lasaft"]  # fmt: skip
VARIANTS = ["attributedict_hparams.ckpt", "bare_state_dict.pt", "dataparallel.ckpt",
    "era_torch18_pl132_cuda.ckpt", "half.ckpt", "legacy_nonzip.ckpt"]  # fmt: skip


@pytest.mark.parametrize("size", ["a", "b"])
@pytest.mark.parametrize("family", FAMILIES)
def test_golden_families(family, size):
    read = read_checkpoint(golden(f"{family}_{size}.ckpt"))
    config = json.loads(str(np.load(golden(f"{family}_{size}.npz"))["config_json"]))
    hyper = read.metadata["hyper_parameters"]
    assert type(hyper) is dict and hyper["n_blocks"] == (5 if size == "a" else 7)
    assert {k: v for k, v in hyper.items() if k in config}.items() <= config.items()
    window = read.arrays["stft.stft.window"]
    expected = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(hyper["n_fft"]) / hyper["n_fft"])
    np.testing.assert_allclose(window, expected, atol=1e-6)
    assert all(np.isfinite(array).all() for array in read.arrays.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_variants_hold_the_same_weights(variant):
    plain = read_checkpoint(golden("gpocm_lasaft_a.ckpt"))
    other = read_checkpoint(golden(f"v_{variant}"))
    names = [re.sub("^module[.]", "", key) for key in other.arrays]
    assert set(names) == set(plain.arrays)
    for key, array in zip(names, other.arrays.values(), strict=True):
        expected = plain.arrays[key]
        if variant.startswith("half") and expected.dtype == np.float32:
            expected = expected.astype(np.float16)
        assert array.dtype == expected.dtype, key
        np.testing.assert_array_equal(array, expected, key)
    if not variant.startswith("bare"):
        assert other.metadata["hyper_parameters"] == plain.metadata["hyper_parameters"]


def test_golden_callbacks_are_keyed_by_class():
    read = read_checkpoint(golden("v_era_torch18_pl132_cuda.ckpt"))
    key = Placeholder("pytorch_lightning.callbacks.early_stopping.EarlyStopping")
    assert read.metadata["callbacks"][key]["patience"] == 300
    assert read.metadata["pytorch-lightning_version"] == "1.3.2"


@pytest.mark.parametrize("file", ["bad_lfs_pointer", "bad_truncated"])
def test_golden_bad_files(file):
    expected = "`git lfs pull`" if "lfs" in file else "damaged or truncated"
    with pytest.raises(CheckpointError, match=expected):
        read_checkpoint(golden(f"{file}.ckpt"))


# === PyTorch itself ===

SAVE = r"""
import random, sys
import numpy as np
import torch

def view(rng):
    numel = rng.randint(1, 60)
    offset = rng.randrange(numel)
    left, shape, strides = numel - 1 - offset, [], []
    for _ in range(rng.randint(0, 4)):
        stride = rng.randint(0, 8)
        shape.append(rng.randint(0, min(5, left // stride + 1 if stride else 5)))
        strides.append(stride)
        left -= max(shape[-1] - 1, 0) * stride
    dtype = getattr(torch, rng.choice(sys.argv[2].split()))
    pool = (torch.randint(-100, 100, (numel,)).double() / 8).to(dtype)
    return torch.as_strided(pool, shape, strides, offset), torch.as_strided(pool, (1,), (1,), 0)

for number in range(60):
    rng = random.Random(number)
    state = {f"{i}.{k}": v for i in range(6) for k, v in enumerate(view(rng))}
    torch.save({"state_dict": state, "epoch": number, "hyper_parameters": {"x": [number / 7]}},
        f"{sys.argv[1]}/{number}.ckpt", pickle_protocol=rng.randint(2, 5),
        _use_new_zipfile_serialization=number % 2 == 0)
    arrays = {k: (v.float() if v.dtype == torch.bfloat16 else v).numpy() for k, v in state.items()}
    np.savez(f"{sys.argv[1]}/{number}.npz", **arrays)
"""


@pytest.mark.torch
def test_round_trip_with_torch(tmp_path):
    python = os.environ.get("TORCH_PYTHON")
    if not python:
        pytest.skip("TORCH_PYTHON does not name an interpreter with PyTorch")
    dtypes = "float16 bfloat16 float32 float64 uint8 int8 int16 int32 int64 bool complex64"
    subprocess.run([python, "-c", SAVE, tmp_path, dtypes], check=True)
    for number in range(60):
        read = read_checkpoint(tmp_path / f"{number}.ckpt")
        with np.load(tmp_path / f"{number}.npz") as expected:
            assert list(read.arrays) == expected.files
            for key, array in read.arrays.items():
                assert array.dtype == expected[key].dtype, (number, key)
                np.testing.assert_array_equal(array, expected[key], f"{number} {key}")
        assert read.metadata == {"epoch": number, "hyper_parameters": {"x": [number / 7]}}
