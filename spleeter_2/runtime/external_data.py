"""Let an ONNX file refer to the tensors in the checkpoint beside it, so that they are stored once.

A TensorFlow checkpoint's data file holds each tensor as raw little-endian numbers, which is what
ONNX calls external data. Kernels have another order of axes there, so a transposition follows,
which a runtime computes once, when it loads the file.
"""

from __future__ import annotations

import itertools
import mmap
from pathlib import Path

import numpy as np

from spleeter_2.config.loading import CHECKPOINT

DATA = f"{CHECKPOINT}.data-00000-of-00001"
SMALLEST = 1024  # elements; smaller tensors stay in the file
HWIO = (2, 3, 1, 0)  # TensorFlow's order of the axes of an ONNX kernel
PROBE = 256  # bytes that are searched first


def refer_to_checkpoint(graph, folder: Path) -> None:
    """Replace the large tensors of a graph that the checkpoint of a folder holds, in place.

    Args:
        graph: ``onnx.ModelProto``; it must be written into the same folder.
    """
    from onnx import helper, numpy_helper

    nodes = []
    with (
        open(folder / DATA, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        for tensor in graph.graph.initializer:
            values = numpy_helper.to_array(tensor)
            place = _find(data, values) if values.size >= SMALLEST else None
            if place is None:
                continue
            offset, axes = place
            name, kind = tensor.name, tensor.data_type
            stored = [values.shape[axis] for axis in axes]
            tensor.Clear()
            tensor.name, tensor.data_type, tensor.data_location = f"{name}_stored", kind, 1
            tensor.dims.extend(stored)
            facts = {"location": DATA, "offset": offset, "length": values.nbytes}
            for key, value in facts.items():
                tensor.external_data.add(key=key, value=str(value))
            back = [int(axis) for axis in np.argsort(axes)]
            nodes.append(helper.make_node("Transpose", [f"{name}_stored"], [name], perm=back))
    prepend(graph, nodes)


def prepend(graph, nodes: list) -> None:
    """Put nodes in front of those of an ``onnx.ModelProto``, which use their results."""
    rest = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes, *rest])


def _find(data: mmap.mmap, values: np.ndarray) -> tuple[int, tuple[int, ...]] | None:
    """Offset of a tensor in the data, and the order of axes in which it is stored."""
    orders = list(itertools.permutations(range(values.ndim)))
    orders.sort(key=lambda axes: axes != HWIO)
    for axes in orders:
        wanted = np.ascontiguousarray(values.transpose(axes)).tobytes()
        offset = data.find(wanted[:PROBE])
        while offset >= 0:
            if data[offset : offset + len(wanted)] == wanted:
                return offset, axes
            offset = data.find(wanted[:PROBE], offset + 1)
    return None
