"""Bundles against TensorFlow's own reader and writer, and damaged ones."""

import os
import random
import struct
import time
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spleeter_2.config.loading import load_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.weights import table
from spleeter_2.weights.bundle import (
    Entry,
    latest_checkpoint,
    read_bundle,
    read_index,
    write_bundle,
)
from spleeter_2.weights.crc32c import masked_crc32c

DATA = ".data-00000-of-00001"
TYPES = "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ? c8 c16".split()


def some(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(len(shape)).integers(0, 100, shape)
    return (values * (1 - 2j if kind.startswith("c") else 1)).astype(kind)


def save(prefix, arrays: dict) -> None:
    """TensorFlow's own writer, which keeps the order of the names."""
    arrays = {name: arrays[name] for name in sorted(arrays, key=str.encode)}
    tf.raw_ops.SaveV2(
        prefix=os.fspath(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=[tf.constant(array) for array in arrays.values()],
    )


def check_parity(prefix) -> None:
    """Compare with TensorFlow's reader, whose checksums of data are verified."""
    reader = tf.train.load_checkpoint(os.fspath(prefix))
    read = read_bundle(prefix, verify=True)
    index = read_index(prefix)
    assert list(index.entries) == sorted(reader.get_variable_to_shape_map(), key=str.encode)
    assert sorted([*read, *index.ignored]) == sorted(index.entries)
    for name, array in read.items():
        expected = reader.get_tensor(name)
        if expected.dtype == tf.bfloat16.as_numpy_dtype:
            expected = expected.astype(np.float32)
        assert array.dtype == expected.dtype == index.entries[name].dtype
        assert array.flags.c_contiguous and array.flags.aligned and array.flags.writeable
        np.testing.assert_array_equal(array, expected, strict=True)


def check_same_files(one, other) -> None:
    for suffix in (DATA, ".index"):
        with open(f"{one}{suffix}", "rb") as first, open(f"{other}{suffix}", "rb") as second:
            assert first.read() == second.read(), suffix


# === TensorFlow itself ===

ARRAYS = {
    **{f"{kind}/{len(shape)}": some(kind, shape) for kind in TYPES for shape in ((), (3,), (2, 3))},
    "empty": np.zeros((0, 3), np.float32),
    "grüße/kernel": np.zeros(5, np.float32),
    "a": np.float32(np.nan),
    "a/b": np.array([np.inf, -0.0], np.float16),
    "large": np.random.default_rng(0).standard_normal((100, 1000)).astype(np.float32),
}


def test_every_type_and_shape(tmp_path):
    save(tmp_path / "theirs", ARRAYS)
    check_parity(tmp_path / "theirs")
    write_bundle(ARRAYS, tmp_path / "ours")
    check_parity(tmp_path / "ours")
    check_same_files(tmp_path / "ours", tmp_path / "theirs")


def test_index_of_several_blocks(tmp_path):
    arrays = {f"{'layer' * (i % 40)}_{i}/kernel": np.float32(i) for i in range(4000)}
    arrays["ÿ" * 1000] = np.float32(0)
    save(tmp_path / "theirs", arrays)
    write_bundle(arrays, tmp_path / "ours")
    assert (tmp_path / "ours.index").stat().st_size > 2 * table.BLOCK / 4
    check_same_files(tmp_path / "ours", tmp_path / "theirs")
    assert read_bundle(tmp_path / "theirs") == arrays


def test_bfloat16_is_read_as_float32(tmp_path):
    values = tf.cast([1.0, -2.5, 3e38, np.inf, np.nan, 1e-40], tf.bfloat16)
    save(tmp_path / "x", {"w": values, "scalar": values[0]})
    check_parity(tmp_path / "x")
    assert read_bundle(tmp_path / "x")["w"][1] == -2.5
    assert read_bundle(tmp_path / "x")["scalar"] == 1


def test_object_based_checkpoint(tmp_path):
    model = tf.train.Checkpoint(
        net=tf.train.Checkpoint(w=tf.Variable([[1.0, 2.0]]), steps=tf.Variable(3)),
        words=tf.Variable(["a", "bc"]),
    )
    prefix = model.save(os.fspath(tmp_path / "model"))
    check_parity(prefix)
    assert latest_checkpoint(tmp_path) == prefix == tf.train.latest_checkpoint(str(tmp_path))
    value = "/.ATTRIBUTES/VARIABLE_VALUE"
    assert list(read_bundle(prefix)) == [
        f"net/steps{value}",
        f"net/w{value}",
        f"save_counter{value}",
    ]
    assert read_index(prefix).ignored == ["_CHECKPOINTABLE_OBJECT_GRAPH", f"words{value}"]


def v1_checkpoint(folder, sharded=False, partitioner=None) -> str:
    """Written as TensorFlow 1 and Spleeter's Estimator do, on one or two devices."""
    v1 = tf.compat.v1
    config = v1.ConfigProto(device_count={"CPU": 2})
    with tf.Graph().as_default(), v1.Session(config=config) as session:
        for number in range(4):
            with tf.device(f"/cpu:{number % 2}"):
                v1.get_variable(f"conv2d_{number}/kernel", (4, number + 1), partitioner=partitioner)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(sharded=sharded)
        return saver.save(session, os.fspath(folder / "model.ckpt"), global_step=7)


@pytest.mark.parametrize("sharded", [False, True])
def test_checkpoint_of_tensorflow_1(tmp_path, sharded):
    prefix = v1_checkpoint(tmp_path, sharded)
    assert latest_checkpoint(tmp_path) == prefix
    files = {f"{prefix}.data-{i:05d}-of-{1 + sharded:05d}" for i in range(1 + sharded)}
    assert set(read_index(prefix).shards.values()) == files
    assert all(os.path.getsize(file) for file in files)
    check_parity(prefix)
    if sharded:
        os.remove(max(files))
        with pytest.raises(SeparationError, match="00001-of-00002: there is no such file"):
            read_index(prefix)


def test_partitioned_variables_are_refused(tmp_path):
    partitioner = tf.compat.v1.fixed_size_partitioner(2)
    prefix = v1_checkpoint(tmp_path, partitioner=partitioner)
    assert tf.train.load_checkpoint(prefix).get_tensor("conv2d_0/kernel").shape == (4, 1)
    with pytest.raises(SeparationError, match="conv2d_0/kernel is partitioned: save it in one"):
        read_bundle(prefix)


@pytest.mark.parametrize("name", ["grouped", "mask"])
def test_shipped_weights(tmp_path, name):
    prefix = load_configuration(f"spleeter_2:{name}").weights / "checkpoint"
    check_parity(prefix)
    write_bundle(read_bundle(prefix), tmp_path / "again")
    check_same_files(tmp_path / "again", prefix)


# === What the functions offer ===


def test_some_of_the_tensors(tmp_path):
    write_bundle(ARRAYS, tmp_path / "x")
    assert list(read_bundle(tmp_path / "x", ["large", "a", "large"])) == ["large", "a"]
    assert read_bundle(tmp_path / "x", []) == {}
    with pytest.raises(SeparationError, match=f"the weights in {tmp_path} lack b"):
        read_bundle(tmp_path / "x", ["a", "b"])
    entry = read_index(tmp_path / "x").entries["f4/2"]
    assert (entry.dtype, entry.shape, entry.shard, entry.size) == (np.float32, (2, 3), 0, 24)


def test_no_tensors(tmp_path):
    write_bundle({}, tmp_path / "x")
    assert read_bundle(tmp_path / "x") == {}


def test_other_orders_are_written_as_tensorflows(tmp_path):
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    write_bundle({"t": array.T, "b": array, "s": array[:, ::2]}, tmp_path / "x")
    check_parity(tmp_path / "x")
    np.testing.assert_array_equal(read_bundle(tmp_path / "x")["t"], array.T)


@pytest.mark.parametrize("values", [{"x": np.array(["a"])}, {"": np.zeros(1)}, {"x": None}])
def test_what_cannot_be_written(tmp_path, values):
    with pytest.raises(ValueError):
        write_bundle(values, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [
    'model_checkpoint_path: "model"',
    "  model_checkpoint_path :'model'\r\n",
    'all_model_checkpoint_paths: "x"\nmodel_checkpoint_path: "x"\nmodel_checkpoint_path: "model"\n',
    'model_checkpoint_path: "FOLDER/model"\nlast_preserved_timestamp: 1.5\n',
    'model_checkpoint_path: "sub/../gr\\303\\274\\"n"',
    'model_checkpoint_path: "sub/../grü\\"n"',
    'model_checkpoint_path: "../x/model"',
])  # fmt: skip
def test_latest_checkpoint(tmp_path, text):
    folder = tmp_path / "x"
    (folder / "sub").mkdir(parents=True)
    for name in ("model", 'grü"n'):
        write_bundle({}, folder / name)
    (folder / "checkpoint").write_text(text.replace("FOLDER", str(folder)), newline="")
    assert latest_checkpoint(folder) == tf.train.latest_checkpoint(str(folder))


@pytest.mark.parametrize(("text", "expected"), [
    (None, "the file checkpoint is missing"),
    ("", "names none"),
    ("rubbish", "names none"),
    ('model_checkpoint_path: "\\777\\u1234"', "names none"),
    ('model_checkpoint_path: "\\377"', "names none"),
    ('model_checkpoint_path: ""', "names none"),
    ('model_checkpoint_path: "a\\000b"', "names none"),
    ('model_checkpoint_path: "gone"', "it names 'gone', which has no file .index"),
    ('model_checkpoint_path: "/elsewhere/model"', "it names '/elsewhere/model', which"),
])  # fmt: skip
def test_no_latest_checkpoint(tmp_path, text, expected):
    if text is not None:
        (tmp_path / "checkpoint").write_text(text)
    with pytest.raises(SeparationError) as raised:
        latest_checkpoint(tmp_path)
    message = str(raised.value)
    assert message.startswith(f"there is no TensorFlow checkpoint in {tmp_path}: ")
    assert expected in message and "\n" not in message


# === Damaged and hostile files ===


def refusal(prefix, **options) -> str:
    with pytest.raises(SeparationError) as raised:
        read_bundle(prefix, **options)
    return check_sentence(raised.value, prefix)


def check_sentence(error: SeparationError, prefix) -> str:
    message = str(error)
    assert message.isprintable() and str(prefix.parent) in message
    return message


@pytest.fixture
def small(tmp_path):
    write_bundle({"a": np.arange(4.0), "a/b": np.float32(1), "c": some("?", (3,))}, tmp_path / "x")
    return tmp_path / "x"


def test_index_cut_at_any_length(small):
    path = small.with_suffix(".index")
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        refusal(small)


def test_every_bit_of_the_index(small):
    """Beside the padding of the footer and the unused block of metadata, none may change."""
    path = small.with_suffix(".index")
    content = path.read_bytes()
    expected = read_bundle(small)
    unnoticed = 0
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            read = read_bundle(small)
        except SeparationError as error:
            check_sentence(error, small)
        else:
            unnoticed += 1
            assert all((read[name] == array).all() for name, array in expected.items())
    metadata, footer = 8 + table.TRAILER, table.FOOTER - len(table.MAGIC)
    assert unnoticed < 8 * (metadata + footer)


def test_data_cut_at_any_length(small):
    path = small.parent / f"x{DATA}"
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert f"has {size} bytes instead of at least" in refusal(small)


def test_changed_data_is_found_by_its_checksum(small):
    path = small.parent / f"x{DATA}"
    content = bytearray(path.read_bytes())
    content[33] ^= 1  # of a/b
    path.write_bytes(content)
    assert read_bundle(small)["a/b"] != 1
    assert f"x{DATA}: the checksum of a/b differs" in refusal(small, verify=True)


def test_bools_are_zero_or_one(small):
    path = small.parent / f"x{DATA}"
    content = path.read_bytes()
    path.write_bytes(content[:-3] + b"\0\2\xff")
    assert read_bundle(small)["c"].view(np.uint8).tolist() == [0, 1, 1]


def test_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.index")
    (tmp_path / "folder.index").mkdir()
    for name in ("missing", "pipe", "folder", "a\0b"):
        with pytest.raises(SeparationError):
            read_bundle(tmp_path / name)


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return bytes([number << 3 | 2]) + table.encode_varint(len(value)) + value
    return bytes([number << 3]) + table.encode_varint(value)


def message(number=1, sides=(2,), shard=0, offset=0, size=8, more=b"") -> bytes:
    shape = b"".join(field(2, field(1, side)) for side in sides)
    places = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, number) + field(2, shape) + places + more


HEADER = field(1, 1) + field(3, field(1, 1))


def craft(prefix, entries: dict, header: bytes | None = HEADER, data: bytes = bytes(16)) -> None:
    pairs = entries if header is None else {b"": header, **entries}
    prefix.with_suffix(".index").write_bytes(table.write_table(pairs))
    (prefix.parent / f"{prefix.name}{DATA}").write_bytes(data)


NEGATIVE = 2**64 - 1  # -1 as a varint


@pytest.mark.parametrize(("entries", "options", "expected"), [
    ({}, {"header": None}, "its header is missing"),
    ({}, {"header": b""}, "its header is damaged"),
    ({}, {"header": field(1, 100000)}, "its header is damaged"),
    ({}, {"header": field(1, NEGATIVE)}, "its header is damaged"),
    ({}, {"header": field(1, b"1")}, "an entry is damaged"),
    ({}, {"header": HEADER + field(2, 1)}, "written on a big-endian machine"),
    ({}, {"header": HEADER + field(3, field(2, 2))}, "a newer version of TensorFlow is needed"),
    ({b"w": b""}, {}, "the entry of w contradicts itself"),
    ({b"w": b"\xff"}, {}, "cut off or too large"),
    ({b"w": b"\x0f"}, {}, "an entry is damaged"),
    ({b"w": message(more=b"\x7a\x05ab")}, {}, "an entry is damaged"),
    ({b"w": message(more=b"\x35\x01")}, {}, "an entry is damaged"),
    ({b"w": message(size=4)}, {}, "the entry of w contradicts itself"),
    ({b"w\n\xc3\xbf": message(size=4)}, {}, r"the entry of w\n\xff contradicts itself"),
    ({b"w\xff": message()}, {}, "a name is not UTF-8"),
    ({b"w": message(shard=1)}, {}, "the entry of w contradicts itself"),
    ({b"w": message(offset=12)}, {}, "has 16 bytes instead of at least 20"),
    ({b"w": message(offset=NEGATIVE)}, {}, "has 16 bytes instead of at least 184467"),
    ({b"w": message(sides=[NEGATIVE])}, {}, "the entry of w contradicts itself"),
    ({b"w": message(sides=[2**40], size=2**42)}, {}, "has 16 bytes instead of at least 4398"),
    ({b"w": message(sides=[0, 2**62], size=0)}, {}, "w has more elements than NumPy"),
    ({b"w": message(sides=[2**62] * 10**5)}, {}, "a tensor has more than 32 axes"),
    ({b"w": message(more=field(2, field(3, 1)))}, {}, "a tensor has no shape"),
    ({b"w": message(more=field(7, b""))}, {}, "w is partitioned"),
    ({b"v": message(), b"w": message(), b"x": message()}, {}, "tensors overlap"),
    ({b"w" * 5000: message()}, {}, "a name has more than 4096 bytes"),
])  # fmt: skip
def test_entries_that_are_refused(tmp_path, entries, options, expected):
    craft(tmp_path / "x", entries, **options)
    assert expected in refusal(tmp_path / "x")


def test_types_that_are_no_arrays_are_ignored(tmp_path):
    entries = {b"f8": message(24, size=2), b"w": message(), b"z": message(99, size=3)}
    craft(tmp_path / "x", entries)
    assert list(read_bundle(tmp_path / "x")) == ["w"]
    index = read_index(tmp_path / "x")
    assert index.ignored == ["f8", "z"]
    assert index.entries["w"] == Entry(np.dtype("f4"), (2,), 0, 0, 8, 0, 1)


def signed(content: bytes | bytearray) -> bytes:
    """The index with right checksums of its blocks, as far as they lie within it."""
    changed = bytearray(content)
    at = len(content) - table.FOOTER
    handles = []
    for _ in range(2):
        handle, at = table._handle(content, at)
        handles.append(handle)
    for offset, size in [(0, handles[0][0] - table.TRAILER), *handles]:
        end = offset + size
        changed[end + 1 : end + 5] = struct.pack(
            "<I", masked_crc32c(bytes(changed[offset : end + 1]))
        )
    return bytes(changed)


def test_compressed_blocks_are_refused(small):
    path = small.with_suffix(".index")
    content = bytearray(path.read_bytes())
    assert signed(content) == content
    (metadata, _), _ = table._handle(content, len(content) - table.FOOTER)
    for kind, expected in ((1, "compressed with Snappy"), (7, "the unknown compression 7")):
        content[metadata - table.TRAILER] = kind
        path.write_bytes(signed(content))
        assert expected in refusal(small)


@pytest.mark.parametrize("count", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_indexes_with_right_checksums(small, count):
    """Of an index whose blocks are changed, so that the checksums hide nothing."""
    path = small.with_suffix(".index")
    content = path.read_bytes()
    rng = random.Random(20201116)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 5])):
            at = rng.randrange(len(content) - table.FOOTER)
            changed[at] = rng.choice(
                [rng.randrange(256), 0, 255, changed[at] ^ 1 << rng.randrange(8)]
            )
        path.write_bytes(signed(changed))
        outcomes[outcome(small)] += 1
    assert outcomes["refused"] > count / 20 and outcomes["read"] > count / 20


