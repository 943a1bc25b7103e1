"""Spleeter's transposed and dilated convolutions on polyphase components.

Polyphase: n x n neighbouring bins laid out as channels, ``[B, n T, n F, C]`` ->
``[B, T, F, n n C]`` (``layers.to_polyphase``). There, strided and dilated convolutions are plain
ones, and few channels become many, which fill the SIMD lanes of a CPU. Weights are those of the
equivalent Keras layers.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from .layers import from_polyphase, no_autograph, shape_of


def _transposed_taps() -> np.ndarray:
    """Tap of a transposed convolution (5 taps, stride 2) between each input and output.

    Returns:
        ``[4 inputs, 4 output components, 5]``, one where an input contributes to an output by
        this tap. Inputs 1 and 2 are at the position of the outputs.
    """
    taps = np.zeros((4, 4, 5), np.float32)
    for source, output in np.ndindex(4, 4):
        tap = output - 2 * (source - 1) + 1
        if 0 <= tap < 5:
            taps[source, output, tap] = 1
    return taps


def _dilated_taps() -> np.ndarray:
    """Tap of a convolution (4 taps, dilation 2) between input and output components.

    Returns:
        ``[3 blocks, 4 input components, 4 output components, 4]``. Block 0 precedes the block of
        the output.
    """
    taps = np.zeros((3, 4, 4, 4), np.float32)
    for output, tap in np.ndindex(4, 4):
        block, source = divmod(output + 2 * tap - 3, 4)
        taps[block + 1, source, output, tap] = 1
    return taps


def _spread(taps: np.ndarray, kernel: tf.Tensor) -> tf.Tensor:
    """Sum of a kernel's elements over its taps.

    A matrix product: ONNX Runtime's Einsum fails on as many subscripts.

    Args:
        taps: ``[..., k, l]``.
        kernel: ``[k, l, i, o]``.

    Returns:
        ``[..., i, o]``.
    """
    kernel = tf.convert_to_tensor(kernel)  # in the type of the layer's computation
    size = kernel.shape[0] * kernel.shape[1]
    matrix = tf.constant(taps.reshape((-1, size)), kernel.dtype)
    product = tf.matmul(matrix, tf.reshape(kernel, (size, -1)))
    return tf.reshape(product, (*taps.shape[:-2], *kernel.shape[2:]))


class UpConv2DToPolyphase(tf.keras.layers.Layer):
    """Transposed 5x5 convolution with stride 2 to a single filter, the U-Net's last one.

    Equals ``Conv2DTranspose(1, 5, strides=2, padding="same")`` of the concatenated inputs. The
    inputs are not concatenated and the result stays polyphase, which saves two copies of the
    network's largest tensors.

    Shapes: list of ``[B, T, F, C_i]`` with even T and F -> ``[B, T/2, 8F, 1]``, the 16 channels of
    ``[B, T/2, F/2, 16]`` along frequency, so that the next layers have a single channel; kernel
    ``[5, 5, 1, sum of C_i]``.
    """

    def build(self, input_shape) -> None:
        shape = (5, 5, 1, sum(part[-1] for part in input_shape))
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="he_uniform")
        self.bias = self.add_weight(name="bias", shape=(1,), initializer="zeros")
        super().build(input_shape)

    @no_autograph
    def call(self, inputs):
        x = _up_to_polyphase(tf.convert_to_tensor(self.kernel), *inputs) + self.bias
        _, nb_frames, nb_bins, _ = shape_of(x)
        return tf.reshape(x, (-1, nb_frames, 16 * nb_bins, 1))


@tf.custom_gradient
def _up_to_polyphase(kernel, *inputs):
    """Without bias, ``[B, T/2, F/2, 16]``. The gradient is that of ``Conv2DTranspose``."""
    sizes = [part.shape[-1] for part in inputs]

    def gradient(upstream):
        upstream = from_polyphase(upstream, 4)
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

    taps = np.einsum("sak,tbl->stabkl", _transposed_taps(), _transposed_taps())
    spread = _spread(taps, tf.transpose(kernel, (0, 1, 3, 2)))  # [s, t, a, b, c, 1]
    spread = tf.reshape(tf.transpose(spread, (0, 1, 4, 2, 3, 5)), (4, 4, kernel.shape[-1], 16))
    pairs = zip(inputs, tf.split(spread, sizes, axis=2), strict=True)
    return tf.add_n([tf.nn.conv2d(part, own, 2, "SAME") for part, own in pairs]), gradient


class DilatedConv2D(tf.keras.layers.Layer):
    """4x4 convolution with dilation 2 and "same" padding, the last layer of Spleeter's U-Net.

    Equals ``Conv2D(filters, 4, dilation_rate=2, padding="same")`` and has its weights.

    Shapes: ``[B, T/4, 4F, 1]`` of ``UpConv2DToPolyphase`` -> polyphase
    ``[B, T/n, F/n, n n filters]``.

    Args:
        n: 4 or 2.
    """

    def __init__(self, filters: int, n: int = 4, **kwargs) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.n = n

    def build(self, input_shape) -> None:
        shape = (4, 4, 1, self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="he_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        super().build(input_shape)

    @no_autograph
    def call(self, inputs):
        _, nb_frames, positions, _ = shape_of(inputs)
        inputs = tf.reshape(inputs, (-1, nb_frames, positions // 16, 16))
        taps = _dilated_taps().reshape((3, 4, 2, 2, 4))
        taps = np.einsum("spAak,tqBbl->stpqAaBbkl", taps, taps)
        kernel = _spread(taps, self.kernel)  # [s, t, p, q, A, a, B, b, i, o]
        # the four components are two times two; those that stay channels come last
        order = (4, 5, 6, 7) if self.n == 4 else (4, 6, 5, 7)
        kernel = tf.transpose(kernel, (0, 1, 2, 3, 8, *order, 9))
        kernel = tf.reshape(kernel, (3, 3, 16, 16 * self.filters))
        convolved = tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME")
        convolved = tf.nn.bias_add(convolved, tf.tile(self.bias, [16]))
        return convolved if self.n == 4 else from_polyphase(convolved, 2)
