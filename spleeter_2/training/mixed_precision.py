"""Mixed precision on GPUs: float16 in the network, float32 for weights, spectrograms and loss.

The loss is scaled so that small gradients do not underflow; a step whose gradients overflow is
skipped and halves the scale (P. Micikevicius et al., "Mixed precision training", ICLR 2018).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from spleeter_2.errors import SeparationError

Optimizer = tf.keras.optimizers.Optimizer
LossScaleOptimizer = tf.keras.mixed_precision.LossScaleOptimizer


def check_mixed_precision(wanted: bool) -> None:
    """Raise SeparationError if mixed precision is wanted and no GPU is visible."""
    if wanted and not tf.config.list_physical_devices("GPU"):
        raise SeparationError(
            "training.mixed_precision is for GPUs, and TensorFlow sees none: set it to false"
        )


@contextlib.contextmanager
def layers_in(mixed: bool) -> Iterator[None]:
    """Within the context, new layers compute in float16 if ``mixed``."""
    before = tf.keras.mixed_precision.global_policy()
    if mixed:
        tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def scaled(loss: tf.Tensor, optimizers: Sequence[Optimizer]) -> tf.Tensor:
    """The loss to differentiate; all optimizers have the same scale (see ``whole_or_none``)."""
    if not isinstance(optimizers[0], LossScaleOptimizer):
        return loss
    return [optimizer.get_scaled_loss(loss) for optimizer in optimizers][0]


def unscaled(gradients: Sequence[tf.Tensor], optimizer: Optimizer) -> list[tf.Tensor]:
    """Gradients of the loss, from those of the ``scaled`` loss."""
    if not isinstance(optimizer, LossScaleOptimizer):
        return list(gradients)
    return optimizer.get_unscaled_gradients(gradients)


def whole_or_none(gradients: Sequence[tf.Tensor], norm: tf.Tensor) -> list[tf.Tensor]:
    """Set all gradients to NaN if their norm is not finite.

    Then all optimizers skip the same steps, and their scales stay equal.
    """
    factor = tf.where(tf.math.is_finite(norm), 1.0, np.nan)
    return [gradient * factor for gradient in gradients]


def scale_variables(optimizer: Optimizer) -> list[tf.Variable]:
    """The loss scale and the steps since its last change; ``optimizer.variables`` lacks them."""
    if not isinstance(optimizer, LossScaleOptimizer):
        return []
    return [optimizer._loss_scale.current_loss_scale, optimizer.dynamic_counter]
