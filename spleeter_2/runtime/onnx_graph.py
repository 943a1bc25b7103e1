"""ONNX graphs of TensorFlow functions, whose variables are inputs without values.

Imports TensorFlow, as ``export``, which alone uses it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import instrument_loop
from .references import input_name

OPSET = 17
MIN_HALVED = 1024  # elements from which a tensor is stored in 16 bits where it loses nothing


@dataclass(frozen=True)
class Traced:
    """The graph of a function from tensors to a dictionary of tensors.

    Attributes:
        graph: GraphDef without variables and captured tensors: all are constants, or placeholders
            without values.
        inputs: signature of the function.
        outputs: names of the outputs in the graph, by their keys, sorted.
        variables: names of the variables, by the names of these constants or placeholders.
        has_values: they are constants.
    """

    graph: Any
    inputs: list
    outputs: Mapping[str, str]
    variables: Mapping[str, str]
    has_values: bool = True

    def tensors(self) -> dict[str, Any]:
        """``TensorProto`` of each variable's value, by ``input_name``; it may have a shape only."""
        return {
            input_name(self.variables[node.name]): _tensor_of(node)
            for node in self.graph.node
            if node.name in self.variables
        }

    def function(self, with_variables: bool = False) -> Callable:
        """tf.function of the graph.

        Args:
            with_variables: the variables are further arguments, named by ``input_name``.
        """
        import tensorflow as tf

        names = {spec.name: spec.name for spec in self.inputs}
        signature = list(self.inputs)
        if with_variables:
            names |= {f"{node}:0": input_name(name) for node, name in self.variables.items()}
            signature += [
                tf.TensorSpec(tf.TensorShape(tensor.tensor_shape), tf.float32, name=name)
                for name, tensor in self.tensors().items()
            ]

        @tf.function(input_signature=signature, autograph=False)
        def function(*arguments):
            given = {spec.name: value for spec, value in zip(signature, arguments, strict=True)}
            inputs = {node: given[name] for node, name in names.items()}
            found = tf.graph_util.import_graph_def(
                self.graph, inputs, [*self.outputs.values()], name=""
            )
            return dict(zip(self.outputs, found, strict=True))

        return function


def _tensor_of(node):
    """``TensorProto`` of a constant, or of a placeholder, without values."""
    if node.op != "Placeholder":
        return node.attr["value"].tensor
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    return TensorProto(dtype=node.attr["dtype"].type, tensor_shape=node.attr["shape"].shape)


def trace(function: Callable, signature: list, with_values: bool = True) -> Traced:
    """Graph of a function.

    Args:
        signature: its arguments, which have names.
        with_values: keep the values of the variables, which may not fit into memory again.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2_as_graph,
    )

    with tf.device("CPU"):
        concrete = tf.function(function, signature, autograph=False).get_concrete_function()
        names = {id(variable.handle): variable.name for variable in concrete.graph.variables}
        variables = {
            inner.op.name: names[id(handle)].removesuffix(":0")
            for handle, inner in concrete.graph.captures
            if id(handle) in names
        }
        if with_values:
            constant, graph = convert_variables_to_constants_v2_as_graph(concrete)
            results = constant.outputs
        else:
            graph = _with_placeholders(concrete, variables)
            results = concrete.outputs
    for node in graph.node:  # gradients defined in Python, which a SavedModel would refer to
        node.attr.pop("_gradient_op_type", None)
        node.device = ""  # a SavedModel's user chooses
    keys = sorted(concrete.structured_outputs)  # the order of a dictionary's values
    outputs = dict(zip(keys, (output.name for output in results), strict=True))
    return Traced(graph, list(signature), outputs, variables, with_values)


def _with_placeholders(concrete, variables: Mapping[str, str]) -> Any:
    """GraphDef of a concrete function whose variables are placeholders of their values.

    Args:
        variables: names of the variables, by the names of the nodes of their handles.
    """
    graph = concrete.graph.as_graph_def()
    handles = {node.name: node for node in graph.node if node.name in variables}
    for node in graph.node:
        if node.op == "ReadVariableOp" and (handle := handles.get(node.input[0])):
            value = concrete.graph.get_tensor_by_name(f"{node.name}:0")
            dtype = node.attr["dtype"].type
            handle.attr.clear()
            handle.attr["dtype"].type = dtype
            handle.attr["shape"].shape.CopyFrom(value.shape.as_proto())
            node.op = "Identity"
            node.attr.clear()
            node.attr["T"].type = dtype
    for node in graph.node:  # results wait for the reads; nothing else has an effect
        data = [name for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(data)
    return graph


@dataclass(frozen=True)
class Graph:
    """An ONNX model that lacks the values of its variables.

    Attributes:
        model: ``onnx.ModelProto``.
        variables: names of the variables.
        tensors: TensorFlow's ``TensorProto`` of their values, by ``input_name``; those of a graph
            that was built without values have shapes only.
    """

    model: Any
    variables: tuple[str, ...]
    tensors: Mapping[str, Any]

    def complete(self) -> Any:
        """The model with the values of its variables; the graph's own model is changed."""
        import tensorflow as tf

        return self.completed_by((name, tf.make_ndarray(x)) for name, x in self.tensors.items())

    def completed_by(self, values: Iterable[tuple[str, np.ndarray]]) -> Any:
        """The model with values by ``input_name``; the graph's own model is changed."""
        from onnx import numpy_helper

        for name, value in values:
            if name in self.tensors:
                self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        _store_in_half(self.model)
        return self.model


