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
from .layers import ConvNorm, DenseConvNorm, UpsampleNorm, no_autograph, scale_complex, shape_of

layers = tf.keras.layers


class Planes(layers.Layer):
    """Input of the network: complex ``[B, T, F, C]`` -> ``[1, B, T, F, P]``.

    P = C magnitudes, or 2C planes, the real ones first (complex-as-channels).
    """

    def __init__(self, spectrogram: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.spectrogram = spectrogram

    @no_autograph
    def call(self, mixture):
        if self.spectrogram == "magnitude":
            return tf.abs(mixture)[tf.newaxis]
        return tf.concat([tf.math.real(mixture), tf.math.imag(mixture)], axis=-1)[tf.newaxis]


class Estimate(layers.Layer):
    """One instrument's complex STFT ``[B, T, F, C]`` from the network's planes.

    The planes ``[I, B, T, F, P]`` are the estimate itself (mapping) or are multiplied with the
    mixture's, plane by plane (masking: real and imaginary parts of a complex spectrogram are
    multiplied separately). Magnitudes get the mixture's phase. Always computed in float32.
    """

    def __init__(self, index: int, spectrogram: str, estimate: str, **kwargs) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.index = index
        self.spectrogram = spectrogram
        self.estimate = estimate

    @no_autograph
    def call(self, inputs):
        mixture, planes = inputs
        planes = planes[self.index]
        if self.spectrogram == "magnitude":
            magnitude = tf.abs(mixture)
            if self.estimate == "masking":
                return scale_complex(mixture, planes)
            phase = tf.math.divide_no_nan(mixture, tf.cast(magnitude, mixture.dtype))
            phase = tf.where(magnitude > 0, phase, tf.ones_like(phase))
            return scale_complex(phase, planes)
        real, imaginary = tf.split(planes, 2, axis=-1)
        if self.estimate == "masking":
            real *= tf.math.real(mixture)
            imaginary *= tf.math.imag(mixture)
        return tf.complex(real, imaginary)


class InstrumentSplit(layers.Layer):
    """Identity layer that marks where computation becomes instrument-specific."""

    @no_autograph
    def call(self, inputs):
        return inputs


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
    planes = Planes(options.spectrogram, name="planes")(mixture)
    conditions = Conditions(numbers, name="conditions")(planes)
    embedding = layers.Embedding(
        len(configuration.targets), options.conditioning.embedding, name="embedding"
    )(conditions)
    planes = _network(options, planes, embedding)
    estimates = {
        target: Estimate(index, options.spectrogram, options.estimate, name=f"{target}_estimate")(
            [mixture, planes]
        )
        for index, target in enumerate(targets)
    }
    return tf.keras.Model(mixture, estimates, name=configuration.name)


def _network(options: CUNet, planes: tf.Tensor, embedding: tf.Tensor) -> tf.Tensor:
    """Mixture ``[1, B, T, F, P]`` and embedding ``[I, E]`` -> estimates ``[I, B, T, F, P]``."""
    channels = options.channels
    modulated = modulations(embedding, options.conditioning, options.conditioned_blocks(), channels)

    skips: list[tf.Tensor] = []

    def block(x: tf.Tensor, name: str) -> tf.Tensor:
        instruments = x.shape[0]
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
        if x.shape[0] > instruments:
            x, *skips[:] = InstrumentSplit(name="instrument_split")([x, *skips])
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
