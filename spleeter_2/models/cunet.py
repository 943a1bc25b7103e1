"""LaSAFT's conditioned U-Net: one network for all instruments.

W. Choi, M. Kim, J. Chung, S. Jung, "LaSAFT: Latent source attentive frequency transformation for
conditioned source separation", ICASSP 2021. Every block is a densely connected stack of
convolutions (TFC), an optional modulation by the condition, and an optional frequency
transformation.

Tensors have the shape ``[I, B, T, F, C]``, instruments first. As long as nothing depends on the
condition there is one of them, so that shared parts are computed once.
"""

from __future__ import annotations

import tensorflow as tf

from spleeter_2.config.networks import CUNet
from spleeter_2.config.schema import Configuration

from .conditioning import Conditions, Modulate, modulations
from .frequency import BlockOptions, frequency_transformation
from .layers import (
    PLANES,
    ConvNorm,
    DenseConvNorm,
    FromPlanes,
    ToPlanes,
    UpsampleNorm,
    magnitude_of,
    no_autograph,
    shape_of,
)

layers = tf.keras.layers


class Planes(layers.Layer):
    """Input of the network: planes ``[B, T, F, 2C]`` -> ``[1, B, T, F, P]``.

    P = C magnitudes, or all 2C planes.
    """

    def __init__(self, spectrogram: str, **kwargs) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.spectrogram = spectrogram

    @no_autograph
    def call(self, mixture):
        planes = magnitude_of(mixture) if self.spectrogram == "magnitude" else mixture
        return planes[tf.newaxis]


class Estimate(layers.Layer):
    """One instrument's planes ``[B, T, F, 2C]`` from the network's result.

    The result, ``[I, B, T, F, P]`` of all instruments or ``[1, ...]`` of this one, is the estimate
    itself (mapping) or is multiplied with the mixture's planes, one by one (masking: real and
    imaginary parts of a complex spectrogram are multiplied separately). Magnitudes get the
    mixture's phase. Always computed in float32.
    """

    def __init__(self, index: int, spectrogram: str, estimate: str, **kwargs) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.index = index
        self.spectrogram = spectrogram
        self.estimate = estimate

    @no_autograph
    def call(self, inputs):
        mixture, result = inputs
        result = result[self.index if result.shape[0] > 1 else 0]
        if self.spectrogram == "magnitude":
            result = tf.concat([result, result], axis=-1)
        if self.estimate == "masking":
            return result * mixture
        if self.spectrogram == "magnitude":
            return result * self.phase(mixture)
        return result

    def phase(self, mixture):
        """Planes of unit magnitude; the phase of zero is zero."""
        magnitude = magnitude_of(mixture)
        sounding = magnitude > 0
        divisor = tf.where(sounding, magnitude, tf.ones_like(magnitude))
        real, imaginary = tf.split(mixture, 2, axis=-1)
        real = tf.where(sounding, real / divisor, tf.ones_like(real))
        return tf.concat([real, imaginary / divisor], axis=-1)


class BroadcastConcatenate(layers.Layer):
    """Concatenate along channels, broadcasting tensors that have one instrument."""

    @no_autograph
    def call(self, inputs):
        instruments = max(x.shape[0] for x in inputs)
        inputs = [
            tf.broadcast_to(x, (instruments, *shape_of(x)[1:])) if x.shape[0] < instruments else x
            for x in inputs
        ]
        return tf.concat(inputs, axis=-1)


def build_cunet(
    configuration: Configuration, targets: tuple[str, ...], nb_bins: int
) -> tf.keras.Model:
    """Build the conditioned U-Net for some of its instruments.

    An instrument's condition is its index in the configuration's targets.

    Returns:
        Model from complex64 ``[B, T, F, C]`` (T a multiple of ``stride``) to
        ``{target: complex64 [B, T, F, C]}``.
    """
    options = configuration.model
    mixture = tf.keras.Input(
        (None, nb_bins, configuration.nb_channels), dtype=tf.complex64, name="mixture"
    )
    numbers = [configuration.targets.index(target) for target in targets]
    mixture_planes = ToPlanes(name=PLANES)(mixture)
    planes = Planes(options.spectrogram, name="planes")(mixture_planes)
    conditions = Conditions(numbers, name="conditions")(planes)
    embedding = layers.Embedding(
        len(configuration.targets), options.conditioning.embedding, name="embedding"
    )(conditions)
    planes = _network(options, planes, embedding)
    estimates = {}
    for index, target in enumerate(targets):
        estimate = Estimate(
            index, options.spectrogram, options.estimate, name=f"{target}_estimate"
        )([mixture_planes, planes])
        estimates[target] = FromPlanes(name=f"{target}_spectrogram")(estimate)
    return tf.keras.Model(mixture, estimates, name=configuration.name)


def _network(options: CUNet, planes: tf.Tensor, embedding: tf.Tensor) -> tf.Tensor:
    """Mixture ``[1, B, T, F, P]`` and embedding ``[I, E]`` -> estimates ``[I, B, T, F, P]``."""
    channels = options.channels
    modulated = modulations(embedding, options.conditioning, options.conditioned_blocks(), channels)

    skips: list[tf.Tensor] = []

    def block(x: tf.Tensor, name: str) -> tf.Tensor:
        x = DenseConvNorm(
            name,
            channels,
            options.kernel_size,
            options.layers,
            options.activation,
            name=f"{name}_dense",
        )(x)
        if name in modulated:
            x = Modulate(
                options.conditioning.type,
                options.conditioning.transposed,
                name=f"{name}_modulation",
            )([x, *modulated[name]])
        if options.frequency:
            block_options = BlockOptions(options.activation, 1e-5, 0.9, start_at_zero=False)
            x = frequency_transformation(
                x, options.frequency, f"{name}_frequency", block_options, embedding
            )
        return x

    x = ConvNorm(channels, (1, 2), activation=options.first_activation, name="first_conv")(planes)
    for number, stride in enumerate(options.strides, start=1):
        x = block(x, f"encoder_{number}")
        skips.append(x)
        x = ConvNorm(channels, stride, stride, name=f"downsampling_{number}")(x)
    x = block(x, "mid")
    for number, stride in enumerate(reversed(options.strides), start=1):
        x = UpsampleNorm(channels, stride, name=f"upsampling_{number}")(x)
        x = BroadcastConcatenate(name=f"skip_{number}")([x, skips.pop()])
        x = block(x, f"decoder_{number}")
    return ConvNorm(  # one zero bin on either side: n bins become n + 1
        planes.shape[-1],
        (1, 2),
        pad=(0, 1),
        activation=options.last_activation,
        norm=False,
        name="last_conv",
    )(x)
