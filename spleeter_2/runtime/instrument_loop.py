"""ONNX graph of a network that computes one instrument at a time: a loop over those wanted.

ONNX Runtime computes a whole graph, whichever outputs are fetched. With the part of each instrument
once in the graph, in a ``Loop``, the file is smaller and only the wanted instruments take time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import model_file

ESTIMATE, INDEX, SHARED = "estimate", "index", "loop_shared_{}"  # in the parts


def join(shared, own, targets: Sequence[str], shape: Sequence[int], choose: bool):
    """Join the two parts of a network.

    Args:
        shared: ``onnx.ModelProto`` from the mixture to tensors named ``SHARED``; it is changed.
        own: ``onnx.ModelProto`` from the mixture, ``INDEX`` and those tensors to ``ESTIMATE``.
        targets: names of the outputs.
        shape: of the input and of each output, planes ``(1, T, F, 2C)``.
        choose: add an optional input, ``model_file.INSTRUMENTS``: indices int64 ``[K]`` of the
            targets to compute (default: all). Outputs of the other targets are zero.

    Returns:
        ``shared``.
    """
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, values) -> None:
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))

    graph = shared.graph
    body = _body(own)
    graph.initializer.extend(body.initializer)  # visible in the loop, and all weights in one place
    del body.initializer[:]
    constant(model_file.INSTRUMENTS, range(len(targets)))
    constant("loop/last_axis", [1])
    constant("loop/all_shape", [len(targets), *shape])
    nodes = [
        helper.make_node("Size", [model_file.INSTRUMENTS], ["loop/count"]),
        helper.make_node(
            "Loop", ["loop/count", ""], ["loop/estimates"], body=body
        ),  # [K, 1, T, F, 2C]
        helper.make_node("ConstantOfShape", ["loop/all_shape"], ["loop/zeros"]),
        helper.make_node("Unsqueeze", [model_file.INSTRUMENTS, "loop/last_axis"], ["loop/places"]),
        helper.make_node(
            "ScatterND", ["loop/zeros", "loop/places", "loop/estimates"], ["loop/all"]
        ),
    ]
    for index, target in enumerate(targets):
        constant(f"loop/index_{index}", index)
        nodes.append(helper.make_node("Gather", ["loop/all", f"loop/index_{index}"], [target]))
    graph.node.extend(nodes)
    if choose:  # an initializer that is an input too is its default
        graph.input.append(
            helper.make_tensor_value_info(model_file.INSTRUMENTS, TensorProto.INT64, ["K"])
        )
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(target, TensorProto.FLOAT, shape) for target in targets
    )
    return shared


def _body(own):
    """Graph of an iteration: its number, true -> true, the instrument's planes."""
    from onnx import TensorProto, compose, helper

    prefix = "own/"  # names must be unique in the graph and its bodies together
    graph = compose.add_prefix_graph(own.graph, prefix)
    given = {x.name for x in own.graph.input} - {INDEX}  # of the graph around the loop
    outer = {f"{prefix}{name}": name for name in given}
    for node in graph.node:
        node.input[:] = [outer.get(name, name) for name in node.input]
    number, proceed = f"{prefix}iteration", f"{prefix}proceed"
    first = helper.make_node("Gather", [model_file.INSTRUMENTS, number], [f"{prefix}{INDEX}"])
    last = helper.make_node("Identity", [proceed], [f"{proceed}_too"])
    return helper.make_graph(
        [first, *graph.node, last],
        "instrument",
        [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(proceed, TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info(f"{proceed}_too", TensorProto.BOOL, []), *graph.output],
        graph.initializer,
    )
