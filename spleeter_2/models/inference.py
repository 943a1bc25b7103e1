"""Inference-only versions of trained models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from msgspec.structs import replace

from spleeter_2.config.loading import WINDOW
from spleeter_2.config.networks import UNet
from spleeter_2.config.schema import Configuration
from spleeter_2.weights.checkpoint import read_checkpoint

from . import build_model
from .conditioning import SplitPerBlock
from .cunet import InstrumentSplit
from .frequency import Attention
from .layers import PLANES, FromPlanes, ToPlanes, no_autograph
from .variables import assign

# from planes of the mixture [B, T, F, 2C] to {target: planes [B, T, F, 2C]}
EstimateFunction = Callable[[tf.Tensor], dict[str, tf.Tensor]]


@dataclass(frozen=True)
class InferenceModel:
    """A trained model, ready for inference.

    Attributes:
        function: planes ``[B, T, F, 2C]`` -> ``{target: planes [B, T, F, 2C]}``.
        targets: the estimated targets.
        input_shape: ``(F, 2C)``.
        window: STFT window ``[frame_length]``, or None for the Hann window.
    """

    function: EstimateFunction
    targets: tuple[str, ...]
    input_shape: tuple[int, int]
    window: np.ndarray | None


def load_for_inference(
    configuration: Configuration, instruments: Iterable[str] | None = None
) -> InferenceModel:
    """Build the network of a configuration with its weights, for inference.

    Args:
        instruments: instruments to separate (default: all).

    Raises:
        SeparationError: no weights, or weights that do not fit; an unknown instrument.
    """
    folder = configuration.weights
    arrays = read_checkpoint(folder, configuration.targets, verify=True)
    model = build_model(without_neutral_parts(configuration, arrays), instruments)
    assign(model, arrays, folder)
    return InferenceModel(
        inference_function(model),
        configuration.targets_needed(instruments),
        tuple(model.get_layer(PLANES).output_shape[2:]),
        arrays.get(WINDOW),
    )


def on_spectrograms(function: EstimateFunction) -> EstimateFunction:
    """The same function from complex64 ``[B, T, F, C]`` to ``{target: complex64 [B, T, F, C]}``."""
    to_planes, from_planes = ToPlanes(), FromPlanes()
    return lambda mixture: {
        name: from_planes(estimate) for name, estimate in function(to_planes(mixture)).items()
    }


def without_neutral_parts(
    configuration: Configuration, arrays: Mapping[str, np.ndarray]
) -> Configuration:
    """Remove the parts of a U-Net that are no-ops, which saves time.

    A frequency transformation whose last kernel is zero adds nothing, and a regression whose last
    kernel is zero returns the masked mixture. A part whose last kernel is missing or has another
    shape is kept, so that ``assign`` raises an error.

    Args:
        arrays: the weights by name.
    """
    model = configuration.model
    if not isinstance(model, UNet):
        return configuration

    def neutral(part: str, shape: tuple[int, ...]) -> bool:
        names = [f"{target}_{part}_project" for target in configuration.targets]
        return all(
            f"{name}/kernel" in arrays
            and arrays[f"{name}/kernel"].shape == shape
            and not arrays[f"{name}/kernel"].any()
            and not arrays[f"{name}/bias"].any()
            for name in names
        )

    frequency = tuple(
        block
        for block in model.frequency
        if block.linear
        or not neutral(
            f"frequency_{block.level}", block.last_kernel(model.filters[block.level - 1])
        )
    )
    regression = (1, 1, model.head.width, 16 * configuration.nb_channels)
    masked = model.head.type == "regression" and neutral("regression", regression)
    head = replace(model.head, type="mask") if masked else model.head
    return replace(configuration, model=replace(model, frequency=frequency, head=head))


def inference_function(model: tf.keras.Model) -> EstimateFunction:
    """Inference-only version of a model.

    Modulations and attention depend on the weights and the instruments, not on the music: they are
    computed once, here. Some layers rearrange their kernels (``freeze``). Weights assigned to the
    model afterwards have no effect.

    Args:
        model: a model of ``build_model`` with its weights.

    Returns:
        Function from planes ``[B, T, F, 2C]`` to ``{target: planes [B, T, F, 2C]}``: real-valued,
        so that every runtime can compute it.
    """
    for layer in model.layers:
        if hasattr(layer, "freeze"):
            layer.freeze()
    fixed = [
        tensor
        for layer in model.layers
        if isinstance(layer, (SplitPerBlock, Attention))
        for tensor in tf.nest.flatten(layer.output)
    ]
    planes = model.get_layer(PLANES).output
    estimates = {name: model.get_layer(f"{name}_spectrogram").input for name in model.output}
    network = tf.keras.Model(planes, estimates)
    if not fixed:
        return functools.partial(network, training=False)
    silence = tf.zeros((1, 1, *planes.shape[2:]))
    values = tf.keras.Model(planes, fixed)(silence, training=False)
    values = dict(zip(map(id, fixed), values, strict=True))
    for layer in model.layers:
        if isinstance(layer, InstrumentSplit):
            split = tf.nest.flatten(layer.output)
            heads = {name: model.get_layer(f"{name}_estimate") for name in estimates}
            last = model.get_layer("last_conv").output
            return _per_instrument(planes, split, last, heads, fixed, values)
    body = tf.keras.Model([planes, *fixed], estimates)
    return lambda mixture: body([mixture, *values.values()], training=False)


def _per_instrument(
    planes: tf.Tensor,
    split: list[tf.Tensor],
    last: tf.Tensor,
    heads: dict[str, tf.keras.layers.Layer],
    fixed: list[tf.Tensor],
    values: dict[int, tf.Tensor],
) -> EstimateFunction:
    """Function that computes the shared part once, then one instrument at a time.

    All instruments at once would take several times the memory and exceed the CPU's caches.

    Args:
        planes: of the mixture, the network's input.
        split: tensors of the ``InstrumentSplit``, ``[I or 1, ...]``.
        last: ``[I, ...]``, all that the heads depend on apart from the mixture.
        heads: layer of each target, in the order of the instruments.
        fixed: tensors ``[I, ...]`` that do not depend on the mixture.
        values: values of ``fixed``, by the id of the tensor.
    """
    early = _direct_inputs(split, fixed)
    late = _direct_inputs([last], [*split, *fixed])
    shared = tf.keras.Model([planes, *early], split)
    own = tf.keras.Model(late, last)

    @no_autograph
    def function(mixture: tf.Tensor) -> dict[str, tf.Tensor]:
        common = shared([mixture, *(values[id(tensor)] for tensor in early)], training=False)
        known = {**values, **dict(zip(map(id, split), tf.nest.flatten(common), strict=True))}
        inputs = [known[id(tensor)] for tensor in late]
        estimates = {}
        for index, (name, head) in enumerate(heads.items()):
            mine = [x if x.shape[0] == 1 else tf.gather(x, [index]) for x in inputs]
            estimates[name] = head([mixture, own(mine, training=False)])
        return estimates

    return function


def _direct_inputs(outputs: list[tf.Tensor], given: list[tf.Tensor]) -> list[tf.Tensor]:
    """The ``given`` tensors that ``outputs`` depend on directly, not through another of them."""
    stops = {id(tensor) for tensor in given}
    pending, seen = list(outputs), set()
    while pending:
        tensor = pending.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            if id(tensor) not in stops:
                pending.extend(tf.nest.flatten(tensor.node.keras_inputs))
    return [tensor for tensor in given if id(tensor) in seen]
