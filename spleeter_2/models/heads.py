"""Heads: from the U-Net's last features to the complex STFT of an instrument.

Both heads share the mask, so that a regression starts as the masked mixture and weights of a
masking network carry over.
"""

from __future__ import annotations

import tensorflow as tf

from ..configuration import Head
from .frequency import LEAK


class DilatedConv2D(tf.keras.layers.Layer):
    """4x4 convolution with dilation 2 and "same" padding, the last layer of Spleeter's U-Net.

    It equals ``Conv2D(filters, 4, dilation_rate=2, padding="same")``, whose weights it has, but
    takes a sixth of the time on a CPU: with dilation 2, outputs at even and at odd places see
    inputs of one parity only, so the four phases become channels of a plain convolution at half
    the resolution.

    Shapes: ``[B, T, F, 1]`` -> ``[B, T, F, filters]``, T and F even.
    """

    def __init__(self, filters: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape) -> None:
        shape = (4, 4, int(input_shape[-1]), self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="he_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs):
        padded = tf.pad(inputs, ((0, 0), (3, 3), (3, 3), (0, 0)))
        phases = tf.nn.space_to_depth(padded, 2)  # [B, T/2 + 3, F/2 + 3, 4C]
        # block-diagonal kernel [4, 4, 4C, 4 filters]: each phase is convolved on its own
        kernel = tf.einsum("hwio,pq->hwpiqo", self.kernel, tf.eye(4, dtype=self.kernel.dtype))
        kernel = tf.reshape(kernel, (4, 4, 4 * self.kernel.shape[2], 4 * self.filters))
        convolved = tf.nn.conv2d(phases, kernel, strides=1, padding="VALID")
        return tf.nn.depth_to_space(convolved, 2) + self.bias  # [B, T, F, filters]

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters}


class ApplyMask(tf.keras.layers.Layer):
    """Mixture times mask: magnitude from the network, phase from the mixture.

    Shapes: mask ``[B, T, F', C]`` and mixture complex ``[B, T, F, C]`` -> complex
    ``[B, T, F, C]``, silent above the ``nb_bins`` that the network looks at.
    """

    def __init__(self, nb_bins: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.nb_bins = nb_bins

    def call(self, inputs):
        mask, mixture = inputs
        mask = tf.cast(mask[:, :, : self.nb_bins], mixture.dtype)
        above = mixture.shape[2] - self.nb_bins
        estimate = mask * mixture[:, :, : self.nb_bins]
        return tf.pad(estimate, ((0, 0), (0, 0), (0, above), (0, 0)))

    def get_config(self) -> dict:
        return {**super().get_config(), "nb_bins": self.nb_bins}


class LocalScale(tf.keras.layers.Layer):
    """Mixture relative to its own surroundings, as input of the regression.

    Spectrograms span five orders of magnitude; divided by the RMS of a neighbourhood of 6 x 6
    bins and all channels they become numbers around one, at any level and in any band.

    Shapes: mixture complex ``[B, T, F, C]`` -> complex-as-channels ``[B, T/2, F'/2, 8C]`` of
    the relative mixture (2 x 2 phases), and the scale ``[B, T/2, F'/2, 1]``, in the mixture's
    unit.
    """

    def __init__(self, nb_bins: int, padded_bins: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.nb_bins = nb_bins
        self.padded_bins = padded_bins

    def call(self, mixture):
        mixture = mixture[:, :, : self.nb_bins]
        planes = tf.concat([tf.math.real(mixture), tf.math.imag(mixture)], axis=-1)
        planes = tf.pad(planes, ((0, 0), (0, 0), (0, self.padded_bins - self.nb_bins), (0, 0)))
        planes = tf.nn.space_to_depth(planes, 2)  # [B, T/2, F'/2, 8C]
        power = tf.reduce_mean(tf.square(planes), axis=-1, keepdims=True)
        power = tf.nn.avg_pool2d(power, 3, 1, "SAME")
        # full scale is 1.0 and a bin of silence stays silence: far below 24-bit noise
        scale = tf.sqrt(2.0 * power + 1e-12)
        return planes / scale, scale

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "nb_bins": self.nb_bins,
            "padded_bins": self.padded_bins,
        }


class ApplyRegression(tf.keras.layers.Layer):
    """Masked mixture, corrected by an unbounded complex number per bin and channel.

    ``estimate = (mask + g) * mixture + scale * r``: ``g`` lets magnitude exceed the mixture and
    phase leave it, ``r`` restores energy where sources cancel. Both are linear outputs of the
    network; at zero the estimate is the masked mixture.

    Shapes: mask ``[B, T, F', C]``, mixture complex ``[B, T, F, C]``, corrections
    ``[B, T/2, F'/2, 16C]`` (2 x 2 phases of g and r, real planes first), scale
    ``[B, T/2, F'/2, 1]`` -> complex ``[B, T, F, C]``, silent above ``nb_bins``.
    """

    def __init__(self, nb_bins: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.nb_bins = nb_bins

    def call(self, inputs):
        mask, mixture, corrections, scale = inputs
        factor, addend = tf.split(corrections, 2, axis=-1)
        factor = self._to_complex(factor) + tf.cast(mask[:, :, : self.nb_bins], mixture.dtype)
        estimate = factor * mixture[:, :, : self.nb_bins] + self._to_complex(addend * scale)
        above = mixture.shape[2] - self.nb_bins
        return tf.pad(estimate, ((0, 0), (0, 0), (0, above), (0, 0)))

    def _to_complex(self, phases):
        """``[B, T/2, F'/2, 8C]`` -> complex ``[B, T, F, C]``."""
        planes = tf.nn.depth_to_space(phases, 2)[:, :, : self.nb_bins]
        real, imaginary = tf.split(planes, 2, axis=-1)
        return tf.complex(real, imaginary)

    def get_config(self) -> dict:
        return {**super().get_config(), "nb_bins": self.nb_bins}


def head(
    options: Head,
    mixture: tf.Tensor,
    output: tf.Tensor,
    features: list[tf.Tensor],
    nb_bins: int,
    prefix: str,
) -> tf.Tensor:
    """Estimate an instrument's complex STFT.

    Args:
        options: which head.
        mixture: complex ``[B, T, F, C]``.
        output: the U-Net's last decoder stage, ``[B, T, F', 1]``.
        features: normalised features at half the resolution, each ``[B, T/2, F'/2, c]``.
        nb_bins: bins of the mixture that the network looks at, at most F'.
        prefix: prefix of the layers' names.

    Returns:
        complex ``[B, T, F, C]``.
    """
    channels = mixture.shape[-1]
    logits = DilatedConv2D(channels, name=f"{prefix}mask_conv")(output)
    mask = tf.keras.layers.Activation("sigmoid", name=f"{prefix}mask")(logits)
    if options.type == "mask":
        return ApplyMask(nb_bins, name=f"{prefix}estimate")([mask, mixture])
    relative, scale = LocalScale(nb_bins, output.shape[2], name=f"{prefix}local_scale")(mixture)
    x = tf.keras.layers.Concatenate(name=f"{prefix}regression_inputs")([*features, relative])
    x = tf.keras.layers.Conv2D(options.width, 3, padding="same", name=f"{prefix}regression_conv")(x)
    x = tf.keras.layers.LeakyReLU(LEAK, name=f"{prefix}regression_activation")(x)
    corrections = tf.keras.layers.Conv2D(
        16 * channels, 1, kernel_initializer="zeros", name=f"{prefix}regression_project"
    )(x)
    return ApplyRegression(nb_bins, name=f"{prefix}estimate")([mask, mixture, corrections, scale])
