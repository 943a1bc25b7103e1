"""Frequency transformations: blocks that mix information along frequency, frame by frame.

Each is a Keras layer from ``[B, T, F, C]`` to ``[B, T, F, C]`` that a network adds to its own
input (``x + transformation(x)``). Each starts at zero, so that a pretrained network into which
it is put computes at first what it did before.
"""

from __future__ import annotations

import tensorflow as tf

from ..configuration import FrequencyTransformation
from .layers import LEAK, plain


class BandConv1D(tf.keras.layers.Layer):
    """1-D convolution along frequency with kernels of its own for every band.

    The F bins are cut into ``bands`` neighbouring bands, as equal in size as F allows; each has
    its own ``kernel_size x C x filters`` kernel and zero padding, since a kernel shared by all
    bands was found to filter out too much of the high ones. ``bands=1`` is a plain convolution.

    The weights stand in one tensor, but every band is convolved on its own: on TensorFlow's
    CPU the gradient of a grouped convolution takes about 24 times as long.

    Shapes: ``[B, T, F, C]`` -> ``[B, T, F, filters]``; kernel ``[bands, kernel_size, C, filters]``.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        bands: int = 1,
        dilation: int = 1,
        start_at_zero: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.bands = bands
        self.dilation = dilation
        self.start_at_zero = start_at_zero

    def build(self, input_shape) -> None:
        nb_bins, channels = int(input_shape[-2]), int(input_shape[-1])
        if nb_bins < self.bands:
            raise ValueError(f"{self.name}: {nb_bins} bins cannot be cut into {self.bands} bands")
        size, rest = divmod(nb_bins, self.bands)
        self.sizes = [size + (band < rest) for band in range(self.bands)]
        # He's uniform initialisation; the fan-in is that of one band's kernel, not of all
        he_uniform = tf.keras.initializers.VarianceScaling(2.0 * self.bands, "fan_in", "uniform")
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.bands, self.kernel_size, channels, self.filters),
            initializer="zeros" if self.start_at_zero else he_uniform,
        )
        self.bias = self.add_weight(
            name="bias", shape=(self.bands, self.filters), initializer="zeros"
        )
        super().build(input_shape)

    @plain
    def call(self, inputs):
        bands = tf.split(inputs, self.sizes, axis=2)
        return tf.concat([self._convolve(x, i) for i, x in enumerate(bands)], axis=2)

    def _convolve(self, band, index: int):
        """One band ``[B, T, f, C]`` -> ``[B, T, f, filters]``."""
        # a dilated convolution has no gradient on TensorFlow's CPU: bins that a kernel sees
        # together become neighbours first
        missing = -band.shape[2] % self.dilation
        x = tf.space_to_batch(band, [1, self.dilation], [[0, 0], [0, missing]])
        kernel = self.kernel[index][tf.newaxis]  # [1, kernel_size, C, filters]
        x = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), self.bias[index])
        return tf.batch_to_space(x, [1, self.dilation], [[0, 0], [0, missing]])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "bands": self.bands,
            "dilation": self.dilation,
            "start_at_zero": self.start_at_zero,
        }


def frequency_transformation(
    inputs: tf.Tensor, options: FrequencyTransformation, name: str
) -> tf.Tensor:
    """Add a frequency transformation to its input.

    One ``BandConv1D`` per dilation down to ``options.width`` channels, each with BatchNorm and
    leaky ReLU, then one back to C channels whose kernel starts at zero.

    Args:
        inputs: ``[B, T, F, C]``.
        options: bands, kernel size, dilations, inner width.
        name: prefix of the layers' names.

    Returns:
        ``[B, T, F, C]``.
    """
    x = inputs
    for index, dilation in enumerate(options.dilations, start=1):
        x = BandConv1D(
            options.width,
            options.kernel_size,
            options.bands,
            dilation,
            name=f"{name}_conv_{index}",
        )(x)
        x = tf.keras.layers.BatchNormalization(name=f"{name}_norm_{index}")(x)
        x = tf.keras.layers.LeakyReLU(LEAK, name=f"{name}_activation_{index}")(x)
    x = BandConv1D(
        inputs.shape[-1],
        options.kernel_size,
        options.bands,
        start_at_zero=True,
        name=f"{name}_project",
    )(x)
    return tf.keras.layers.Add(name=f"{name}_add")([inputs, x])