def build_graph(
    function: Callable,
    signature: list,
    shape: tuple[int, ...],
    choose: bool,
    with_values: bool = True,
) -> Graph:
    """ONNX model of a function from planes to ``{target: planes}``.

    Args:
        shape: of the planes, ``(1, T, F, 2C)``.
        choose: give a conditioned network an optional input of the instruments to compute
            (``instrument_loop``), about which ONNX Runtime logs a warning.
        with_values: see ``trace``; always for a conditioned network.
    """
    from spleeter_2.models.inference import PerInstrument

    if isinstance(function, PerInstrument):
        parts = _parts(function, signature)
        shared, own = map(_to_onnx, parts)
        model = instrument_loop.join(shared, own, function.targets, shape, choose)
    else:
        parts = [trace(function, signature, with_values)]
        model = _to_onnx(*parts)
    tensors = {name: tensor for part in parts for name, tensor in part.tensors().items()}
    variables = {name for part in parts for name in part.variables.values()}
    for item in [item for item in model.graph.input if item.name in tensors]:
        model.graph.input.remove(item)
    _store_in_half(model)
    return Graph(model, tuple(sorted(variables)), tensors)


def _to_onnx(traced: Traced):
    """``onnx.ModelProto`` of a graph, whose variables are inputs."""
    # else tf2onnx copies the graph before each of its optimizers, for the case that it fails
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    if not traced.has_values:
        return _to_onnx_directly(traced)
    function = traced.function(with_variables=True)
    model, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=OPSET)
    return model


def _to_onnx_directly(traced: Traced):
    """``_to_onnx`` without TensorFlow's optimizer, which would allocate each input, some twice."""
    import tensorflow as tf
    import tf2onnx
    from tf2onnx.tf_loader import clear_functions

    inputs = {f"{node}:0": input_name(name) for node, name in traced.variables.items()}
    inputs |= {f"{spec.name}:0": spec.name for spec in traced.inputs}
    outputs = {tensor: key for key, tensor in traced.outputs.items()}
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(traced.graph, name="")
        converted = tf2onnx.tfonnx.process_tf_graph(
            graph,
            opset=OPSET,
            input_names=[*inputs],
            output_names=[*outputs],
            tensors_to_rename=inputs | outputs,
        )
    clear_functions()  # which are kept until the next conversion
    return tf2onnx.optimizer.optimize_graph(converted, catch_errors=False).make_model("network")


def _parts(network, signature: list) -> tuple[Traced, Traced]:
    """The two parts of a network that computes one instrument at a time."""
    import tensorflow as tf

    name = instrument_loop.SHARED.format

    def shared(planes):
        return {name(number): x for number, x in enumerate(network.shared(planes))}

    def own(planes, index, *tensors):
        return {instrument_loop.ESTIMATE: network.own(planes, index, list(tensors))}

    with tf.device("CPU"):
        found = tf.function(shared, signature, autograph=False).get_concrete_function()
    shapes = [found.structured_outputs[name(i)].shape for i in range(len(found.outputs))]
    tensors = [tf.TensorSpec(shape, tf.float32, name=name(i)) for i, shape in enumerate(shapes)]
    index = tf.TensorSpec((), tf.int64, name=instrument_loop.INDEX)
    return trace(shared, signature), trace(own, [*signature, index, *tensors])


def _store_in_half(model) -> None:
    """Store tensors of 16-bit values in 16 bits, with a cast behind; a runtime folds the cast."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < MIN_HALVED or not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
