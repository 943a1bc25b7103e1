"""Layers and helpers shared by all models."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import tensorflow as tf

PLANES = "mixture_planes"  # name of the layer behind the mixture
LEAKY_SLOPE = 0.2  # slope of the leaky ReLU below zero, as in Spleeter's encoder

ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "identity": lambda x: x,
    "relu": tf.nn.relu,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.01),  # PyTorch's slope
    "leaky_relu_0.2": lambda x: tf.nn.leaky_relu(x, LEAKY_SLOPE),
    "sigmoid": tf.nn.sigmoid,
    "tanh": tf.nn.tanh,
}


def no_autograph(call: Callable) -> Callable:
    """Decorator: run a layer's ``call`` without AutoGraph.

    AutoGraph rewrites the source so that Python's ``if`` may depend on tensors. No layer here
    needs that, and rewriting all of them took a second of every start.
    """
    wrapper = tf.autograph.experimental.do_not_convert(call)
    # Keras inspects the signature for arguments such as training
    wrapper.__signature__ = inspect.signature(call)
    return wrapper


def pad_bins(x: tf.Tensor, nb_bins: int) -> tf.Tensor:
    """``[B, T, F, C]`` -> ``[B, T, nb_bins, C]``, zeros on top; no-op if equal."""
    above = nb_bins - x.shape[2]
    return tf.pad(x, ((0, 0), (0, 0), (0, above), (0, 0))) if above else x


def crop_bins(x: tf.Tensor, nb_bins: int) -> tf.Tensor:
    """``[B, T, F, C]`` -> ``[B, T, nb_bins, C]``, the lowest ones; no-op if equal."""
    return x[:, :, :nb_bins] if x.shape[2] > nb_bins else x


class ToPlanes(tf.keras.layers.Layer):
    """Complex-as-channels: complex64 ``[B, T, F, C]`` -> planes ``[B, T, F, 2C]``."""

    @no_autograph
    def call(self, spectrogram):
        return tf.concat([tf.math.real(spectrogram), tf.math.imag(spectrogram)], axis=-1)


class FromPlanes(tf.keras.layers.Layer):
    """Planes ``[B, T, F, 2C]`` -> complex64 ``[B, T, F, C]``, always computed in float32."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    @no_autograph
    def call(self, planes):
        return tf.complex(*tf.split(planes, 2, axis=-1))


def magnitude_of(planes: tf.Tensor) -> tf.Tensor:
    """Planes ``[B, T, F, 2C]`` -> magnitude ``[B, T, F, C]``; without a gradient at zero."""
    real, imaginary = tf.split(planes, 2, axis=-1)
    return tf.sqrt(real**2 + imaginary**2)


