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
from spleeter_2.weights.checkpoint import open_checkpoint

from . import build_model
from .conditioning import SplitPerBlock
from .frequency import Attention
from .layers import PLANES, FromPlanes, ToPlanes, no_autograph
from .variables import assign, assign_checkpoint, unset_variables

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
    configuration: Configuration,
    instruments: Iterable[str] | None = None,
    band_only: bool = False,
) -> InferenceModel:
    """Build the network of a configuration with its weights, for inference.

    Args:
        instruments: instruments to separate (default: all).
        band_only: see ``build_model``.

    Raises:
        SeparationError: no weights, or weights that do not fit; an unknown instrument.
    """
    folder = configuration.weights
    checkpoint = open_checkpoint(folder, configuration.targets)
    if isinstance(configuration.model, UNet):
        arrays = checkpoint.read(verify=True)
        with unset_variables():
            needed = without_neutral_parts(configuration, arrays)
            model = build_model(needed, instruments, band_only)
        assign(model, arrays, folder)
        window = arrays.get(WINDOW)
    else:
        with unset_variables():
            model = build_model(configuration, instruments, band_only)
        window = assign_checkpoint(model, checkpoint, folder)
    return InferenceModel(
        inference_function(model),
        configuration.targets_needed(instruments),
        tuple(model.get_layer(PLANES).output_shape[2:]),
        window,
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
    if not fixed:
        return functools.partial(tf.keras.Model(planes, estimates), training=False)
    silence = tf.zeros((1, 1, *planes.shape[2:]))
    values = tf.keras.Model(planes, fixed)(silence, training=False)
    head = model.get_layer(f"{next(iter(estimates))}_estimate")
    last = model.get_layer("last_conv").output
    return _per_instrument(planes, last, head, tuple(estimates), fixed, values)


@dataclass(frozen=True)
class PerInstrument:
    """A conditioned network: one part for all instruments, then one instrument at a time.

    All instruments at once would take several times the memory and exceed the CPU's caches.

    Attributes:
        targets: the instruments.
        shared: planes ``[B, T, F, 2C]`` -> list of tensors.
        own: planes, int64 index in ``targets``, those tensors -> planes ``[B, T, F, 2C]``.
    """

    targets: tuple[str, ...]
    shared: Callable[[tf.Tensor], list[tf.Tensor]]
    own: Callable[[tf.Tensor, tf.Tensor, list[tf.Tensor]], tf.Tensor]

    @no_autograph
    def __call__(self, mixture: tf.Tensor) -> dict[str, tf.Tensor]:
        """Planes ``[B, T, F, 2C]`` -> ``{target: planes}``."""
        common = self.shared(mixture)
        return {
            name: self.own(mixture, tf.constant(index, tf.int64), common)
            for index, name in enumerate(self.targets)
        }


def _per_instrument(
    planes: tf.Tensor,
    last: tf.Tensor,
    head: tf.keras.layers.Layer,
    targets: tuple[str, ...],
    fixed: list[tf.Tensor],
    values: list[tf.Tensor],
) -> PerInstrument:
    """Divide a network where it first depends on the instrument.

    Args:
        planes: of the mixture, the network's input.
        last: ``[I, ...]``, all that the heads depend on apart from the mixture.
        head: layer of a target; all are equal for a single instrument.
        targets: the instruments.
        fixed: tensors ``[I, ...]`` that do not depend on the mixture.
        values: of ``fixed``.
    """
    boundary = _boundary(last, fixed)
    common = tf.keras.Model(planes, boundary)
    rest = tf.keras.Model([*boundary, *fixed], last)

    @no_autograph
    def shared(mixture: tf.Tensor) -> list[tf.Tensor]:
        return tf.nest.flatten(common(mixture, training=False))

    @no_autograph
    def own(mixture: tf.Tensor, index: tf.Tensor, tensors: list[tf.Tensor]) -> tf.Tensor:
        mine = [tf.gather(value, index[tf.newaxis]) for value in values]  # [1, ...] each
        return head([mixture, rest([*tensors, *mine], training=False)])

    return PerInstrument(targets, shared, own)


def _boundary(last: tf.Tensor, fixed: list[tf.Tensor]) -> list[tf.Tensor]:
    """Tensors independent of ``fixed`` from which a layer computes something that is not.

    Args:
        last: a tensor that depends on ``fixed``.
    """
    known = {id(tensor): True for tensor in fixed}  # by id: does it depend on them
    found: dict[int, tf.Tensor] = {}

    def depends(tensor: tf.Tensor) -> bool:
        if id(tensor) not in known:
            inputs = tf.nest.flatten(tensor.node.keras_inputs)
            flags = [depends(x) for x in inputs]
            known[id(tensor)] = any(flags)
            if any(flags):
                shared = (x for x, flag in zip(inputs, flags, strict=True) if not flag)
                found.update((id(x), x) for x in shared)
        return known[id(tensor)]

    depends(last)
    return list(found.values())
