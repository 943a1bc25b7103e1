"""Spleeter's U-Net, one network per target.

A. Jansson et al., "Singing voice separation with deep U-Net convolutional networks", ISMIR
2017, in the variant of Deezer's Spleeter (R. Hennequin et al., JOSS 2020): 5x5 convolutions with
stride 2, LeakyReLU(0.2) in the encoder and ReLU in the decoder (ELU in its models of 4 and 5
stems), BatchNorm behind the decoder's activation, skips taken before the encoder's BatchNorm.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from spleeter_2.config.networks import UNet
from spleeter_2.config.schema import Configuration

from .frequency import frequency_transformation
from .heads import build_head, build_logits, build_softmax
from .layers import (
    LEAKY_SLOPE,
    PLANES,
    BatchNormalization,
    FromPlanes,
    ToPlanes,
    crop_bins,
    magnitude_of,
    no_autograph,
    pad_bins,
)
from .polyphase import UpConv2DToPolyphase

layers = tf.keras.layers

ACTIVATIONS = {
    "leaky_relu": functools.partial(layers.LeakyReLU, LEAKY_SLOPE),
    "relu": layers.ReLU,
    "elu": layers.ELU,
}
# options of the strided and of the transposed convolutions
STRIDED = {
    "kernel_size": 5,
    "strides": 2,
    "padding": "same",
    "kernel_initializer": "he_uniform",
}


class LevelledMagnitude(layers.Layer):
    """Magnitude of the mixture's lower bins, normalised to an RMS of ``level``.

    Deezer's networks depend on level: they were trained on mastered music. The RMS of the bins
    follows from Parseval's theorem; frames of digital silence are ignored, and ``max_gain``
    limits the gain of near silence. Masks and corrections are relative to the mixture, so the
    gain is not undone afterwards.

    Shapes: planes ``[B, T, F, 2C]`` -> ``[B, T, padded_bins, C]``, always computed in float32.

    Args:
        frame_length: of the STFT, in samples.
        level: RMS relative to full scale, or None for no normalisation.
        max_gain: in dB.
    """

    def __init__(
        self,
        nb_bins: int,
        padded_bins: int,
        frame_length: int,
        level: float | None,
        max_gain: float,
        **kwargs,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.nb_bins = nb_bins
        self.padded_bins = padded_bins
        self.frame_length = frame_length
        self.level = level
        self.max_gain = max_gain

    @no_autograph
    def call(self, mixture):
        magnitude = magnitude_of(crop_bins(mixture, self.nb_bins))
        if self.level is not None:
            magnitude *= self.gain(magnitude)
        return pad_bins(magnitude, self.padded_bins)

    def gain(self, magnitude):
        """Gain ``[B, 1, 1, 1]`` from magnitude ``[B, T, F', C]``."""
        # [B, T, 1, 1]; factor 2: one-sided STFT; 0.375: mean of the squared Hann window
        power = tf.reduce_sum(tf.square(magnitude), axis=(2, 3), keepdims=True)
        power *= 2.0 / (self.frame_length**2 * 0.375 * magnitude.shape[3])
        sounding = tf.reduce_sum(tf.cast(power > 1e-12, power.dtype), axis=1, keepdims=True)
        mean = tf.reduce_sum(power, axis=1, keepdims=True) / tf.maximum(sounding, 1.0)
        floor = self.level * 10 ** (-self.max_gain / 20)
        return self.level / tf.maximum(tf.sqrt(mean), floor)


class SplitShifts(layers.Layer):
    """Append a copy delayed by one frame for each example of the batch.

    Strides of two put the input on a grid; half a stride later the same music gives another
    estimate. ``MeanOfShifts`` takes the mean of both.

    Shapes: ``[B, T, F, C]`` -> ``[2B, T + 2, F, C]``, the copies last.
    """

    @no_autograph
    def call(self, inputs):
        on_time = tf.pad(inputs, ((0, 0), (0, 2), (0, 0), (0, 0)))
        late = tf.pad(inputs, ((0, 0), (1, 1), (0, 0), (0, 0)))
        return tf.concat([on_time, late], axis=0)


class MeanOfShifts(layers.Layer):
    """Mean of an example and its delayed copy (``SplitShifts``).

    Shapes: ``[2B, T + 2, F, C]`` -> ``[B, T, F, C]``.
    """

    @no_autograph
    def call(self, inputs):
        on_time, late = tf.split(inputs, 2, axis=0)
        return 0.5 * (on_time[:, :-2] + late[:, 1:-1])


def build_unet(
    configuration: Configuration, targets: tuple[str, ...], nb_bins: int
) -> tf.keras.Model:
    """Build one U-Net per target over a common input.

    Returns:
        Model from complex64 ``[B, T, nb_bins, C]`` (T a multiple of ``stride``) to
        ``{target: complex64 [B, T, nb_bins, C]}``.
    """
    options = configuration.model
    padded_bins = -(-options.nb_bins // options.stride) * options.stride
    mixture = tf.keras.Input(
        (None, nb_bins, configuration.nb_channels), dtype=tf.complex64, name="mixture"
    )
    planes = ToPlanes(name=PLANES)(mixture)
    magnitude = LevelledMagnitude(
        options.nb_bins,
        padded_bins,
        configuration.stft.frame_length,
        options.level,
        options.max_gain,
        name="magnitude",
    )(planes)
    networks = {target: _unet(options, magnitude, prefix=f"{target}_") for target in targets}
    logits = {
        target: build_logits(options.head, configuration.nb_channels, decoded, f"{target}_")
        for target, (decoded, _) in networks.items()
    }
    if options.head.type == "softmax":
        logits = build_softmax(logits)
    estimates = {}
    for target, (_, features) in networks.items():
        estimate = build_head(
            options.head, planes, logits[target], features, options.nb_bins, f"{target}_"
        )
        estimates[target] = FromPlanes(name=f"{target}_spectrogram")(estimate)
    return tf.keras.Model(mixture, estimates, name=configuration.name)


def _unet(options: UNet, magnitude: tf.Tensor, prefix: str) -> tuple[tf.Tensor, tf.Tensor]:
    """One target's network without its head.

    Args:
        magnitude: ``[B, T, F', C]``.

    Returns:
        The last decoder stage, polyphase ``[B, T/4, 4F', 1]``, and the stage before it, normalised,
        ``[B, T/2, F'/2, c]``.
    """
    skips = _encoder(options, magnitude, prefix)
    x = skips.pop()
    for index, filters in enumerate(options.filters[-2::-1], start=1):
        if index > 1:
            x = layers.Concatenate(name=f"{prefix}decoder_{index}_skip")([skips.pop(), x])
        x = layers.Conv2DTranspose(filters, name=f"{prefix}decoder_{index}_conv", **STRIDED)(x)
        x = _normalised(options, x, index, prefix)
        if index == 1 and options.shift_average:
            x = MeanOfShifts(name=f"{prefix}mean_of_shifts")(x)
    last = len(options.filters)
    decoded = UpConv2DToPolyphase(name=f"{prefix}decoder_{last}_conv")([skips.pop(), x])
    return _normalised(options, decoded, last, prefix), x


def _normalised(options: UNet, x: tf.Tensor, index: int, prefix: str) -> tf.Tensor:
    """Activation, BatchNorm and dropout of a decoder stage."""
    x = ACTIVATIONS[options.decoder_activation](name=f"{prefix}decoder_{index}_activation")(x)
    x = BatchNormalization(name=f"{prefix}decoder_{index}_norm")(x)
    if index <= 3 and options.dropout:
        x = layers.Dropout(options.dropout, name=f"{prefix}decoder_{index}_dropout")(x)
    return x


def _encoder(options: UNet, magnitude: tf.Tensor, prefix: str) -> list[tf.Tensor]:
    """Skips of all levels i, ``[B, T/2^i, F'/2^i, filters_i]``."""
    skips = []
    x = magnitude
    deepest = len(options.filters)
    for index, filters in enumerate(options.filters, start=1):
        if index == deepest and options.shift_average:
            x = SplitShifts(name=f"{prefix}split_shifts")(x)
        x = layers.Conv2D(filters, name=f"{prefix}encoder_{index}_conv", **STRIDED)(x)
        for block in options.frequency:
            if block.level == index:
                x = frequency_transformation(x, block, f"{prefix}frequency_{index}")
        skips.append(x)
        if index < deepest:  # no BatchNorm or activation at the deepest level
            x = BatchNormalization(name=f"{prefix}encoder_{index}_norm")(x)
            name = f"{prefix}encoder_{index}_activation"
            x = ACTIVATIONS[options.encoder_activation](name=name)(x)
    return skips
