"""Models at rest: made for separating, not for learning."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from .conditioning import PerBlock
from .cunet import Parting
from .frequency import Attention
from .layers import plain

Network = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def at_rest(model: tf.keras.Model) -> Network:
    """A model for inference: what does not depend on the music is computed now, not per window.

    Gates and attention depend on the weights and on the instruments that the model was built
    for; some layers rearrange their kernels (``freeze``). Weights that are assigned later no
    longer reach any of them.

    Args:
        model: what ``build_model`` returned, with its weights.

    Returns:
        Function from complex64 ``[B, T, F, C]`` to ``{target: complex64 [B, T, F, C]}``.
    """
    for layer in model.layers:
        if hasattr(layer, "freeze"):
            layer.freeze()
    fixed = [
        tensor
        for layer in model.layers
        if isinstance(layer, (PerBlock, Attention))
        for tensor in tf.nest.flatten(layer.output)
    ]
    if not fixed:
        return functools.partial(model, training=False)
    nothing = tf.zeros((1, 1, *model.input_shape[2:]), model.input.dtype)  # as good as any music
    values = tf.keras.Model(model.input, fixed)(nothing, training=False)
    values = dict(zip(map(id, fixed), values, strict=True))
    for layer in model.layers:
        if isinstance(layer, Parting):
            return _one_by_one(model, tf.nest.flatten(layer.output), fixed, values)
    body = tf.keras.Model([model.input, *fixed], model.output)
    return lambda mixture: body([mixture, *values.values()], training=False)


def _one_by_one(
    model: tf.keras.Model,
    parting: list[tf.Tensor],
    fixed: list[tf.Tensor],
    values: dict[int, tf.Tensor],
) -> Network:
    """A model of several instruments that computes what they share, then each on its own.

    All of them side by side would take several times the memory and would not fit into caches.

    Args:
        model: of instruments that part somewhere.
        parting: its tensors there, ``[I or 1, ...]``.
        fixed: tensors ``[I, ...]`` that do not depend on the music.
        values: what they are, by the id of the tensor.
    """
    planes = model.get_layer("last_conv").output
    early = _needed(parting, fixed)
    late = _needed([planes], [*parting, *fixed])
    shared = tf.keras.Model([model.input, *early], parting)
    own = tf.keras.Model(late, planes)
    estimates = tf.keras.Model([model.input, planes], model.output)

    @plain
    def network(mixture: tf.Tensor) -> dict[str, tf.Tensor]:
        parted = shared([mixture, *(values[id(tensor)] for tensor in early)], training=False)
        known = {**values, **dict(zip(map(id, parting), tf.nest.flatten(parted), strict=True))}
        inputs = [known[id(tensor)] for tensor in late]

        def planes_of(instrument: tf.Tensor) -> tf.Tensor:
            own_inputs = [x if x.shape[0] == 1 else x[instrument, tf.newaxis] for x in inputs]
            return own(own_inputs, training=False)[0]

        instruments = tf.range(planes.shape[0])
        each = tf.map_fn(
            planes_of, instruments, parallel_iterations=1, fn_output_signature=planes.dtype
        )
        return estimates([mixture, each], training=False)

    return network


def _needed(outputs: list[tf.Tensor], given: list[tf.Tensor]) -> list[tf.Tensor]:
    """Those of the given tensors that a model's outputs are computed from, directly."""
    stops = {id(tensor) for tensor in given}
    waiting, seen = list(outputs), set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            if id(tensor) not in stops:
                waiting.extend(tf.nest.flatten(tensor.node.keras_inputs))
    return [tensor for tensor in given if id(tensor) in seen]
