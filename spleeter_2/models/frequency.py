"""Frequency transformations: blocks that mix information along frequency, frame by frame.

Every type maps ``[..., T, F, C]`` to ``[..., T, F, C]`` and is added to its own input
(``x + transformation(x)``), in Spleeter's U-Net and in the conditioned U-Net alike. With k the
kernel size, w the width, b the bands, D the dilations, u the bottleneck's units, K the number of
maps and a bin of r Hz (the sample rate over the frame length, doubled by every level):

============  ======================================  ===================  =====================
type          computes                                weights, about       sees around a bin, Hz
============  ======================================  ===================  =====================
fc            all bins -> u -> all bins               2 F u                everything
conv          patterns that recur at any pitch        2 k C w              2 (k - 1) r
dilated       kernels that span harmonics             k w (D w + C)        (k - 1) (sum D + 1) r
grouped       patterns of a band's own                2 b k C w            as conv, in its band
lasaft        K times fc, weighed by the instrument   F u (K + 1)          everything
lightsaft     as lasaft, K bottlenecks of one map     F u (K + 1)          everything
============  ======================================  ===================  =====================

In Spleeter's U-Net each starts at zero, so that a pretrained network into which it is put computes
at first what it did before.

fc is the TDF of W. Choi et al., "Investigating U-Nets with various intermediate blocks", ISMIR
2020; lasaft and lightsaft are from their "LaSAFT: Latent source attentive frequency
transformation", ICASSP 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from spleeter_2.config.networks import FrequencyTransformation

from .layers import ACTIVATIONS, Activate, BatchNormalization, Norm, plain, shape_of

layers = tf.keras.layers


@dataclass(frozen=True)
class Habits:
    """What a network wants of the blocks that are put into it."""

    activation: str  # name in ``ACTIVATIONS``
    epsilon: float  # of BatchNorm
    momentum: float  # of BatchNorm
    start_at_zero: bool


UNET_HABITS = Habits("leaky_relu_0.2", 1e-3, 0.99, True)


class BandConv1D(layers.Layer):
    """1-D convolution along frequency with kernels of its own for every band.

    The F bins are cut into ``bands`` neighbouring bands, as equal in size as F allows; each has
    its own ``kernel_size x C x filters`` kernel and zero padding, since a kernel shared by all
    bands was found to filter out too much of the high ones. ``bands=1`` is a plain convolution.

    The weights stand in one tensor, but every band is convolved on its own: on TensorFlow's
    CPU the gradient of a grouped convolution takes about 24 times as long.

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
        # a dilated convolution has no gradient on TensorFlow's CPU: gather its taps
        nb_bins, around = x.shape[-2], self.dilation * (self.kernel_size - 1)
        padding = [[0, 0]] * (x.shape.rank - 2) + [[around // 2, around - around // 2], [0, 0]]
        padded = tf.pad(x, padding)
        taps = [
            padded[..., start : start + nb_bins, :] for start in range(0, around + 1, self.dilation)
        ]
        flat = tf.reshape(kernel, (-1, self.filters))  # [kernel_size * C, filters]
        return tf.matmul(tf.concat(taps, axis=-1), flat)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "bands": self.bands,
            "dilation": self.dilation,
            "start_at_zero": self.start_at_zero,
        }


class Attention(layers.Layer):
    """How much every map matters to an instrument: softmax of query times keys.

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

    @plain
    def call(self, embedding):
        query = tf.matmul(embedding, self.kernel) + self.bias
        return tf.nn.softmax(tf.matmul(query, self.keys) / self.dk**0.5)

    def get_config(self) -> dict:
        return {**super().get_config(), "num_tdfs": self.num_tdfs, "dk": self.dk}


class FrequencyLinear(layers.Layer):
    """Linear map along frequency, BatchNorm over channels, activation.

    With ``num_tdfs`` there are as many maps side by side, and the result is the sum of theirs
    weighed by attention. Frequency comes first here: so the map is one matrix product for all
    frames, channels and instruments. The maps' values may have one instrument where the weights
    have several; then they are computed once for all of them.

    Shapes: ``[F, I, N, C]`` -> ``[units, I, N, C]``, N all frames; attention ``[I, num_tdfs]``;
    kernel ``[F, units]`` or ``[num_tdfs, F, units]``.
    """

    def __init__(
        self,
        units: int,
        habits: Habits,
        num_tdfs: int | None = None,
        use_bias: bool = False,
        start_at_zero: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.habits = habits
        self.num_tdfs = num_tdfs
        self.use_bias = use_bias
        # the BatchNorm is last; LeakyReLU passes a gradient at zero
        gamma = "zeros" if start_at_zero else "ones"
        self.norm = Norm(habits.epsilon, habits.momentum, gamma_initializer=gamma, name="norm")

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

    @plain
    def call(self, inputs, training=False):
        if not self.num_tdfs:
            return self.values(inputs, self.kernel, self.bias, training)
        x, attention = inputs
        if training:  # BatchNorm's statistics are those of all maps together
            x = self.values(x, self.kernel, self.bias, True)  # [num_tdfs, units, I, N, C]
            return tf.reduce_sum(x * self.weights_of(attention), axis=0)
        total = None
        for index in range(self.num_tdfs):  # one after the other: their values are large
            bias = None if self.bias is None else self.bias[index]
            value = self.values(x, self.kernel[index], bias, False)
            value *= self.weights_of(attention)[index]
            total = value if total is None else total + value
        return total

    def weights_of(self, attention):
        """``[I, num_tdfs]`` -> ``[num_tdfs, 1, I, 1, 1]``."""
        return tf.transpose(attention)[:, tf.newaxis, :, tf.newaxis, tf.newaxis]

    def values(self, x, kernel, bias, training):
        """``[F, I, N, C]`` -> ``[..., units, I, N, C]`` for a kernel ``[..., F, units]``."""
        _, *rest = shape_of(x)
        columns = tf.reshape(x, (x.shape[0], -1))  # [F, I * N * C]
        activate = ACTIVATIONS[self.habits.activation]
        if training:
            product = tf.matmul(kernel, columns, transpose_a=True)
            product = tf.reshape(product, (*product.shape[:-1], *rest))
            if bias is not None:
                product += bias[..., tf.newaxis, tf.newaxis, tf.newaxis]
            rows = tf.reshape(product, (-1, 1, 1, rest[-1]))  # BatchNorm wants four axes
            return activate(tf.reshape(self.norm(rows, training=True), shape_of(product)))
        # a BatchNorm over channels commutes with a map of bins: scale the side that has fewer
        scale, shift = (self._per_column(vector, rest) for vector in self.norm.scale_and_shift())
        # the right one always where TensorFlow would fuse what its CPU cannot compute fused
        fusible = self.habits.activation not in ("sigmoid", "tanh")
        if self.units > x.shape[0] and fusible:
            product = tf.matmul(kernel, columns * scale, transpose_a=True)
        else:
            product = tf.matmul(kernel, columns, transpose_a=True) * scale
        if bias is not None:
            product += bias[:, tf.newaxis] * scale
        product = activate(tf.nn.bias_add(product, shift))  # TensorFlow fuses these
        return tf.reshape(product, (self.units, *rest))

    def _per_column(self, vector, rest):
        """``[C]`` -> ``[I * N * C]``."""
        instruments, frames, _ = rest
        return tf.tile(vector, [instruments * frames])


class FrequencyFirst(layers.Layer):
    """``[B, T, F, C]`` or ``[I, B, T, F, C]`` -> ``[F, I, N, C]`` with N = B * T."""

    @plain
    def call(self, x):
        x = x if x.shape.rank == 5 else x[tf.newaxis]
        instruments, batch, frames, bins, channels = shape_of(x)
        x = tf.transpose(x, (3, 0, 1, 2, 4))  # [F, I, B, T, C]
        return tf.reshape(x, (bins, instruments, -1, channels))


class FrequencyBack(layers.Layer):
    """``[F, I, N, C]`` -> ``[B, T, F, C]`` or ``[I, B, T, F, C]``, as a second tensor has it."""

    @plain
    def call(self, inputs):
        x, like = inputs
        bins, instruments, _, channels = shape_of(x)
        batch, frames, _, _ = shape_of(like)[-4:]
        x = tf.reshape(x, (bins, instruments, batch, frames, channels))
        x = tf.transpose(x, (1, 2, 3, 0, 4))  # [I, B, T, F, C]
        return x if like.shape.rank == 5 else x[0]


class Residual(layers.Layer):
    """Sum of two tensors, of which the first may have one instrument where the other has more."""

    @plain
    def call(self, inputs):
        x, y = inputs
        return x + y


def frequency_transformation(
    inputs: tf.Tensor,
    options: FrequencyTransformation,
    name: str,
    habits: Habits = UNET_HABITS,
    embedding: tf.Tensor | None = None,
) -> tf.Tensor:
    """Add a frequency transformation to its input.

    Args:
        inputs: ``[B, T, F, C]`` or ``[I, B, T, F, C]``.
        options: type and sizes.
        name: prefix of the layers' names.
        habits: of the network around it.
        embedding: ``[I, E]`` of the instruments, for the types that depend on them.

    Returns:
        shape of ``inputs``; with as many instruments as ``embedding`` where it matters.
    """
    transform = _linear if options.linear else _convolutions
    x = transform(inputs, options, name, habits, embedding)
    return Residual(name=f"{name}_add")([inputs, x])


def _convolutions(inputs, options, name, habits, _):
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
            epsilon=habits.epsilon, momentum=habits.momentum, name=f"{name}_norm_{index}"
        )(x)
        x = Activate(habits.activation, name=f"{name}_activation_{index}")(x)
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


def _linear(inputs, options, name, habits, embedding):
    """Linear maps of all bins: to the bottleneck and back, or a single one without it.

    Of LaSAFT's maps the last one is manifold, of LightSAFT's the first.
    """
    bottleneck = options.bottleneck(inputs.shape[-2])
    units = [inputs.shape[-2]] if bottleneck is None else [bottleneck, inputs.shape[-2]]
    manifold = {"fc": None, "lasaft": len(units), "lightsaft": 1}[options.type]
    x = FrequencyFirst(name=f"{name}_first")(inputs)
    if manifold:
        attention = Attention(options.num_tdfs, options.dk, name=f"{name}_attention")(embedding)
    for index, size in enumerate(units, start=1):
        linear = FrequencyLinear(
            size,
            habits,
            options.num_tdfs if index == manifold else None,
            options.bias,
            habits.start_at_zero and index == len(units),
            name=f"{name}_linear_{index}",
        )
        x = linear([x, attention] if index == manifold else x)
    return FrequencyBack(name=f"{name}_back")([x, inputs])