def outcome(prefix) -> str:
    """Read a bundle; return "read" or "refused" within seconds and with little memory."""
    started = time.monotonic()
    try:
        read = read_bundle(prefix, verify=False)
    except SeparationError as error:
        check_sentence(error, prefix)
        return "refused"
    finally:
        assert time.monotonic() - started < 60
    assert sum(array.nbytes for array in read.values()) < 1000
    return "read"


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.binary(max_size=9), st.binary(max_size=40), max_size=4), st.binary())
def test_any_messages(tmp_path, entries, header):
    craft(tmp_path / "x", entries, header)
    outcome(tmp_path / "x")


def framed(block: bytes, index: bytes) -> bytes:
    """A table of one block, with right checksums and the right footer."""
    content = b"".join(
        part + b"\0" + struct.pack("<I", masked_crc32c(part + b"\0")) for part in (block, index)
    )
    places = (0, 0, len(block) + table.TRAILER, len(index))
    return content + b"".join(map(table.encode_varint, places)).ljust(40, b"\0") + table.MAGIC


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200), st.binary(max_size=60) | st.none())
def test_any_blocks(tmp_path, block, index):
    if index is None:
        place = b"\0" + table.encode_varint(len(block))
        index = table._encode_block({b"w": place}, 1)
    (tmp_path / "x.index").write_bytes(framed(block, index))
    outcome(tmp_path / "x")


