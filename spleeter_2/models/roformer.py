"""Band-split RoFormer: transformers along time and along frequency bands estimate complex masks.

W.-T. Lu, J.-C. Wang, Q. Kong, Y.-N. Hung, "Music source separation with band-split RoPE
transformer", ICASSP 2024 (BS-RoFormer); J.-C. Wang, W.-T. Lu, M. Won, "Mel-band RoFormer for music
source separation", 2023. Rotary position embedding: J. Su et al., "RoFormer", 2021.

A token is a band in a frame: D features. Tensors of tokens are ``[B, T, bands, D]``, or
``[B, bands, T, D]`` along time; those of the attention are ``[B, S, n, D]``, S sequences of n
tokens. Norms are ``x / max(|x|, 1e-12) * sqrt(D) * gamma``, without an epsilon under the root.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from spleeter_2.config.networks import RoFormer
from spleeter_2.config.schema import Configuration

from .layers import PLANES, FromPlanes, ToPlanes, no_autograph, shape_of

layers = tf.keras.layers
EXPANSION = 4  # width of a feed-forward network, relative to its input
SMALLEST_NORM = 1e-12  # of a vector that is divided by its norm
THETA = 10000.0  # base of the rotary frequencies
LINEAR_SCALE = 8.0  # of the scores of linear attention
MAX_NUMBERS = 2**23  # of a tensor within a layer, 32 MB: sequences are computed in pieces


def build_roformer(
    configuration: Configuration, targets: tuple[str, ...], nb_bins: int
) -> tf.keras.Model:
    """Build the network for some of its instruments.

    Returns:
        Model from complex64 ``[B, T, F, C]`` to ``{target: complex64 [B, T, F, C]}``, any T.
    """
    options, nb_channels = configuration.model, configuration.nb_channels
    mixture = tf.keras.Input((None, nb_bins, nb_channels), dtype=tf.complex64, name="mixture")
    planes = ToPlanes(name=PLANES)(mixture)
    scale = configuration.stft.frame_length**-0.5 if options.normalized else 1.0
    x = BandSplit(options.bands, options.dim, scale, name="band_split")(planes)
    x = _blocks(options, x, configuration.segment.nb_frames)
    estimates = {}
    for target in targets:
        mask = MaskEstimator(
            options.bands,
            nb_channels,
            options.mask_layers,
            options.dim * options.mask_expansion,
            name=f"{target}_mask",
        )(x)
        estimate = Estimate(options.zero_dc, name=f"{target}_estimate")([planes, mask])
        estimates[target] = FromPlanes(name=f"{target}_spectrogram")(estimate)
    return tf.keras.Model(mixture, estimates, name=configuration.name)


def _blocks(options: RoFormer, x: tf.Tensor, nb_frames: int) -> tf.Tensor:
    """Tokens ``[B, T, bands, D]`` -> features for the masks, of the same shape.

    Args:
        nb_frames: expected T, by which layers are divided into pieces.
    """
    nb_bands = len(options.bands)
    time_rotary, frequency_rotary = (
        Rotary(options.head_size, name=name) for name in ("time_rotary", "frequency_rotary")
    )
    results: list[tf.Tensor] = []
    for number in range(1, options.depth + 1):
        name = f"block_{number}"
        if options.linear_layers:
            x = layers.Lambda(_flatten_tokens, name=f"{name}_flatten")(x)
            shape = (1, nb_frames * nb_bands)
            x = _transformer(options, x, shape, options.linear_layers, f"{name}_linear")
            x = Unflatten(nb_bands, name=f"{name}_unflatten")(x)
        if options.skip_connection and results:
            x = layers.Add(name=f"{name}_skip")([x, *results])
        x = layers.Permute((2, 1, 3), name=f"{name}_to_time")(x)  # [B, bands, T, D]
        shape = (nb_bands, nb_frames)
        x = _transformer(options, x, shape, options.time_layers, f"{name}_time", time_rotary)
        x = layers.Permute((2, 1, 3), name=f"{name}_to_bands")(x)  # [B, T, bands, D]
        shape = (nb_frames, nb_bands)
        x = _transformer(
            options, x, shape, options.frequency_layers, f"{name}_frequency", frequency_rotary
        )
        results.append(x)
    return x if options.output_norm else RMSNorm(name="output_norm")(x)


def _transformer(
    options: RoFormer,
    x: tf.Tensor,
    shape: tuple[int, int],
    count: int,
    name: str,
    rotary: Rotary | None = None,
) -> tf.Tensor:
    """Sequences ``[B, S, n, D]`` -> the same shape; linear attention without ``rotary``.

    Args:
        shape: expected S and n.
        count: number of layers.
    """
    sequences, length = shape
    inner = options.heads * options.head_size
    largest = max(options.heads * length, 3 * inner)  # scores, or queries, keys and values
    attention_pieces = _nb_pieces(sequences, length * largest)
    forward_pieces = _nb_pieces(sequences, length * EXPANSION * options.dim)
    for number in range(1, count + 1):
        layer = f"{name}_{number}"
        if rotary is None:
            attention = LinearAttention(
                options.heads, options.head_size, name=f"{layer}_attention"
            )(x)
        else:
            attention = Attention(
                options.heads, options.head_size, attention_pieces, name=f"{layer}_attention"
            )([x, rotary(x)])
        x = layers.Add(name=f"{layer}_attention_add")([x, attention])
        forward = FeedForward(forward_pieces, name=f"{layer}_feed_forward")(x)
        x = layers.Add(name=f"{layer}_feed_forward_add")([x, forward])
    return RMSNorm(name=f"{name}_norm")(x) if options.output_norm else x


def _nb_pieces(sequences: int, numbers: int) -> int:
    """Pieces in which to compute sequences of so many numbers each; equal ones if possible."""
    least = min(sequences, math.ceil(sequences * numbers / MAX_NUMBERS))
    counts = range(least, min(sequences, 2 * least) + 1)
    return min(counts, key=lambda count: -sequences % count)


def in_pieces(function: Callable, count: int, x: tf.Tensor, *weights: tf.Variable) -> tf.Tensor:
    """Apply a function of ``[B, S, n, D]`` and of weights to pieces of the sequences, in a loop.

    A graph has the operations of one piece, and reads the weights outside the loop.
    """
    weights = [tf.convert_to_tensor(weight) for weight in weights]
    if count == 1:
        return function(x, *weights)
    batch, sequences, length, dim = shape_of(x)
    total = batch * sequences
    size = -(-total // count)
    flat = tf.reshape(x, (total, length, dim))
    missing = count * size - total
    if not (isinstance(missing, int) and missing == 0):
        flat = tf.pad(flat, ((0, missing), (0, 0), (0, 0)))
    pieces = tf.reshape(flat, (count, 1, size, length, dim))
    results = tf.map_fn(
        lambda piece: function(piece, *weights),
        pieces,
        parallel_iterations=1,
        fn_output_signature=tf.TensorSpec(pieces.shape[1:], x.dtype),
    )
    flat = tf.reshape(results, (count * size, length, dim))[:total]
    return tf.reshape(flat, (batch, sequences, length, dim))


def _flatten_tokens(x: tf.Tensor) -> tf.Tensor:
    """``[B, T, bands, D]`` -> one sequence ``[B, 1, T * bands, D]``."""
    batch, nb_frames, nb_bands, dim = shape_of(x)
    return tf.reshape(x, (batch, 1, nb_frames * nb_bands, dim))


class Unflatten(layers.Layer):
    """``[B, 1, T * bands, D]`` -> ``[B, T, bands, D]``."""

    def __init__(self, nb_bands: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.nb_bands = nb_bands

    @no_autograph
    def call(self, inputs):
        batch, _, _, dim = shape_of(inputs)
        return tf.reshape(inputs, (batch, -1, self.nb_bands, dim))


def divided_by_norm(x: tf.Tensor, axis: int = -1) -> tf.Tensor:
    """``x / max(|x|, 1e-12)`` in float32; with a gradient at zero."""
    x = tf.cast(x, tf.float32)
    squared = tf.reduce_sum(tf.square(x), axis, keepdims=True)
    return x / tf.sqrt(tf.maximum(squared, SMALLEST_NORM**2))


def rms_norm(x: tf.Tensor, gamma: tf.Tensor) -> tf.Tensor:
    """RMSNorm over the last axis, in the dtype of x."""
    scale = math.sqrt(x.shape[-1]) * tf.cast(gamma, tf.float32)
    return tf.cast(divided_by_norm(x) * scale, x.dtype)


def dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    """``[..., D]`` times ``[D, E]`` -> ``[..., E]``, as one matrix product."""
    *leading, dim = shape_of(x)
    result = tf.matmul(tf.reshape(x, (-1, dim)), kernel)
    if bias is not None:
        result = tf.nn.bias_add(result, bias)
    return tf.reshape(result, (*leading, kernel.shape[-1]))


class Layer(layers.Layer):
    """Base of the layers with weights here: kernels are scaled by the root of their inputs."""

    def kernel(self, name: str, shape: tuple[int, ...], inputs: int) -> tf.Variable:
        initializer = tf.keras.initializers.RandomNormal(stddev=inputs**-0.5)
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def vector(self, name: str, size: int, initializer: str = "zeros") -> tf.Variable:
        return self.add_weight(name=name, shape=(size,), initializer=initializer)


class RMSNorm(Layer):
    """RMSNorm over the last axis (Zhang and Sennrich, 2019)."""

    def build(self, input_shape) -> None:
        self.gamma = self.vector("gamma", int(input_shape[-1]), "ones")
        super().build(input_shape)

    @no_autograph
    def call(self, inputs):
        return rms_norm(inputs, self.gamma)


class BandSplit(Layer):
    """Planes of the mixture ``[B, T, F, 2C]`` -> tokens ``[B, T, bands, D]``.

    The features of a band are ordered by bin, channel, and real and imaginary part, the last one
    fastest.

    Args:
        bands: first bin and end of each.
        dim: D.
        scale: factor of the planes.
    """

    def __init__(self, bands: tuple[tuple[int, int], ...], dim: int, scale: float, **kwargs):
        super().__init__(**kwargs)
        self.bands = bands
        self.dim = dim
        self.scale = scale

    def build(self, input_shape) -> None:
        self.parts = []
        for number, (start, end) in enumerate(self.bands, start=1):
            size = (end - start) * int(input_shape[-1])
            gamma = self.vector(f"band_{number}_gamma", size, "ones")
            kernel = self.kernel(f"band_{number}_kernel", (size, self.dim), size)
            self.parts.append((gamma, kernel, self.vector(f"band_{number}_bias", self.dim)))
        super().build(input_shape)

    @no_autograph
    def call(self, inputs):
        batch, nb_frames, nb_bins, planes = shape_of(inputs)
        x = tf.reshape(inputs, (batch, nb_frames, nb_bins, 2, planes // 2))
        x = tf.transpose(x, (0, 1, 2, 4, 3))  # [B, T, F, C, 2]
        x = self.scale * tf.reshape(x, (batch, nb_frames, nb_bins * planes))
        tokens = [
            dense(rms_norm(x[:, :, start * planes : end * planes], gamma), kernel, bias)
            for (start, end), (gamma, kernel, bias) in zip(self.bands, self.parts, strict=True)
        ]
        return tf.stack(tokens, axis=2)


class Rotary(layers.Layer):
    """Angles of the rotary position embedding: ``[B, S, n, D]`` -> ``[2, n, head_size / 2]``.

    The cosines and sines of position times frequency, always computed in float32. The frequencies
    are stored, since those of a checkpoint in 16 bits are rounded.
    """

    def __init__(self, head_size: int, **kwargs) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.head_size = head_size

    def build(self, input_shape) -> None:
        exponents = tf.range(0, self.head_size, 2, tf.float32) / self.head_size
        self.frequencies = self.add_weight(
            name="frequencies",
            shape=(self.head_size // 2,),
            initializer=lambda shape, dtype: tf.cast(THETA**-exponents, dtype),
            trainable=False,
        )
        super().build(input_shape)

    @no_autograph
    def call(self, inputs):
        positions = tf.range(tf.cast(shape_of(inputs)[2], tf.float32), dtype=tf.float32)
        angles = positions[:, tf.newaxis] * self.frequencies
        return tf.stack([tf.cos(angles), tf.sin(angles)])


def rotated(x: tf.Tensor, angles: tf.Tensor) -> tf.Tensor:
    """Rotate the pairs of ``[B, S, n, heads, 2, d/2]`` -> ``[B, S, n, heads, d]``."""
    angles = tf.cast(angles, x.dtype)[:, :, tf.newaxis]  # [2, n, 1, d/2]
    one, two = x[..., 0, :], x[..., 1, :]
    cosine, sine = angles[0], angles[1]
    return tf.concat([one * cosine - two * sine, two * cosine + one * sine], axis=-1)


class Attention(Layer):
    """Gated self-attention with rotary positions: sequences ``[B, S, n, D]`` -> the same shape.

    The kernel of queries, keys and values is ``[D, 3, heads, 2, d/2]``: the dimensions of a head
    are stored by their place in a pair, since rotary frequencies apply to pairs. Each head is
    multiplied by a sigmoid of the normalised input.

    Args:
        heads, size: number of heads, and d.
        pieces: see ``in_pieces``.
    """

    def __init__(self, heads: int, size: int, pieces: int = 1, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.size = size
        self.pieces = pieces

    def build(self, input_shape) -> None:
        dim = int(input_shape[0][-1])
        self.gamma = self.vector("gamma", dim, "ones")
        shape = (dim, 3, self.heads, 2, self.size // 2)
        self.qkv_kernel = self.kernel("qkv_kernel", shape, dim)
        self.gates_kernel = self.kernel("gates_kernel", (dim, self.heads), dim)
        self.gates_bias = self.vector("gates_bias", self.heads)
        inner = self.heads * self.size
        shape = (self.heads, 2, self.size // 2, dim)
        self.output_kernel = self.kernel("output_kernel", shape, inner)
        super().build(input_shape)

    @no_autograph
    def call(self, inputs):
        x, angles = inputs
        dim, inner = x.shape[-1], self.heads * self.size
        qkv_kernel = tf.reshape(self.qkv_kernel, (dim, 3 * inner))
        output_kernel = tf.reshape(self.output_kernel, (inner, dim))
        weights = self.gamma, self.gates_kernel, self.gates_bias, qkv_kernel, output_kernel
        return in_pieces(self.attention, self.pieces, x, angles, *weights)

    def attention(
        self, x, angles, gamma, gates_kernel, gates_bias, qkv_kernel, output_kernel
    ) -> tf.Tensor:
        x = rms_norm(x, gamma)
        gates = tf.sigmoid(dense(x, gates_kernel, gates_bias))
        return dense(self.attend(dense(x, qkv_kernel), gates, angles), output_kernel)

    def attend(self, qkv: tf.Tensor, gates: tf.Tensor, angles: tf.Tensor) -> tf.Tensor:
        """``[B, S, n, 3 heads d]`` and ``[B, S, n, heads]`` -> ``[B, S, n, heads d]``."""
        batch, sequences, length, _ = shape_of(qkv)
        shape = (batch, sequences, length, self.heads, 2, self.size // 2)
        query, key, value = (tf.reshape(part, shape) for part in tf.split(qkv, 3, axis=-1))
        query = rotated(query, angles * self.size**-0.5)
        key = rotated(key, angles)
        value = tf.reshape(value, (batch, sequences, length, self.heads, self.size))
        query = tf.transpose(query, (0, 1, 3, 2, 4))  # [B, S, heads, n, d]
        key = tf.transpose(key, (0, 1, 3, 4, 2))  # [B, S, heads, d, n]
        value = tf.transpose(value, (0, 1, 3, 2, 4))
        heads = tf.matmul(tf.nn.softmax(tf.matmul(query, key)), value)
        heads = tf.transpose(heads, (0, 1, 3, 2, 4)) * gates[..., tf.newaxis]
        return tf.reshape(heads, (batch, sequences, length, self.heads * self.size))


class LinearAttention(Layer):
    """Attention among features, linear in n: sequences ``[B, S, n, D]`` -> the same shape.

    Queries and keys are divided by their norms over the n tokens; the softmax is over a head's d
    features (El-Nouby et al., "XCiT", 2021). Without positions and gates.

    Args:
        heads, size: number of heads, and d.
    """

    def __init__(self, heads: int, size: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.size = size

    def build(self, input_shape) -> None:
        dim, inner = int(input_shape[-1]), self.heads * self.size
        self.gamma = self.vector("gamma", dim, "ones")
        self.qkv_kernel = self.kernel("qkv_kernel", (dim, 3 * inner), dim)
        shape = (self.heads, 1, 1)
        self.temperature = self.add_weight(name="temperature", shape=shape, initializer="zeros")
        self.output_kernel = self.kernel("output_kernel", (inner, dim), inner)
        super().build(input_shape)

    @no_autograph
    def call(self, inputs):
        batch, sequences, length, _ = shape_of(inputs)
        qkv = dense(rms_norm(inputs, self.gamma), self.qkv_kernel)
        qkv = tf.reshape(qkv, (batch, sequences, length, 3, self.heads, self.size))
        qkv = tf.transpose(qkv, (3, 0, 1, 4, 5, 2))  # [3, B, S, heads, d, n]
        query, key, value = tf.unstack(qkv)
        factor = LINEAR_SCALE * tf.exp(tf.cast(self.temperature, tf.float32))
        query = divided_by_norm(query) * factor
        scores = tf.matmul(query, divided_by_norm(key), transpose_b=True)  # [.., heads, d, d]
        heads = tf.matmul(tf.cast(tf.nn.softmax(scores), value.dtype), value)
        heads = tf.transpose(heads, (0, 1, 4, 2, 3))  # [B, S, n, heads, d]
        heads = tf.reshape(heads, (batch, sequences, length, self.heads * self.size))
        return dense(heads, self.output_kernel)


class FeedForward(Layer):
    """RMSNorm and two dense layers with a GELU (the exact one) between: ``[B, S, n, D]``.

    Args:
        pieces: see ``in_pieces``.
    """

    def __init__(self, pieces: int = 1, **kwargs) -> None:
        super().__init__(**kwargs)
        self.pieces = pieces

    def build(self, input_shape) -> None:
        dim = int(input_shape[-1])
        width = EXPANSION * dim
        self.gamma = self.vector("gamma", dim, "ones")
        self.kernel_1 = self.kernel("kernel_1", (dim, width), dim)
        self.bias_1 = self.vector("bias_1", width)
        self.kernel_2 = self.kernel("kernel_2", (width, dim), width)
        self.bias_2 = self.vector("bias_2", dim)
        super().build(input_shape)

    @no_autograph
    def call(self, inputs):
        weights = self.gamma, self.kernel_1, self.bias_1, self.kernel_2, self.bias_2
        return in_pieces(self.forward, self.pieces, inputs, *weights)

    def forward(self, x, gamma, kernel_1, bias_1, kernel_2, bias_2) -> tf.Tensor:
        x = dense(rms_norm(x, gamma), kernel_1, bias_1)
        return dense(tf.nn.gelu(x, approximate=False), kernel_2, bias_2)


class MaskEstimator(Layer):
    """A target's masks from the features ``[B, T, bands, D]``: ``[B, T, F, C, 2]``.

    A network for every band: dense layers with tanh between, and a gated linear unit (the first
    half times the sigmoid of the second). Where bands overlap the mean of their masks is taken.

    Args:
        bands: first bin and end of each.
        nb_channels: C.
        hidden, width: hidden layers, and their units.
    """

    def __init__(
        self,
        bands: tuple[tuple[int, int], ...],
        nb_channels: int,
        hidden: int,
        width: int,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.bands = bands
        self.nb_channels = nb_channels
        self.hidden = hidden
        self.width = width

    def build(self, input_shape) -> None:
        self.networks = []
        for number, (start, end) in enumerate(self.bands, start=1):
            result = 2 * 2 * self.nb_channels * (end - start)
            sizes = [int(input_shape[-1]), *[self.width] * self.hidden, result]
            self.networks.append(
                [
                    (
                        self.kernel(f"band_{number}_kernel_{n}", (sizes[n - 1], sizes[n]), size),
                        self.vector(f"band_{number}_bias_{n}", sizes[n]),
                    )
                    for n, size in enumerate(sizes[:-1], start=1)
                ]
            )
        super().build(input_shape)

    @no_autograph
    def call(self, inputs):
        masks = []
        for x, network in zip(tf.unstack(inputs, axis=2), self.networks, strict=True):
            for number, (kernel, bias) in enumerate(network):
                x = dense(tf.tanh(x) if number else x, kernel, bias)
            half = x.shape[-1] // 2
            # no tf.split: TensorFlow 2.12 with oneDNN would fuse both parts as the swish of one
            value, gate = x[..., :half], x[..., half:]
            masks.append(value * tf.sigmoid(gate))  # [B, T, bins * C * 2]
        return self.joined(masks)

    def joined(self, masks: list[tf.Tensor]) -> tf.Tensor:
        """Mean of the bands' masks in every bin."""
        batch, nb_frames, _ = shape_of(masks[0])
        nb_bins = max(end for _, end in self.bands)
        per_bin = 2 * self.nb_channels
        rows = disjoint_rows(self.bands)
        total = None
        for row in rows:
            parts, reached = [], 0
            for number in row:
                start, end = self.bands[number]
                if start > reached:
                    gap = (batch, nb_frames, (start - reached) * per_bin)
                    parts.append(tf.zeros(gap, masks[0].dtype))
                parts.append(masks[number])
                reached = end
            if reached < nb_bins:
                gap = (batch, nb_frames, (nb_bins - reached) * per_bin)
                parts.append(tf.zeros(gap, masks[0].dtype))
            joined = tf.concat(parts, axis=-1)
            total = joined if total is None else total + joined
        total = tf.reshape(total, (batch, nb_frames, nb_bins, self.nb_channels, 2))
        if len(rows) == 1:
            return total
        counts = [sum(start <= bin < end for start, end in self.bands) for bin in range(nb_bins)]
        return total / tf.reshape(tf.constant(counts, total.dtype), (nb_bins, 1, 1))


def disjoint_rows(bands: tuple[tuple[int, int], ...]) -> list[list[int]]:
    """Distribute bands over rows in which none overlap; indices of the bands per row."""
    rows: list[list[int]] = []
    for number, (start, _) in enumerate(bands):
        free = next((row for row in rows if bands[row[-1]][1] <= start), None)
        if free is None:
            rows.append([number])
        else:
            free.append(number)
    return rows


class Estimate(layers.Layer):
    """Complex mask times mixture: planes ``[B, T, F, 2C]``. Always computed in float32."""

    def __init__(self, zero_dc: bool, **kwargs) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.zero_dc = zero_dc

    @no_autograph
    def call(self, inputs):
        planes, mask = inputs
        real, imaginary = tf.split(planes, 2, axis=-1)
        mask_real, mask_imaginary = mask[..., 0], mask[..., 1]
        estimate = tf.concat(
            [
                real * mask_real - imaginary * mask_imaginary,
                real * mask_imaginary + imaginary * mask_real,
            ],
            axis=-1,
        )
        if self.zero_dc:
            estimate = tf.pad(estimate[:, :, 1:], ((0, 0), (0, 0), (1, 0), (0, 0)))
        return estimate
