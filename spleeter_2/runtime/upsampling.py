"""Transposed convolutions as convolutions, which ONNX Runtime computes several times as fast.

With stride 2, each of the 2 x 2 phases of the result is a convolution of the input with every
second tap of the kernel, at most 3 x 3 of 5 x 5. All four are channels of one convolution, and
DepthToSpace lays them out. ONNX Runtime's own transposed convolution multiplies matrices and adds
up overlapping columns.
"""

from __future__ import annotations

import numpy as np

KERNEL, STRIDE, PAD = [5, 5], [2, 2], [1, 1]  # of Spleeter's decoder; pad before the first sample


def convolve_instead(graph) -> None:
    """Replace the transposed convolutions of a graph that have Spleeter's sizes, in place.

    The new kernels are computed from the old ones by nodes of the graph, once, when a runtime
    loads it: the old ones may be stored in another file.

    Args:
        graph: ``onnx.ModelProto``, channels first.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    nodes = []
    for node in graph.graph.node:
        if node.op_type == "ConvTranspose" and node.input[1] in shapes and _fits(node):
            nodes += _convolution(node, shapes[node.input[1]], graph.graph.initializer)
        else:
            nodes.append(node)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for tensor in [tensor for tensor in graph.graph.initializer if tensor.name not in used]:
        graph.graph.initializer.remove(tensor)


def _fits(node) -> bool:
    from onnx import helper

    options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    padded = options.get("auto_pad") == b"SAME_UPPER" or list(options.get("pads", []))[:2] == PAD
    sizes = list(options.get("kernel_shape", [])), list(options.get("strides", []))
    return padded and sizes == (KERNEL, STRIDE) and options.get("group", 1) == 1


def _convolution(node, shape: tuple[int, ...], initializers) -> list:
    """Nodes with the inputs and the output of a transposed convolution.

    Args:
        shape: of its kernel, ``[Cin, Cout, 5, 5]``.
    """
    from onnx import helper, numpy_helper

    name = f"{node.output[0]}_phases"

    def constant(suffix: str, *values: int) -> str:
        array = np.array(values, np.int64)
        initializers.append(numpy_helper.from_array(array, f"{name}_{suffix}"))
        return f"{name}_{suffix}"

    source, kernel, *bias = node.input
    channels, filters = shape[:2]
    ends = constant("starts", 2, 2), constant("ends", -4, -4)
    # Tap k adds input sample i to output sample 2 i + k - 1. With a zero in front, tap 2 u + r
    # belongs to phase r, and its input sample lies 1 - u after that of the output.
    steps = [
        ("Pad", (constant("pads", 0, 0, 1, 1, 0, 0, 0, 0),), {}),
        ("Reshape", (constant("split", channels, filters, 3, 2, 3, 2),), {}),
        ("Slice", (*ends, constant("axes", 2, 4), constant("reversed", -1, -1)), {}),
        ("Transpose", (), {"perm": [1, 3, 5, 0, 2, 4]}),  # [Cout, r, r, Cin, u, u]
        ("Reshape", (constant("joined", 4 * filters, channels, 3, 3),), {}),
    ]
    nodes, value = [], kernel
    for number, (kind, inputs, options) in enumerate(steps):
        result = f"{name}_{number}"
        nodes.append(helper.make_node(kind, [value, *inputs], [result], **options))
        value = result
    parameters = [value, *(_repeated(tensor, name, initializers) for tensor in bias)]
    sizes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    sums = f"{name}_sums"
    nodes.append(helper.make_node("Conv", [source, *parameters], [sums], node.name, **sizes))
    layout = {"blocksize": 2, "mode": "CRD"}
    nodes.append(helper.make_node("DepthToSpace", [sums], [node.output[0]], **layout))
    return nodes


def _repeated(bias: str, name: str, initializers) -> str:
    """Name of a bias ``[4 Cout]`` in place of ``[Cout]``."""
    from onnx import numpy_helper

    (values,) = [numpy_helper.to_array(t) for t in initializers if t.name == bias]
    initializers.append(numpy_helper.from_array(np.repeat(values, 4), f"{name}_bias"))
    return f"{name}_bias"
