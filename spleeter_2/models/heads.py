"""Heads: from the U-Net's last features to the STFT of an instrument, as planes.

All heads begin with a mask, so that a regression starts as the masked mixture and weights of a
masking network carry over.
"""

from __future__ import annotations

import tensorflow as tf

from spleeter_2.config.networks import Head

from .layers import (
    LEAKY_SLOPE,
    crop_bins,
    from_polyphase,
    no_autograph,
    pad_bins,
    to_polyphase,
)
from .polyphase import DilatedConv2D


class _BandLayer(tf.keras.layers.Layer):
    """Layer for the lowest ``nb_bins`` of spectrograms, always computed in float32."""

    def __init__(self, nb_bins: int, **kwargs) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.nb_bins = nb_bins

    def to_bins(self, x, n: int):
        """Polyphase ``[B, T/n, F'/n, n n C]`` -> ``[B, T, nb_bins, C]``."""
        return crop_bins(from_polyphase(x, n), self.nb_bins)


class ApplyMask(_BandLayer):
    """Mixture times mask: magnitude from the network, phase from the mixture.

    Shapes: polyphase mask ``[B, T/4, F'/4, 16C]`` and planes of the mixture ``[B, T, F, 2C]`` ->
    planes ``[B, T, F, 2C]``, zero above ``nb_bins``.
    """

    @no_autograph
    def call(self, inputs):
        mask, mixture = inputs
        mask = self.to_bins(mask, 4)
        estimate = crop_bins(mixture, self.nb_bins) * tf.concat([mask, mask], axis=-1)
        return pad_bins(estimate, mixture.shape[2])


class RelativeMixture(_BandLayer):
    """Mixture divided by its local RMS, as input of the regression.

    Spectrograms span five orders of magnitude; divided by the RMS of the neighbourhood, 2 x 2
    bins and all channels, they are near one at any level and in any band.

    Shapes: planes of the mixture ``[B, T, F, 2C]`` -> polyphase real and imaginary part, each
    ``[B, T/2, F'/2, 4C]``, the scale ``[B, T/2, F'/2, 1]``, and both parts divided by it.
    """

    def __init__(self, nb_bins: int, padded_bins: int, **kwargs) -> None:
        super().__init__(nb_bins, **kwargs)
        self.padded_bins = padded_bins

    @no_autograph
    def call(self, mixture):
        mixture = crop_bins(mixture, self.nb_bins)
        real, imaginary = (
            to_polyphase(pad_bins(part, self.padded_bins), 2)
            for part in tf.split(mixture, 2, axis=-1)
        )
        power = tf.reduce_mean(real**2 + imaginary**2, axis=-1, keepdims=True)
        # the scale of digital silence is zero, so its estimate is silent too; the floor of the
        # division is far below 24-bit noise
        scale = tf.sqrt(power)
        floored = tf.maximum(scale, 1e-6)
        return real, imaginary, scale, real / floored, imaginary / floored


class ApplyRegression(_BandLayer):
    """Masked mixture with an unbounded complex correction per bin and channel.

    ``estimate = (mask + g) * mixture + scale * r``: with ``g`` magnitude and phase may differ from
    the mixture's, ``r`` restores energy where sources cancel. Both are linear outputs of the
    network; where they are zero the estimate is the masked mixture.

    Shapes: polyphase mask, real and imaginary part of the mixture, each ``[B, T/2, F'/2, 4C]``,
    scale ``[B, T/2, F'/2, 1]``, polyphase corrections ``[B, T/2, F'/2, 16C]`` (g real, g
    imaginary, r real, r imaginary) and planes of the mixture -> planes ``[B, T, F, 2C]``, zero
    above ``nb_bins``.
    """

    @no_autograph
    def call(self, inputs):
        mask, real, imaginary, scale, corrections, mixture = inputs
        g_real, g_imaginary, r_real, r_imaginary = tf.split(corrections, 4, axis=-1)
        g_real += mask
        estimate = [
            self.to_bins(g_real * real - g_imaginary * imaginary + scale * r_real, 2),
            self.to_bins(g_real * imaginary + g_imaginary * real + scale * r_imaginary, 2),
        ]
        return pad_bins(tf.concat(estimate, axis=-1), mixture.shape[2])


class SoftmaxOverTargets(tf.keras.layers.Layer):
    """Masks that sum to one over the targets, always computed in float32.

    Shapes: list of logits of equal shape, one per target -> list of masks of that shape.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    @no_autograph
    def call(self, logits):
        return tf.unstack(tf.nn.softmax(tf.stack(logits, axis=-1)), axis=-1)


def build_logits(options: Head, channels: int, decoded: tf.Tensor, prefix: str) -> tf.Tensor:
    """Logits of a target's mask, polyphase: ``[B, T/n, F'/n, n n C]``; n is 2 in a regression.

    Args:
        channels: C.
        decoded: the U-Net's last decoder stage, ``[B, T/4, 4F', 1]``.
        prefix: prefix of the layers' names.
    """
    n = 2 if options.type == "regression" else 4
    return DilatedConv2D(channels, n, name=f"{prefix}mask_conv")(decoded)


def build_softmax(logits: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Masks of all targets from their logits."""
    masks = SoftmaxOverTargets(name="masks")(list(logits.values()))
    return dict(zip(logits, masks, strict=True))


def build_head(
    options: Head,
    mixture: tf.Tensor,
    mask: tf.Tensor,
    features: tf.Tensor,
    nb_bins: int,
    prefix: str,
) -> tf.Tensor:
    """Estimate an instrument's STFT.

    Args:
        options: type and sizes.
        mixture: planes ``[B, T, F, 2C]``.
        mask: logits of ``build_logits``, or the mask of ``build_softmax``.
        features: the U-Net's last decoder stage but one, normalised, ``[B, T/2, F'/2, c]``.
        nb_bins: bins of the mixture that are the network's input, at most F'.
        prefix: prefix of the layers' names.

    Returns:
        planes ``[B, T, F, 2C]``.
    """
    layers = tf.keras.layers
    if options.type != "softmax":
        mask = layers.Activation("sigmoid", name=f"{prefix}mask")(mask)
    if options.type != "regression":
        return ApplyMask(nb_bins, name=f"{prefix}estimate")([mask, mixture])
    real, imaginary, scale, *relative = RelativeMixture(
        nb_bins, 2 * features.shape[2], name=f"{prefix}relative_mixture"
    )(mixture)
    x = layers.Concatenate(name=f"{prefix}regression_inputs")([features, *relative])
    x = layers.Conv2D(options.width, 3, padding="same", name=f"{prefix}regression_conv")(x)
    x = layers.LeakyReLU(LEAKY_SLOPE, name=f"{prefix}regression_activation")(x)
    channels = mixture.shape[-1] // 2
    corrections = layers.Conv2D(
        16 * channels, 1, kernel_initializer="zeros", name=f"{prefix}regression_project"
    )(x)
    return ApplyRegression(nb_bins, name=f"{prefix}estimate")(
        [mask, real, imaginary, scale, corrections, mixture]
    )
