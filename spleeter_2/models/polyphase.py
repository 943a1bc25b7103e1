"""Spleeter's transposed and dilated convolutions, by other sums that a CPU does sooner.

n x n neighbouring places of a spectrogram that are laid out as channels are its phases:
``[B, n T, n F, C]`` becomes ``[B, T, F, n n C]`` (``layers.to_phases``). Among phases strides and
dilations are plain convolutions, and few channels become many, which fill the lanes of a CPU.
Weights are those of the Keras layers that these equal.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from .layers import from_phases, plain, shape_of


def _transposed_taps() -> np.ndarray:
    """Which tap of a transposed convolution, 5 taps with stride 2, is between two places.

    Returns:
        ``[4 inputs, 4 phases of the output, 5]``, one where an input reaches an output by this tap.
        The second and the third input are under the outputs.
    """
    taps = np.zeros((4, 4, 5), np.float32)
    for source, phase in np.ndindex(4, 4):
        tap = phase - 2 * (source - 1) + 1
        if 0 <= tap < 5:
            taps[source, phase, tap] = 1
    return taps


def _dilated_taps() -> np.ndarray:
    """The same for 4 taps with dilation 2, from and to four phases.

    Returns:
        ``[blocks, phases of the input, phases of the output, 4]``. The first block is the one
        before the output's own.
    """
    taps = np.zeros((3, 4, 4, 4), np.float32)
    for phase, tap in np.ndindex(4, 4):
        block, source = divmod(phase + 2 * tap - 3, 4)
        taps[block + 1, source, phase, tap] = 1
    return taps


class UpConv2DToPhases(tf.keras.layers.Layer):
    """Transposed 5x5 convolution with stride 2 to a single filter, the U-Net's last one.

    It equals ``Conv2DTranspose(1, 5, strides=2, padding="same")`` of its inputs, joined along
    channels. They are never joined, and the phases of the result stay side by side: both would be
    a copy of what is largest in the network.

    Shapes: list of ``[B, T, F, C_i]`` with even T and F -> ``[B, T/2, 8F, 1]``, the 16 channels of
    ``[B, T/2, F/2, 16]`` along frequency, so that what follows sees a single channel; kernel
    ``[5, 5, 1, sum of C_i]``.
    """

    def build(self, input_shape) -> None:
        shape = (5, 5, 1, sum(part[-1] for part in input_shape))
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="he_uniform")
        self.bias = self.add_weight(name="bias", shape=(1,), initializer="zeros")
        super().build(input_shape)

    @plain
    def call(self, inputs):
        phases = _up_to_phases(tf.convert_to_tensor(self.kernel), *inputs) + self.bias
        _, nb_frames, nb_bins, _ = shape_of(phases)
        return tf.reshape(phases, (-1, nb_frames, 16 * nb_bins, 1))


@tf.custom_gradient
def _up_to_phases(kernel, *inputs):
    """Without bias, ``[B, T/2, F/2, 16]``; the gradient is that of the plain layer."""
    sizes = [part.shape[-1] for part in inputs]

    def gradient(upstream):
        upstream = from_phases(upstream, 4)
        kernels = tf.split(kernel, sizes, axis=-1)
        of_kernel = [
            tf.raw_ops.Conv2DBackpropFilter(
                input=upstream,
                filter_sizes=own.shape,
                out_backprop=part,
                strides=[1, 2, 2, 1],
                padding="SAME",
            )
            for own, part in zip(kernels, inputs, strict=True)
        ]
        return tf.concat(of_kernel, -1), *(
            tf.nn.conv2d(upstream, own, 2, "SAME") for own in kernels
        )

    taps = tf.constant(_transposed_taps(), kernel.dtype)
    spread = tf.einsum("sak,tbl,kloc->stcabo", taps, taps, kernel)
    spread = tf.reshape(spread, (4, 4, kernel.shape[-1], 16))
    pairs = zip(inputs, tf.split(spread, sizes, axis=2), strict=True)
    return tf.add_n([tf.nn.conv2d(part, own, 2, "SAME") for part, own in pairs]), gradient


class DilatedConv2D(tf.keras.layers.Layer):
    """4x4 convolution with dilation 2 and "same" padding, the last layer of Spleeter's U-Net.

    It equals ``Conv2D(filters, 4, dilation_rate=2, padding="same")``, whose weights it has.

    Shapes: ``[B, T/4, 4F, 1]``, what ``UpConv2DToPhases`` gives -> phases ``[B, T/n, F/n, n n
    filters]``, which ``layers.from_phases`` puts into their places.

    Args:
        phases: n, 4 or 2.
    """

    def __init__(self, filters: int, phases: int = 4, **kwargs) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.phases = phases

    def build(self, input_shape) -> None:
        shape = (4, 4, 1, self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="he_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        super().build(input_shape)

    @plain
    def call(self, inputs):
        _, nb_frames, places, _ = shape_of(inputs)
        inputs = tf.reshape(inputs, (-1, nb_frames, places // 16, 16))
        taps = tf.constant(_dilated_taps().reshape((3, 4, 2, 2, 4)), inputs.dtype)
        # four phases are two times two; those that stay channels come last
        order = "AaBbo" if self.phases == 4 else "ABabo"
        kernel = tf.einsum(f"spAak,tqBbl,klio->stpqi{order}", taps, taps, self.kernel)
        kernel = tf.reshape(kernel, (3, 3, 16, 16 * self.filters))
        convolved = tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME")
        convolved = tf.nn.bias_add(convolved, tf.tile(self.bias, [16]))
        return convolved if self.phases == 4 else from_phases(convolved, 2)

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters, "phases": self.phases}
