"""Let an exported graph refer to the tensors of a checkpoint, so that weights are stored once.

An exported graph has the variables of the network as inputs of its nodes, without their values. A
checkpoint's data file holds each tensor as raw little-endian numbers, which is what ONNX calls
external data. ``references`` describes where; put in front of the graph's own bytes it completes
the model, since a protocol buffer that is parsed in pieces is merged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from spleeter_2.weights.bundle import Entry, Index, encode_field
from spleeter_2.weights.checkpoint import Checkpoint

# numbers of fields in onnx.proto
MODEL_GRAPH, MODEL_METADATA = 7, 14
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_TYPE, NODE_ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TYPE = 1, 3, 20
TENSOR_SIDE, TENSOR_TYPE, TENSOR_NAME, TENSOR_EXTERNAL, TENSOR_LOCATION = 1, 2, 8, 13, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2
FLOAT, HALF = 1, 10  # types of tensors
INT = 2  # type of an attribute
EXTERNAL = 1  # location of a tensor


def input_name(variable: str) -> str:
    """Name of a variable in an exported graph."""
    return variable.replace("/", "__")


def references(checkpoint: Checkpoint, variables: Mapping[str, str]) -> bytes:
    """The part of an ONNX model that refers to the tensors of a checkpoint.

    Paths are relative to the folder of its data files (``Index.folder``).

    Tensors of 16-bit floats are followed by a cast, which a runtime computes when it loads the
    model.

    Args:
        variables: names in the graph, of ``input_name``, by the names of our variables.

    Raises:
        KeyError: the checkpoint lacks a variable.
    """
    nodes, tensors = b"", b""
    for variable, name in variables.items():
        entry = checkpoint.index.entries[variable]
        is_half = entry.dtype == np.float16
        stored = f"{name}_half" if is_half else name
        if is_half:
            nodes += encode_field(GRAPH_NODE, _cast(stored, name))
        tensors += encode_field(GRAPH_INITIALIZER, _tensor(stored, entry, checkpoint.index))
    return encode_field(MODEL_GRAPH, nodes + tensors)


def metadata(facts: Mapping[str, str]) -> bytes:
    """The part of an ONNX model with entries of its metadata."""
    return b"".join(encode_field(MODEL_METADATA, _pair(key, facts[key])) for key in facts)


def _tensor(name: str, entry: Entry, index: Index) -> bytes:
    place = {
        "location": os.path.relpath(index.shards[entry.shard], index.folder).replace(os.sep, "/"),
        "offset": str(entry.offset),
        "length": str(entry.size),
    }
    return b"".join(
        [
            *(encode_field(TENSOR_SIDE, side, always=True) for side in entry.shape),
            encode_field(TENSOR_TYPE, HALF if entry.dtype == np.float16 else FLOAT),
            encode_field(TENSOR_NAME, name.encode()),
            *(encode_field(TENSOR_EXTERNAL, _pair(*pair)) for pair in place.items()),
            encode_field(TENSOR_LOCATION, EXTERNAL),
        ]
    )


def _cast(source: str, result: str) -> bytes:
    to = encode_field(ATTRIBUTE_NAME, b"to") + encode_field(ATTRIBUTE_INT, FLOAT)
    to += encode_field(ATTRIBUTE_TYPE, INT)
    ends = encode_field(NODE_INPUT, source.encode()) + encode_field(NODE_OUTPUT, result.encode())
    return ends + encode_field(NODE_TYPE, b"Cast") + encode_field(NODE_ATTRIBUTE, to)


def _pair(key: str, value: str) -> bytes:
    return encode_field(ENTRY_KEY, key.encode()) + encode_field(ENTRY_VALUE, value.encode())
