"""The Keras model that ``fit`` trains: a network with its loss, optimizers and EMA of weights."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from spleeter_2.config.training import Training
from spleeter_2.errors import SeparationError
from spleeter_2.models.variables import named_variables

from . import mixed_precision as precision
from .distillation import Teachers
from .distribution import sum_of_replicas
from .losses import Loss
from .optimizer import grouped_optimizers


class TrainingModel(tf.keras.Model):
    """A network with its loss, its optimizers and the exponential moving average of its weights.

    Input: mixture complex64 ``[B, T, F, C]``, only the bins of the network's band: the others do
    not count in a loss. Output: the targets' estimates, ``[B, I, T, F, C]``.

    Args:
        network: of ``build_model(..., band_only=True)``.
        targets: order of the output's second axis.
        options: training options.
        loss: see ``losses.py``.
        pretrained: names of the variables that ``pretrained_rate`` applies to.
        teachers: models whose estimates replace a share of the truth.
    """

    def __init__(
        self,
        network: tf.keras.Model,
        targets: Sequence[str],
        options: Training,
        loss: Loss,
        pretrained: frozenset[str] = frozenset(),
        teachers: Teachers | None = None,
    ) -> None:
        super().__init__(name="training_model")
        self.network = network
        self.loss_function = loss
        self.teachers = teachers
        self.targets = tuple(targets)
        self.options = options
        self.groups = grouped_optimizers(network, options, pretrained)
        self.trained = [variable for variables, _ in self.groups for variable in variables]
        if options.freeze_statistics:
            _freeze_statistics(network)
        # every replica computes the same values
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.averages = [
            tf.Variable(
                variable,
                trainable=False,
                name=f"average/{variable.name.split(':')[0]}",
                aggregation=first,
            )
            for variable in (self.trained if options.average else [])
        ]
        self.seconds = np.zeros(2)  # waiting for data, computing
        self.mean_loss = tf.keras.metrics.Mean("loss")
        self.gradient_norm = tf.keras.metrics.Mean("gradient_norm")
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64, name="step", aggregation=first)
        self.compile()  # fit requires it; the loss and the optimizers are our own

    def call(self, mixture, training=False):
        estimates = self.network(mixture, training=training)
        # unlike tf.stack, no copy for a single target
        return tf.concat([tf.expand_dims(estimates[t], 1) for t in self.targets], axis=1)

    def make_train_function(self, force=False):
        """Keras' train function that fetches the batch before the step and times both."""
        if self.train_function is None or force:
            step = tf.function(self._distributed_step, autograph=False)

            def train(iterator):
                began = time.perf_counter()
                batch = next(iterator)
                fetched = time.perf_counter()
                logs = step(batch)
                self.seconds += (fetched - began, time.perf_counter() - fetched)
                return logs

            self.train_function = train
        return self.train_function

    def _distributed_step(self, batch):
        """A step on all devices; the logs are equal on all of them."""
        strategy = self.distribute_strategy
        logs = strategy.run(self.train_step, args=(batch,))
        return {name: strategy.experimental_local_results(log)[0] for name, log in logs.items()}

    def data_wait(self) -> float:
        """Share of the time since the last call that steps waited for data."""
        waited, computed = self.seconds
        self.seconds[:] = 0
        return float(waited / max(waited + computed, 1e-9))

    def train_step(self, batch):
        if self.teachers:
            seed = tf.stack([tf.cast(self.options.seed, tf.int64), self.step])
            batch = self.teachers.blend(batch, self.options.teacher_share, seed)
            nb_bins = self.network.input_shape[2]
            batch = {name: stft[..., :nb_bins, :] for name, stft in batch.items()}
        nb_replicas = self.distribute_strategy.num_replicas_in_sync
        with tf.GradientTape() as tape:
            estimates = self(batch["mixture"], training=True)
            loss = tf.reduce_mean(self.loss_function(batch, estimates))
            share = loss / nb_replicas  # gradients are summed over the replicas
            scaled = precision.scaled(share, [optimizer for _, optimizer in self.groups])
        self.mean_loss.update_state(loss)
        self._apply(self._gradients(tape, scaled))
        self.step.assign_add(1)
        self._update_averages()
        return {metric.name: metric.result() for metric in self.metrics}

    def _apply(self, gradients):
        """Clip the gradients, in the order of ``trained``, and change the weights."""
        norm = tf.linalg.global_norm(gradients)
        if self.options.mixed_precision:
            gradients = precision.whole_or_none(gradients, norm)
        finite = tf.math.is_finite(norm)  # mixed precision skips the other steps
        self.gradient_norm.update_state(tf.where(finite, norm, 0.0), tf.cast(finite, norm.dtype))
        if self.options.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.options.clip_norm, norm)
        remaining = iter(gradients)
        for variables, optimizer in self.groups:
            pairs = [(next(remaining), variable) for variable in variables]
            optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)

    def _update_averages(self):
        # EMA warm-up: smaller decay in the first steps
        steps = tf.cast(self.step, tf.float32)
        decay = tf.minimum(self.options.average, (1.0 + steps) / (10.0 + steps))
        for average, variable in zip(self.averages, self.trained, strict=False):
            average.assign(decay * average + (1.0 - decay) * variable)

    def _gradients(self, tape, scaled):
        """Gradients of the loss of the whole batch, in the order of ``trained``."""
        found = tape.gradient(scaled, [variables for variables, _ in self.groups])
        unscaled = [
            gradient
            for gradients, (_, optimizer) in zip(found, self.groups, strict=True)
            for gradient in precision.unscaled(gradients, optimizer)
        ]
        return sum_of_replicas(unscaled)

    def _variables(self) -> dict[str, tf.Variable]:
        """Everything that training changes, by name."""
        named = {f"network/{k}": v for k, v in named_variables(self.network).items()}
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
        """Assign what ``values`` returned.

        Raises:
            SeparationError: names or shapes are those of another network.
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
        """Within the context the network's weights are their averages."""
        kept = [variable.numpy() for variable in self.trained] if self.averages else []
        for average, variable in zip(self.averages, self.trained, strict=False):
            variable.assign(average)
        try:
            yield
        finally:
            for value, variable in zip(kept, self.trained, strict=False):
                variable.assign(value)

    def averaged(self) -> dict[str, np.ndarray]:
        """The network's weights, averaged where there is an average."""
        values = {k: v.numpy() for k, v in named_variables(self.network).items()}
        for average in self.averages:
            values[average.name.split(":")[0].removeprefix("average/")] = average.numpy()
        return values


def _freeze_statistics(network: tf.keras.Model) -> None:
    """Make BatchNorm normalise by its stored mean and variance; gamma and beta are still trained.

    A layer that is not ``trainable`` runs in inference mode; its variables are trained nevertheless
    because ``TrainingModel.trained`` lists them.
    """
    for layer in network._flatten_layers():
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False
