"""What is trained: a network with its optimizers, the average of its weights, its loss."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from spleeter_2.config.training import Training
from spleeter_2.errors import SeparationError
from spleeter_2.models import checkpoint as weights

from . import mixed_precision as precision
from .distillation import Teachers
from .distribution import sum_of_replicas
from .optimizer import grouped_optimizers


class Trainee(tf.keras.Model):
    """A network with its optimizers and the moving average of its weights.

    Input: complex64 ``[B, T, F, C]``, the bins that the network looks at: what it says nothing of
    does not count in a loss. Output: the targets' estimates, ``[B, I, T, F, C]``.

    Args:
        network: what ``build_model`` returned for the band only.
        targets: order of the output's second axis.
        options: how to train.
        pretrained: names of the variables that ``pretrained_rate`` is for.
        teachers: models to learn from beside the truth.
    """

    def __init__(
        self,
        network: tf.keras.Model,
        targets: Sequence[str],
        options: Training,
        pretrained: frozenset[str] = frozenset(),
        teachers: Teachers | None = None,
    ) -> None:
        super().__init__(name="trainee")
        self.network = network
        self.teachers = teachers
        self.targets = tuple(targets)
        self.options = options
        self.groups = grouped_optimizers(network, options, pretrained)
        self.trained = [variable for variables, _ in self.groups for variable in variables]
        if options.freeze_statistics:
            _freeze_statistics(network)
        alike = tf.VariableAggregation.ONLY_FIRST_REPLICA  # every replica computes the same
        self.averages = [
            tf.Variable(
                variable,
                trainable=False,
                name=f"average/{variable.name.split(':')[0]}",
                aggregation=alike,
            )
            for variable in (self.trained if options.average else [])
        ]
        self.seconds = np.zeros(2)  # of waiting for data, of computing
        self.gradient_norm = tf.keras.metrics.Mean("gradient_norm")
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64, name="step", aggregation=alike)

    def call(self, mixture, training=False):
        estimates = self.network(mixture, training=training)
        # of a single target this is no copy, unlike tf.stack
        return tf.concat([tf.expand_dims(estimates[t], 1) for t in self.targets], axis=1)

    def make_train_function(self, force=False):
        """Keras', less its counters; a batch is fetched in front of the step, and timed apart."""
        if self.train_function is None or force:
            step = tf.function(self._step_of_all, autograph=False)

            def train(iterator):
                began = time.perf_counter()
                batch = next(iterator)
                fetched = time.perf_counter()
                logs = step(batch)
                self.seconds += (fetched - began, time.perf_counter() - fetched)
                return logs

            self.train_function = train
        return self.train_function

    def _step_of_all(self, batch):
        """A step on all devices; they agree on what comes back."""
        strategy = self.distribute_strategy
        logs = strategy.run(self.train_step, args=(batch,))
        return {name: strategy.experimental_local_results(log)[0] for name, log in logs.items()}

    def data_wait(self) -> float:
        """The share of the time since the last call that steps waited for their data."""
        waited, computed = self.seconds
        self.seconds[:] = 0
        return float(waited / max(waited + computed, 1e-9))

    def train_step(self, y_true):
        if self.teachers:
            seed = tf.stack([tf.cast(self.options.seed, tf.int64), self.step])
            y_true = self.teachers.taught(y_true, self.options.teacher_share, seed)
            y_true = y_true[:, :, :, : self.network.input_shape[2]]
        with tf.GradientTape() as tape:
            estimates = self(y_true[:, 0], training=True)
            loss = self.compiled_loss(y_true, estimates)
            scaled = precision.scaled(loss, [optimizer for _, optimizer in self.groups])
        gradients = self._gradients(tape, scaled)
        norm = tf.linalg.global_norm(gradients)
        if self.options.mixed_precision:
            gradients = precision.whole_or_none(gradients, norm)
        finite = tf.math.is_finite(norm)  # not that of a step that is left out
        self.gradient_norm.update_state(tf.where(finite, norm, 0.0), tf.cast(finite, norm.dtype))
        if self.options.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.options.clip_norm, norm)
        remaining = iter(gradients)
        for variables, optimizer in self.groups:
            pairs = [(next(remaining), variable) for variable in variables]
            optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        self.step.assign_add(1)
        # a young average forgets sooner, or it would hold on to its start
        steps = tf.cast(self.step, tf.float32)
        decay = tf.minimum(self.options.average, (1.0 + steps) / (10.0 + steps))
        for average, variable in zip(self.averages, self.trained, strict=False):
            average.assign(decay * average + (1.0 - decay) * variable)
        return {metric.name: metric.result() for metric in self.metrics}

    def _gradients(self, tape, scaled):
        """Gradients of the whole batch's loss, in the order of ``trained``."""
        found = tape.gradient(scaled, [variables for variables, _ in self.groups])
        unscaled = [
            gradient
            for gradients, (_, optimizer) in zip(found, self.groups, strict=True)
            for gradient in precision.unscaled(gradients, optimizer)
        ]
        return sum_of_replicas(unscaled)

    def _variables(self) -> dict[str, tf.Variable]:
        """Everything that training changes, by name."""
        named = {f"network/{k}": v for k, v in weights.named_variables(self.network).items()}
        named.update({average.name.split(":")[0]: average for average in self.averages})
        for number, (_, optimizer) in enumerate(self.groups):
            variables = [*optimizer.variables, *precision.scale_variables(optimizer)]
            for index, variable in enumerate(variables):
                named[f"optimizer/{number}/{index}"] = variable
        return {**named, "step": self.step}

    def values(self) -> dict[str, np.ndarray]:
        """Everything that training changes, as arrays by name."""
        return {name: variable.numpy() for name, variable in self._variables().items()}

    def restore(self, values: Mapping[str, np.ndarray], source: object) -> None:
        """Take what ``values`` gave.

        Raises:
            SeparationError: they are those of another network.
        """
        mine = self._variables()
        wrong = [
            name
            for name, variable in mine.items()
            if name not in values or values[name].shape != tuple(variable.shape)
        ]
        if wrong:
            raise SeparationError(f"{source} is of another network: {wrong[0]} does not fit")
        for name, variable in mine.items():
            variable.assign(values[name])

    @contextlib.contextmanager
    def with_averages(self) -> Iterator[None]:
        """The network has the averages for its weights while this lasts."""
        kept = [variable.numpy() for variable in self.trained] if self.averages else []
        for average, variable in zip(self.averages, self.trained, strict=False):
            variable.assign(average)
        try:
            yield
        finally:
            for value, variable in zip(kept, self.trained, strict=False):
                variable.assign(value)

    def averaged(self) -> dict[str, np.ndarray]:
        """The network's weights with the averages in their places."""
        values = {k: v.numpy() for k, v in weights.named_variables(self.network).items()}
        for average in self.averages:
            values[average.name.split(":")[0].removeprefix("average/")] = average.numpy()
        return values


def _freeze_statistics(network: tf.keras.Model) -> None:
    """BatchNorm normalises by what it has stored; its scale and shift go on learning.

    A layer that is not ``trainable`` runs as at inference; its variables are trained all the same,
    since ``Trainee`` has its own list of them.
    """
    for layer in network._flatten_layers():
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False
