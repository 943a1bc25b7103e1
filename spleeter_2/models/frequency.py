"""Frequency transformations: blocks that mix information along frequency, frame by frame.

Every type maps ``[..., T, F, C]`` to ``[..., T, F, C]`` and is added to its own input
(``x + transformation(x)``), in Spleeter's U-Net and in the conditioned U-Net. With k the
kernel size, w the width, b the bands, D the dilations, u the bottleneck's units, K the number of
maps and a bin of r Hz (the sample rate over the frame length, doubled by every level):

============  ======================================  ===================  =====================
type          computes                                weights, about       receptive field, Hz
============  ======================================  ===================  =====================
fc            all bins -> u -> all bins               2 F u                all bins
conv          one kernel for all bins                 2 k C w              2 (k - 1) r
dilated       kernels that span harmonics             k w (D w + C)        (k - 1) (sum D + 1) r
grouped       one kernel per band                     2 b k C w            as conv, in its band
lasaft        K times fc, weighted by the instrument  F u (K + 1)          all bins
lightsaft     as lasaft, K bottlenecks of one map     F u (K + 1)          all bins
============  ======================================  ===================  =====================

In Spleeter's U-Net the last kernel starts at zero: adding a transformation to a pretrained network
does not change its estimates before training.

fc is the TDF of W. Choi et al., "Investigating U-Nets with various intermediate blocks", ISMIR
2020; lasaft and lightsaft are from their "LaSAFT: Latent source attentive frequency
transformation", ICASSP 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from spleeter_2.config.networks import FrequencyTransformation

from .layers import ACTIVATIONS, Activate, BatchNormalization, Norm, no_autograph, shape_of

layers = tf.keras.layers


@dataclass(frozen=True)
class BlockOptions:
    """Activation, BatchNorm and initialisation of the blocks of a network."""

    activation: str  # name in ``ACTIVATIONS``
    epsilon: float  # of BatchNorm
    momentum: float  # of BatchNorm
    start_at_zero: bool  # the block is a no-op before training


UNET_BLOCKS = BlockOptions("leaky_relu_0.2", 1e-3, 0.99, True)


class BandConv1D(layers.Layer):
    """1-D convolution along frequency with separate kernels for every band.

    The F bins are split into ``bands`` neighbouring bands, as equal in size as F allows. Each has
    a separate ``kernel_size x C x filters`` kernel and zero padding, since a kernel shared by all
    bands was found to filter out too much of the high ones. ``bands=1`` is a plain convolution.

    The weights are one tensor, but every band is convolved separately: on TensorFlow's CPU the
    gradient of a grouped convolution takes about 24 times as long.

    Shapes: ``[..., T, F, C]`` -> ``[..., T, F, filters]``; kernel
    ``[bands, kernel_size, C, filters]``.
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
        # He's uniform initialisation with the fan-in of one band, not of all bands
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

    @no_autograph
    def call(self, inputs):
        bands = tf.split(inputs, self.sizes, axis=-2)
        convolved = [
            self._convolve(band, self.kernel[index]) + self.bias[index]
            for index, band in enumerate(bands)
        ]
        return tf.concat(convolved, axis=-2)  # [..., T, F, filters]

    def _convolve(self, x, kernel):
        """``[..., T, f, C]`` with a kernel ``[kernel_size, C, filters]``, zero padding."""
        if self.dilation == 1:
            return tf.nn.conv2d(x, kernel[tf.newaxis], strides=1, padding="SAME")
        # TensorFlow's CPU has no gradient for dilated convolutions: gather the taps
        nb_bins, around = x.shape[-2], self.dilation * (self.kernel_size - 1)
        padding = [[0, 0]] * (x.shape.rank - 2) + [[around // 2, around - around // 2], [0, 0]]
        padded = tf.pad(x, padding)
        taps = [
            padded[..., start : start + nb_bins, :] for start in range(0, around + 1, self.dilation)
        ]
        flat = tf.reshape(kernel, (-1, self.filters))  # [kernel_size * C, filters]
        return tf.matmul(tf.concat(taps, axis=-1), flat)


class Attention(layers.Layer):
    """Weights of the maps for an instrument: softmax of query times keys.

    Shapes: embedding ``[I, E]`` -> weights ``[I, num_tdfs]``; query kernel ``[E, dk]``, keys
    ``[dk, num_tdfs]``.
    """

    def __init__(self, num_tdfs: int, dk: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_tdfs = num_tdfs
        self.dk = dk

    def build(self, input_shape) -> None:
        self.kernel = self.add_weight(name="kernel", shape=(int(input_shape[-1]), self.dk))
        self.bias = self.add_weight(name="bias", shape=(self.dk,), initializer="zeros")
        self.keys = self.add_weight(name="keys", shape=(self.dk, self.num_tdfs))
        super().build(input_shape)

    @no_autograph
    def call(self, embedding):
        query = tf.matmul(embedding, self.kernel) + self.bias
        return tf.nn.softmax(tf.matmul(query, self.keys) / self.dk**0.5)


class FrequencyLinear(layers.Layer):
    """Linear map along frequency, BatchNorm over channels, activation.

    With ``num_tdfs`` there are that many maps, and the result is their sum weighted by attention.
    Frequency is the first axis, so that a map is one matrix product for all frames, channels and
    instruments. The input may have one instrument where the attention has several.

    Shapes: ``[F, I, N, C]`` -> ``[units, I, N, C]``, N all frames; attention ``[I, num_tdfs]``;
    kernel ``[F, units]`` or ``[num_tdfs, F, units]``.
    """

    def __init__(
        self,
        units: int,
        block_options: BlockOptions,
        num_tdfs: int | None = None,
        use_bias: bool = False,
        start_at_zero: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.block_options = block_options
        self.num_tdfs = num_tdfs
        self.use_bias = use_bias
        # zero gamma of the last layer; LeakyReLU has a gradient at zero
        gamma = "zeros" if start_at_zero else "ones"
        self.norm = Norm(
            block_options.epsilon, block_options.momentum, gamma_initializer=gamma, name="norm"
        )

    def build(self, input_shape) -> None:
        shape = input_shape[0] if self.num_tdfs else input_shape
        maps = (self.num_tdfs,) if self.num_tdfs else ()
        self.kernel = self.add_weight(name="kernel", shape=(*maps, int(shape[0]), self.units))
        self.bias = (
            self.add_weight(name="bias", shape=(*maps, self.units), initializer="zeros")
            if self.use_bias
            else None
        )
        with tf.name_scope("norm"):
            self.norm.build((None, None, None, int(shape[-1])))
        super().build(input_shape)

    @no_autograph
    def call(self, inputs, training=False):
        if not self.num_tdfs:
            return self.map_bins(inputs, self.kernel, self.bias, training)
        x, attention = inputs
        if training:  # all maps at once: they share the statistics of one BatchNorm
            x = self.map_bins(x, self.kernel, self.bias, True)  # [num_tdfs, units, I, N, C]
            return tf.reduce_sum(x * self.broadcast_attention(attention), axis=0)
        total = None
        for index in range(self.num_tdfs):  # one at a time, since their results are large
            bias = None if self.bias is None else self.bias[index]
            value = self.map_bins(x, self.kernel[index], bias, False)
            value *= self.broadcast_attention(attention)[index]
            total = value if total is None else total + value
        return total

    def broadcast_attention(self, attention):
        """``[I, num_tdfs]`` -> ``[num_tdfs, 1, I, 1, 1]``."""
        return tf.transpose(attention)[:, tf.newaxis, :, tf.newaxis, tf.newaxis]

    def map_bins(self, x, kernel, bias, training):
        """``[F, I, N, C]`` -> ``[..., units, I, N, C]`` for a kernel ``[..., F, units]``."""
        _, *rest = shape_of(x)
        columns = tf.reshape(x, (x.shape[0], -1))  # [F, I * N * C]
        activate = ACTIVATIONS[self.block_options.activation]
        if training:
            product = tf.matmul(kernel, columns, transpose_a=True)
            product = tf.reshape(product, (*product.shape[:-1], *rest))
            if bias is not None:
                product += bias[..., tf.newaxis, tf.newaxis, tf.newaxis]
            rows = tf.reshape(product, (-1, 1, 1, rest[-1]))  # BatchNorm requires four axes
            return activate(tf.reshape(self.norm(rows, training=True), shape_of(product)))
        # BatchNorm over channels commutes with a map of bins: scale the smaller side
        scale, shift = (self._per_column(vector, rest) for vector in self.norm.scale_and_shift())
        # for sigmoid and tanh: TF would fuse MatMul + BiasAdd + activation, which has no CPU kernel
        fusible = self.block_options.activation not in ("sigmoid", "tanh")
        if self.units > x.shape[0] and fusible:
            product = tf.matmul(kernel, columns * scale, transpose_a=True)
        else:
            product = tf.matmul(kernel, columns, transpose_a=True) * scale
        if bias is not None:
            product += bias[:, tf.newaxis] * scale
        product = activate(tf.nn.bias_add(product, shift))  # fused by TensorFlow
        return tf.reshape(product, (self.units, *rest))

    def _per_column(self, vector, rest):
        """``[C]`` -> ``[I * N * C]``."""
        instruments, frames, _ = rest
        return tf.tile(vector, [instruments * frames])


class ToFrequencyFirst(layers.Layer):
    """``[B, T, F, C]`` or ``[I, B, T, F, C]`` -> ``[F, I, N, C]`` with N = B * T."""

    @no_autograph
    def call(self, x):
        x = x if x.shape.rank == 5 else x[tf.newaxis]
        instruments, batch, frames, bins, channels = shape_of(x)
        x = tf.transpose(x, (3, 0, 1, 2, 4))  # [F, I, B, T, C]
        return tf.reshape(x, (bins, instruments, -1, channels))


class FromFrequencyFirst(layers.Layer):
    """``[F, I, N, C]`` -> ``[B, T, F, C]`` or ``[I, B, T, F, C]``, the shape of a second tensor."""

    @no_autograph
    def call(self, inputs):
        x, like = inputs
        bins, instruments, _, channels = shape_of(x)
        batch, frames, _, _ = shape_of(like)[-4:]
        x = tf.reshape(x, (bins, instruments, batch, frames, channels))
        x = tf.transpose(x, (1, 2, 3, 0, 4))  # [I, B, T, F, C]
        return x if like.shape.rank == 5 else x[0]


class Residual(layers.Layer):
    """Sum of two tensors; the first may have one instrument where the second has several."""

    @no_autograph
    def call(self, inputs):
        x, y = inputs
        return x + y


def frequency_transformation(
    inputs: tf.Tensor,
    options: FrequencyTransformation,
    name: str,
    block_options: BlockOptions = UNET_BLOCKS,
    embedding: tf.Tensor | None = None,
) -> tf.Tensor:
    """Add a frequency transformation to its input.

    Args:
        inputs: ``[B, T, F, C]`` or ``[I, B, T, F, C]``.
        options: type and sizes.
        name: prefix of the layers' names.
        block_options: those of the surrounding network.
        embedding: ``[I, E]`` of the instruments, for the types that depend on them.

    Returns:
        the shape of ``inputs``, with the instruments of ``embedding`` for those types.
    """
    transform = _linear if options.linear else _convolutions
    x = transform(inputs, options, name, block_options, embedding)
    return Residual(name=f"{name}_add")([inputs, x])


def _convolutions(inputs, options, name, block_options, _):
    """One ``BandConv1D`` per dilation down to ``width`` channels, one back to C channels."""
    x = inputs
    branches = []
    for index, dilation in enumerate(options.dilations, start=1):
        x = BandConv1D(
            options.width,
            options.kernel_size,
            options.bands,
            dilation,
            name=f"{name}_conv_{index}",
        )(inputs if options.parallel else x)
        x = BatchNormalization(
            epsilon=block_options.epsilon,
            momentum=block_options.momentum,
            name=f"{name}_norm_{index}",
        )(x)
        x = Activate(block_options.activation, name=f"{name}_activation_{index}")(x)
        branches.append(x)
    if options.parallel and len(branches) > 1:
        x = layers.Concatenate(name=f"{name}_branches")(branches)
    return BandConv1D(
        inputs.shape[-1],
        options.kernel_size,
        options.bands,
        start_at_zero=True,
        name=f"{name}_project",
    )(x)


def _linear(inputs, options, name, block_options, embedding):
    """Linear maps of all bins: to the bottleneck and back, or a single one without it.

    LaSAFT has ``num_tdfs`` of the last map, LightSAFT of the first.
    """
    bottleneck = options.bottleneck(inputs.shape[-2])
    units = [inputs.shape[-2]] if bottleneck is None else [bottleneck, inputs.shape[-2]]
    multiple = {"fc": None, "lasaft": len(units), "lightsaft": 1}[options.type]
    x = ToFrequencyFirst(name=f"{name}_first")(inputs)
    if multiple:
        attention = Attention(options.num_tdfs, options.dk, name=f"{name}_attention")(embedding)
    for index, size in enumerate(units, start=1):
        linear = FrequencyLinear(
            size,
            block_options,
            options.num_tdfs if index == multiple else None,
            options.bias,
            block_options.start_at_zero and index == len(units),
            name=f"{name}_linear_{index}",
        )
        x = linear([x, attention] if index == multiple else x)
    return FromFrequencyFirst(name=f"{name}_back")([x, inputs])
