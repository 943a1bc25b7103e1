"""Optimizers of a training: groups of variables, Adam and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from spleeter_2.config.training import Training
from spleeter_2.errors import SeparationError
from spleeter_2.models.variables import named_variables

from . import mixed_precision as precision


def grouped_optimizers(
    network: tf.keras.Model, options: Training, pretrained: frozenset[str]
) -> list[tuple[list[tf.Variable], tf.keras.optimizers.Optimizer]]:
    """Trainable variables in groups of one learning rate, each with its optimizer.

    Variables with a learning rate of 0 are omitted.

    Raises:
        SeparationError: no variable is left.
    """
    named = named_variables(network)
    taken = {name: variable for name, variable in named.items() if variable.trainable}
    old = [variable for name, variable in taken.items() if name in pretrained]
    new = [variable for name, variable in taken.items() if name not in pretrained]
    groups = []
    for variables, factor in ((new, 1.0), (old, options.pretrained_rate)):
        if variables and factor:
            optimizer = Adam(Schedule.of(options, factor), jit_compile=False)
            optimizer.build(variables)
            if options.mixed_precision:
                optimizer = precision.LossScaleOptimizer(optimizer)
            groups.append((variables, optimizer))
    if not groups:
        raise SeparationError("nothing is left to train: training.pretrained_rate is 0")
    return groups


class Adam(tf.keras.optimizers.Adam):
    """Keras' Adam as one fused op per variable; Keras' own makes ten passes over it on a CPU."""

    def update_step(self, gradient, variable):
        index = self._index_dict[self._var_key(variable)]
        steps = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.pow(self.beta_1, steps),
            beta2_power=tf.pow(self.beta_2, steps),
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a constant learning rate or half a cosine down to zero."""

    def __init__(self, rate: float, warmup_steps: int, total_steps: int | None) -> None:
        self.rate = rate
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    @classmethod
    def of(cls, options: Training, factor: float) -> Schedule:
        """The schedule of the options, times a factor."""
        total = options.epochs * options.steps_per_epoch if options.schedule == "cosine" else None
        return cls(options.learning_rate * factor, options.warmup_steps, total)

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        rate = tf.constant(self.rate)
        if self.warmup_steps:
            rate *= tf.minimum(1.0, (step + 1) / self.warmup_steps)
        if self.total_steps:
            rate *= 0.5 * (1 + tf.cos(math.pi * tf.minimum(1.0, step / self.total_steps)))
        return rate

    def get_config(self) -> dict[str, Any]:
        return {
            "rate": self.rate,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }
