"""Structure of an ONNX file of other origin, read without the package onnx and before it is loaded.

ONNX Runtime checks operators and shapes when it loads a file; this module finds what would lead out
of the file: operators of other domains, other files, and loops that may not end.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spleeter_2.errors import SeparationError
from spleeter_2.files import reason_of
from spleeter_2.weights.bundle import VARINT, fields
from spleeter_2.weights.table import Damaged, varint

LARGEST = 1 << 31  # bytes of a protocol buffer
LEAST_OPSET = 7  # of ONNX Runtime
DOMAINS = ("", "ai.onnx")  # of ONNX's own operators
EXTERNAL = 1  # location of a tensor
# numbers of fields in onnx.proto
MODEL_GRAPH, MODEL_OPSET, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 8, 20, 25
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
NODE_OUTPUT, NODE_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 2, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_TENSOR, ATTRIBUTE_INTS, ATTRIBUTE_TENSORS = 1, 5, 8, 10
ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = (6, 11), (22, 23)
TENSOR_SIDE, TENSOR_NAME, TENSOR_EXTERNAL, TENSOR_LOCATION = 1, 8, 13, 14
SPARSE_TENSORS = (1, 2)
ENTRY_KEY, ENTRY_VALUE = 1, 2


@dataclass
class OnnxFile:
    """Facts about an ONNX file.

    Attributes:
        path: the file.
        opset: version of ONNX's operators.
        operators: number of nodes by operator.
        tensors: shape of each stored tensor by its name.
        others: files in the same folder that hold tensors, sorted.
        stride: product of the strides of all convolutions along their first axis.
    """

    path: Path
    opset: int = 0
    operators: Counter = field(default_factory=Counter)
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    stride: int = 1

    @property
    def nb_parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(map(math.prod, self.tensors.values()))


def read_onnx_file(path: Path) -> OnnxFile:
    """Read the structure of an ONNX file.

    Raises:
        SeparationError: it is damaged, too large or no ONNX file; it has an operator that is not
            ONNX's, a function or a loop; tensors are in a file that is missing or elsewhere.
    """
    try:
        if path.stat().st_size >= LARGEST:
            raise SeparationError(f"{path} has 2 GB or more: it is no ONNX file")
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise SeparationError(f"cannot read {path}: {reason_of(error)}") from error
    found = OnnxFile(path)
    try:
        _read_model(found, content)
    except (Damaged, UnicodeDecodeError, TypeError) as error:  # TypeError: another kind of field
        raise SeparationError(f"{path} is damaged, or no ONNX file") from error
    if not found.operators:
        raise SeparationError(f"{path} is no ONNX file: it has no operators")
    if found.opset < LEAST_OPSET:
        raise SeparationError(
            f"{path} uses version {found.opset} of ONNX's operators, older than {LEAST_OPSET}: "
            "export it anew"
        )
    found.others = sorted({*found.others})
    for location in found.others:
        _check_location(path, location)
    return found


def _read_model(found: OnnxFile, content: memoryview) -> None:
    graphs = []
    for number, _, value in fields(content):
        if number == MODEL_GRAPH:
            graphs.append(value)
        elif number == MODEL_OPSET:
            entry = dict((number, value) for number, _, value in fields(value))
            if _text(entry.get(OPSET_DOMAIN, b"")) in DOMAINS:
                found.opset = int(entry.get(OPSET_VERSION, 0))
        elif number in (MODEL_FUNCTIONS, MODEL_TRAINING):
            raise SeparationError(f"{found.path} defines operators of its own: export it without")
    # parts of a message that occurs several times are merged
    for number, _, value in fields(graphs[0] if len(graphs) == 1 else b"".join(graphs)):
        if number == GRAPH_NODE:
            _read_node(found, value)
        elif number == GRAPH_INITIALIZER:
            _read_tensor(found, value)
        elif number == GRAPH_SPARSE:
            _read_sparse(found, value)


def _read_node(found: OnnxFile, node: memoryview) -> None:
    kind, domain, output, attributes = "", "", "", []
    for number, _, value in fields(node):
        if number == NODE_TYPE:
            kind = _text(value)
        elif number == NODE_DOMAIN:
            domain = _text(value)
        elif number == NODE_OUTPUT:
            output = output or _text(value)
        elif number == NODE_ATTRIBUTE:
            attributes.append(value)
    if domain not in DOMAINS:
        raise SeparationError(
            f"{found.path} has the operator {kind[:50]!r} of {domain[:50]!r}: only ONNX's own are "
            "run"
        )
    found.operators[kind] += 1
    for attribute in attributes:
        name, strides = _read_attribute(found, attribute, kind, output)
        if kind == "Conv" and name == "strides" and strides:
            found.stride *= strides[0]


def _read_attribute(
    found: OnnxFile, attribute: memoryview, kind: str, output: str
) -> tuple[str, list[int]]:
    """Name and whole numbers of an attribute, whose tensors are read."""
    name, numbers = "", []
    for number, wire, value in fields(attribute):
        if number == ATTRIBUTE_NAME:
            name = _text(value)
        elif number == ATTRIBUTE_INTS:
            numbers += _integers(wire, value)
        elif number in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
            _read_tensor(found, value, output)
        elif number in ATTRIBUTE_SPARSE:
            _read_sparse(found, value)
        elif number in ATTRIBUTE_GRAPHS:
            raise SeparationError(
                f"{found.path} has the operator {kind[:50]!r} with a graph of its own, which may "
                "not end: export it without"
            )
    return name, numbers


def _read_sparse(found: OnnxFile, tensor: memoryview) -> None:
    for number, _, value in fields(tensor):
        if number in SPARSE_TENSORS:
            _read_tensor(found, value)


def _read_tensor(found: OnnxFile, tensor: memoryview, name: str = "") -> None:
    shape, location, is_external = [], "", False
    for number, wire, value in fields(tensor):
        if number == TENSOR_SIDE:
            shape += _integers(wire, value)
        elif number == TENSOR_NAME:
            name = _text(value) or name
        elif number == TENSOR_LOCATION:
            is_external = is_external or value == EXTERNAL
        elif number == TENSOR_EXTERNAL:
            entry = dict((number, value) for number, _, value in fields(value))
            is_external = True
            if _text(entry.get(ENTRY_KEY, b"")) == "location":
                location = _text(entry.get(ENTRY_VALUE, b""))
                found.others.append(location)
    if is_external and not location:
        raise SeparationError(f"{found.path} is damaged: {name[:50]!r} is in a file without name")
    found.tensors[name] = tuple(shape)


def _check_location(path: Path, location: str) -> None:
    """Raise SeparationError unless a file with tensors is beside the ONNX file itself."""
    if location in ("", ".", "..") or os.path.basename(location) != location or "\0" in location:
        raise SeparationError(
            f"{path} takes tensors from {location[:100]!r}, which is not in its folder: pack them "
            "into one file"
        )
    other = path.parent / location
    # ONNX Runtime follows no link out of the folder
    if other.is_symlink() or not other.is_file():
        raise SeparationError(f"{path} takes tensors from {location[:100]!r}, which is not there")


def _integers(wire: int, value: int | memoryview) -> Iterator[int]:
    """Whole numbers of a repeated field, one by one or packed."""
    if wire == VARINT:
        yield value
        return
    at = 0
    while at < len(value):
        number, at = varint(value, at)
        yield number


def _text(value: bytes | memoryview) -> str:
    if isinstance(value, int):
        raise Damaged("a number in place of a text")
    return bytes(value).decode()