def scale_complex(spectrogram: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Complex times real. (The gradient of a cast to complex would log a warning.)"""
    return tf.complex(tf.math.real(spectrogram) * factor, tf.math.imag(spectrogram) * factor)


def shape_of(x: tf.Tensor) -> list:
    """Sizes of a tensor: integers where static, scalar tensors elsewhere."""
    dynamic = tf.shape(x)
    return [dynamic[axis] if size is None else size for axis, size in enumerate(x.shape)]


def to_polyphase(x: tf.Tensor, n: int) -> tf.Tensor:
    """``[B, n T, n F, C]`` -> ``[B, T, F, n n C]``: ``space_to_depth``, but on all cores."""
    _, nb_frames, nb_bins, channels = shape_of(x)
    blocks = tf.reshape(x, (-1, n, nb_bins // n, n * channels))
    blocks = tf.transpose(blocks, (0, 2, 1, 3))
    return tf.reshape(blocks, (-1, nb_frames // n, nb_bins // n, n * n * channels))


def from_polyphase(x: tf.Tensor, n: int) -> tf.Tensor:
    """``[B, T, F, n n C]`` -> ``[B, n T, n F, C]``: ``depth_to_space``, but on all cores."""
    _, nb_frames, nb_bins, channels = shape_of(x)
    rows = tf.reshape(x, (-1, nb_bins, n, channels // n))
    rows = tf.transpose(rows, (0, 2, 1, 3))
    return tf.reshape(rows, (-1, n * nb_frames, n * nb_bins, channels // (n * n)))


class Activate(tf.keras.layers.Layer):
    """An activation of ``ACTIVATIONS``, by name."""

    def __init__(self, activation: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.activation = activation

    @no_autograph
    def call(self, inputs):
        return ACTIVATIONS[self.activation](inputs)


class BatchNormalization(tf.keras.layers.BatchNormalization):
    """Keras' layer, with statistics of the whole batch when several devices train.

    Keras' ``synchronized`` option subtracts two means of squares, which is less exact, and keeps
    another variance for inference than a single device does. All devices must have batches of
    the same size.
    """

    def build(self, input_shape) -> None:
        if input_shape[-1] == 1:
            self.fused = False  # for one channel the fused CPU kernel is slower
        super().build(input_shape)

    def add_weight(self, *args, **kwargs):
        # replicas hold equal values: read locally, without a sync
        if kwargs.get("synchronization") is tf.VariableSynchronization.ON_READ:
            kwargs["synchronization"] = tf.VariableSynchronization.AUTO
            kwargs["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
        return super().add_weight(*args, **kwargs)

    @no_autograph
    def call(self, inputs, training=None):
        nb_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if nb_replicas > 1 and training is True and self.trainable:
            return self._normalise_all(inputs, nb_replicas)
        return super().call(inputs, training=training)

    def _normalise_all(self, inputs, nb_replicas):
        x = tf.cast(inputs, tf.float32)
        axes = list(range(x.shape.rank - 1))

        def mean_of_all(values):
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.reduce_mean(values, axes))

        mean = mean_of_all(x)
        variance = mean_of_all(tf.math.squared_difference(x, mean))
        unbiased = variance
        if self.fused:  # Bessel's correction, as in the fused kernel
            count = nb_replicas * tf.cast(tf.size(x) / x.shape[-1], tf.float32)
            unbiased = variance * count / (count - 1)
        for kept, new in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            kept.assign(self.momentum * kept + (1 - self.momentum) * new)
        normal = tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, self.epsilon)
        return tf.cast(normal, inputs.dtype)


class Norm(BatchNormalization):
    """BatchNorm over the last axis with PyTorch's constants, foldable into a linear layer."""

    def __init__(self, epsilon: float = 1e-5, momentum: float = 0.9, **kwargs) -> None:
        super().__init__(epsilon=epsilon, momentum=momentum, **kwargs)

    def scale_and_shift(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Scale and shift ``[C]`` of the equivalent ``scale * x + shift`` at inference."""
        scale = self.gamma * tf.math.rsqrt(self.moving_variance + self.epsilon)
        shift = self.beta - self.moving_mean * scale
        return tf.cast(scale, self.compute_dtype), tf.cast(shift, self.compute_dtype)


class ConvNorm(tf.keras.layers.Layer):
    """2-D convolution, BatchNorm and activation, folded into one convolution at inference.

    Shapes: ``[..., T, F, C]`` -> ``[..., T', F', filters]``; kernel ``[kT, kF, C, filters]``.

    Args:
        filters: channels of the result.
        kernel_size: frames and bins.
        strides: frames and bins.
        pad: zero frames and bins added on either side.
        activation: name in ``ACTIVATIONS``.
        norm: apply a BatchNorm.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: tuple[int, int],
        strides: tuple[int, int] = (1, 1),
        pad: tuple[int, int] = (0, 0),
        activation: str = "identity",
        norm: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.strides = tuple(strides)
        self.pad = tuple(pad)
        self.activation = activation
        self.norm = Norm(name="norm") if norm else None

    def build(self, input_shape) -> None:
        shape = self.kernel_shape(int(input_shape[-1]))
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="he_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        if self.norm is not None:
            with tf.name_scope("norm"):
                self.norm.build((None, None, None, self.filters))
        super().build(input_shape)

    def kernel_shape(self, channels: int) -> tuple[int, int, int, int]:
        return (*self.kernel_size, channels, self.filters)

    @no_autograph
    def call(self, inputs, training=False):
        x = tf.reshape(inputs, (-1, *shape_of(inputs)[-3:]))  # [I * B, T, F, C]
        activate = ACTIVATIONS[self.activation]
        if self.norm is None:
            x = activate(self.convolve(x, self.kernel, self.bias))
        elif training:
            x = self.convolve(x, self.kernel, self.bias)
            x = activate(self.norm(x, training=True))
        else:
            x = activate(self.convolve(x, *self.folded()))
        return tf.reshape(x, (*shape_of(inputs)[:-3], *shape_of(x)[-3:]))

    def folded(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Kernel and bias with the BatchNorm folded in."""
        scale, shift = self.norm.scale_and_shift()
        return self.scaled_kernel(scale), self.bias * scale + shift

    def scaled_kernel(self, scale):
        return self.kernel * scale

    def convolve(self, x, kernel, bias):
        (frames, bins) = self.pad
        padding = ((0, 0), (frames, frames), (bins, bins), (0, 0))
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, self.strides, padding), bias)


class UpsampleNorm(ConvNorm):
    """Transposed convolution whose kernel is its stride, and BatchNorm.

    Patches do not overlap, so they are computed as channels of a 1x1 convolution and laid out
    afterwards. The weights are those of Keras' ``Conv2DTranspose``.

    Shapes: ``[..., T, F, C]`` -> ``[..., T * kT, 2F, filters]``; kernel ``[kT, 2, filters, C]``
    with kT 1 or 2.
    """

    def __init__(self, filters: int, kernel_size: tuple[int, int], **kwargs) -> None:
        super().__init__(filters, kernel_size, **kwargs)

    def kernel_shape(self, channels: int) -> tuple[int, int, int, int]:
        return (*self.kernel_size, self.filters, channels)

    def scaled_kernel(self, scale):
        return self.kernel * scale[:, tf.newaxis]

    def convolve(self, x, kernel, bias):
        frames, bins = self.kernel_size
        flat = tf.reshape(kernel, (1, 1, frames * bins * self.filters, -1))
        patches = tf.nn.conv2d(x, tf.transpose(flat, (0, 1, 3, 2)), 1, "VALID")
        patches = tf.nn.bias_add(patches, tf.tile(bias, [frames * bins]))
        if frames == 1:
            _, nb_frames, nb_bins, _ = shape_of(x)
            return tf.reshape(patches, (-1, nb_frames, nb_bins * bins, self.filters))
        return from_polyphase(patches, 2)


class DenseConvNorm(tf.keras.layers.Layer):
    """Densely connected convolutions (TFC): the input of each is the results of all earlier ones.

    The input of convolution k is ``[y_k-1, ..., y_1, x]``, the newest first; the block returns the
    last result. After ``freeze``, each result is instead convolved once with the kernels of all
    later convolutions, and their sums are accumulated side by side: the same multiply-adds, but
    with many output channels, which a CPU computes faster, and no concatenation.

    Shapes: ``[..., T, F, C]`` -> ``[..., T, F, filters]``; kernels
    ``[k, k, C + n * filters, filters]``, n earlier convolutions.

    Args:
        prefix: the convolutions and their weights are named ``{prefix}_conv_{k}``, k from 1.
        filters, kernel_size, activation: of all of them; zero padding.
        count: number of convolutions.
    """

    def __init__(
        self, prefix: str, filters: int, kernel_size: int, count: int, activation: str, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.prefix = prefix
        self.filters = filters
        self.kernel_size = kernel_size
        self.activation = activation
        size, pad = (kernel_size, kernel_size), (kernel_size // 2, kernel_size // 2)
        self.convolutions = [
            ConvNorm(filters, size, pad=pad, activation=activation, name=f"{prefix}_conv_{number}")
            for number in range(1, count + 1)
        ]
        self.frozen = None

    def build(self, input_shape) -> None:
        channels = int(input_shape[-1])
        for convolution in self.convolutions:
            with tf.name_scope(f"{convolution.name}/"):  # the slash makes it absolute
                convolution.build((None, None, None, channels))
            channels += self.filters
        super().build(input_shape)

    def freeze(self) -> None:
        """Rearrange the kernels for inference; later assignments to them have no effect."""
        kernels, biases = zip(*(layer.folded() for layer in self.convolutions), strict=True)
        count = len(kernels)
        spread = [tf.concat([kernels[n][:, :, n * self.filters :] for n in range(count)], -1)]
        for new in range(count - 1):  # the input channels of later kernels that are this result
            starts = [(later - 1 - new) * self.filters for later in range(new + 1, count)]
            parts = [
                kernels[new + 1 + index][:, :, start : start + self.filters]
                for index, start in enumerate(starts)
            ]
            spread.append(tf.concat(parts, -1))
        self.frozen = spread, tf.concat(biases, -1)

    @no_autograph
    def call(self, inputs, training=False):
        if self.frozen is None:
            x = inputs
            for convolution in self.convolutions[:-1]:
                x = tf.concat([convolution(x, training=training), x], axis=-1)
            return self.convolutions[-1](x, training=training)
        (first, *spread), bias = self.frozen
        activate = ACTIVATIONS[self.activation]
        x = tf.reshape(inputs, (-1, *shape_of(inputs)[-3:]))
        # [I * B, T, F, count * filters], the sums of all convolutions
        sums = tf.nn.bias_add(tf.nn.conv2d(x, first, 1, "SAME"), bias)
        for kernel in spread:
            new = activate(sums[..., : self.filters])
            sums = sums[..., self.filters :] + tf.nn.conv2d(new, kernel, 1, "SAME")
        return tf.reshape(activate(sums), (*shape_of(inputs)[:-1], self.filters))
