"""Mixed precision on GPUs: float16 inside the network, float32 for its weights, the spectrograms
and the loss. The loss is scaled so that small gradients survive float16, and a step whose
gradients overflow is left out and the scale halved (P. Micikevicius et al., "Mixed precision
training", ICLR 2018)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from spleeter_2.errors import SeparationError

Optimizer = tf.keras.optimizers.Optimizer
LossScaleOptimizer = tf.keras.mixed_precision.LossScaleOptimizer


def check_mixed_precision(wanted: bool) -> None:
    """Refuse mixed precision where it only costs time.

    Raises:
        SeparationError: it is wanted, and no GPU is visible.
    """
    if wanted and not tf.config.list_physical_devices("GPU"):
        raise SeparationError(
            "training.mixed_precision is for GPUs, and TensorFlow sees none: set it to false"
        )


@contextlib.contextmanager
def layers_in(mixed: bool) -> Iterator[None]:
    """Layers that are made meanwhile compute in float16, or as Keras is set up."""
    before = tf.keras.mixed_precision.global_policy()
    if mixed:
        tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def scaled(loss: tf.Tensor, optimizers: Sequence[Optimizer]) -> tf.Tensor:
    """The loss to take gradients of. The optimizers' scales are alike (``whole_or_none``)."""
    if not isinstance(optimizers[0], LossScaleOptimizer):
        return loss
    return [optimizer.get_scaled_loss(loss) for optimizer in optimizers][0]


def unscaled(gradients: Sequence[tf.Tensor], optimizer: Optimizer) -> list[tf.Tensor]:
    """The gradients of the loss itself, from those of the ``scaled`` one."""
    if not isinstance(optimizer, LossScaleOptimizer):
        return list(gradients)
    return optimizer.get_unscaled_gradients(gradients)


def whole_or_none(gradients: Sequence[tf.Tensor], norm: tf.Tensor) -> list[tf.Tensor]:
    """NaN for all gradients where their norm is not finite.

    So all optimizers leave the same steps out, and their scales stay alike.
    """
    factor = tf.where(tf.math.is_finite(norm), 1.0, np.nan)
    return [gradient * factor for gradient in gradients]


def scale_variables(optimizer: Optimizer) -> list[tf.Variable]:
    """The scale and the steps since it changed, which ``optimizer.variables`` leaves out."""
    if not isinstance(optimizer, LossScaleOptimizer):
        return []
    return [optimizer._loss_scale.current_loss_scale, optimizer.dynamic_counter]
