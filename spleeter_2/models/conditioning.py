"""Conditioning of a network on the instrument to estimate.

FiLM (Perez et al., AAAI 2018) scales and shifts every channel; PoCM mixes the channels, GPoCM
computes a gate from the mixed channels (Choi et al., LaSAFT, ICASSP 2021). Their parameters follow
from the instrument alone, by an embedding and a small dense network, not from the music.
"""

from __future__ import annotations

import tensorflow as tf

from spleeter_2.config.networks import Conditioning

from .layers import Activate, Norm, no_autograph, shape_of

layers = tf.keras.layers


class Conditions(layers.Layer):
    """Numbers of the instruments to estimate, int32 ``[I]``; the input is ignored."""

    def __init__(self, numbers: list[int], **kwargs) -> None:
        super().__init__(**kwargs)
        self.numbers = list(numbers)

    @no_autograph
    def call(self, _):
        return tf.constant(self.numbers, tf.int32)


class SplitPerBlock(layers.Layer):
    """Split a vector ``[I, n * size]`` into n tensors ``[I, *shape]``, one per block."""

    def __init__(self, shape: tuple[int, ...], **kwargs) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    @no_autograph
    def call(self, flat):
        blocks = tf.reshape(flat, (flat.shape[0], -1, *self.shape))  # [I, n, *shape]
        return tf.unstack(blocks, axis=1)


class Modulate(layers.Layer):
    """FiLM, PoCM or GPoCM.

    FiLM: ``z_j = gamma_j x_j + beta_j``. PoCM: ``z_j = sum_i x_i gamma_ij + beta_j``. GPoCM:
    ``sigmoid(z) x`` with PoCM's z.

    Shapes: ``[I or 1, B, T, F, C]``, gamma ``[I, C]`` (FiLM) or ``[I, C, C]``, beta ``[I, C]``
    -> ``[I, B, T, F, C]``.

    Args:
        kind: "film", "pocm" or "gpocm".
        transposed: gamma is indexed ``gamma_ji``.
    """

    def __init__(self, kind: str, transposed: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.transposed = transposed

    @no_autograph
    def call(self, inputs):
        x, gamma, beta = inputs
        _, *inner = shape_of(x)
        flat = tf.reshape(x, (x.shape[0], -1, x.shape[-1]))  # [I or 1, B * T * F, C]
        if self.kind == "film":
            mixed = flat * gamma[:, tf.newaxis]
        else:
            mixed = tf.matmul(flat, gamma, transpose_b=self.transposed)
        mixed += beta[:, tf.newaxis]  # [I, B * T * F, C]
        if self.kind == "gpocm":
            mixed = tf.sigmoid(mixed) * flat
        return tf.reshape(mixed, (gamma.shape[0], *inner))


def modulations(
    embedding: tf.Tensor, options: Conditioning, blocks: tuple[str, ...], channels: int
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """Gamma and beta of every conditioned block.

    Args:
        embedding: ``[I, E]``.
        options: type and sizes.
        blocks: names of the conditioned blocks.
        channels: C of each block.

    Returns:
        ``{block: (gamma, beta)}``, gamma ``[I, C]`` for FiLM, else ``[I, C, C]``, beta ``[I, C]``.
    """
    x = embedding
    for index in range(1, options.control_layers):
        x = layers.Dense(options.embedding * 2**index, "relu", name=f"control_{index}")(x)
        if index > 1:
            x = layers.Dropout(0.5, name=f"control_{index}_dropout")(x)
            x = Norm(name=f"control_{index}_norm")(x)
    square = () if options.type == "film" else (channels,)
    shapes = {"gamma": (channels, *square), "beta": (channels,)}
    per_block = []
    for name, shape in shapes.items():
        size = len(blocks) * tf.TensorShape(shape).num_elements()
        y = layers.Dense(size, name=name)(x)
        if options.norm:
            y = Norm(center=False, scale=False, name=f"{name}_norm")(y)
        activation = getattr(options, f"{name}_activation")
        if activation != "identity":
            y = Activate(activation, name=f"{name}_activation")(y)
        per_block.append(SplitPerBlock(shape, name=f"{name}_per_block")(y))
    return dict(zip(blocks, zip(*per_block, strict=True), strict=True))