def test_names_that_need_far_more_memory_than_their_file(tmp_path):
    """Each name is the one before and one byte more."""
    value = message(7, size=0)
    block = b"".join(
        table.encode_varint(size) + bytes([1, len(value), 119 if size else 97 + row]) + value
        for row in range(10)
        for size in range(4096)
    ) + struct.pack("<2I", 0, 1)
    place = b"\0" + table.encode_varint(len(block))
    content = framed(block, table._encode_block({b"z": place}, 1))
    (tmp_path / "x.index").write_bytes(content)
    assert len(content) < 1e6
    tracemalloc.start()
    said = refusal(tmp_path / "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "its names have more than" in said and peak < 1.2e8


def test_blocks_that_are_listed_many_times(tmp_path):
    block = struct.pack("<I", 0) * 10**5 + struct.pack("<I", 10**5)  # no entries
    place = b"\0" + table.encode_varint(len(block))
    index = table._encode_block({b"%06d" % i: place for i in range(10**5)}, 1)
    (tmp_path / "x.index").write_bytes(framed(block, index))
    assert "its blocks overlap" in refusal(tmp_path / "x")


def test_index_of_another_kind_of_file(tmp_path):
    with open(tmp_path / "x.index", "wb") as file:
        file.truncate(1 << 34)  # sparse
    tracemalloc.start()
    assert "it has more than" in refusal(tmp_path / "x")
    assert tracemalloc.get_traced_memory()[1] < 1e8
    tracemalloc.stop()
