"""Distillation: a student learns from trained models' estimates beside or instead of the truth.

G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from spleeter_2.audio.mixing import residual
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models.inference import load_for_inference, on_spectrograms
from spleeter_2.weights.resolve import load_trained

from .losses import Batch


class Teachers:
    """The mean estimate of several models, before a model's ``ratio_mask``.

    The mixture is rolled in time by a random number of frames, and the estimates are rolled back:
    a network with strides depends on the position of its grid, and this averages over positions.

    Args:
        student: configuration with the targets to estimate; all models must have its STFT.
        descriptors: of the models. A model that has a target as its residual gives it as mixture
            minus its own targets.

    Raises:
        SeparationError: a model that does not separate the student's targets, has another STFT or
            has no weights.
    """

    def __init__(self, student: Configuration, descriptors: Sequence[str]) -> None:
        configurations = [load_trained(name, "training.teachers") for name in descriptors]
        for descriptor, configuration in zip(descriptors, configurations, strict=True):
            for name in ("stft", "sample_rate", "nb_channels"):
                ours, theirs = getattr(student, name), getattr(configuration, name)
                if ours != theirs:
                    raise SeparationError(
                        f"training.teachers: {descriptor} has {name} {theirs}, not {ours}"
                    )
        self.targets = student.targets
        self.networks = [
            on_spectrograms(load_for_inference(configuration, student.targets).function)
            for configuration in configurations
        ]
        self.residuals = [configuration.residual for configuration in configurations]
        # estimates are zero above a model's band
        self.nb_bins = min(configuration.model.nb_bins for configuration in configurations)
        self.stride = max(configuration.model.stride for configuration in configurations)

    def estimates(self, mixture: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Estimates ``[B, I, T, F, C]`` of the student's targets.

        Args:
            mixture: complex64 ``[B, T, F, C]``.
            seed: int64 ``[2]``, of the roll.
        """
        shift = tf.random.stateless_uniform((), seed, 0, self.stride, tf.int32)
        mixture = tf.roll(mixture, shift, axis=1)
        found = []
        for network, name in zip(self.networks, self.residuals, strict=True):
            estimates = dict(network(mixture))
            if name:
                estimates[name] = residual(mixture, estimates)
            found.append(tf.stack([estimates[target] for target in self.targets], axis=1))
        mean = tf.add_n(found) / len(found)
        return tf.stop_gradient(tf.roll(mean, -shift, axis=2))

    def blend(self, batch: Batch, share: float, seed: tf.Tensor) -> Batch:
        """A batch in which the estimates replace a share of the true targets.

        An MSE to this mean has the gradient of the mean of both MSEs. The residual changes so that
        it still is the mixture minus the targets; bins above the models' band stay the same.
        """
        targets = batch["targets"]
        change = (self.estimates(batch["mixture"], seed) - targets)[..., : self.nb_bins, :] * share
        above = targets.shape[3] - self.nb_bins
        change = tf.pad(change, ((0, 0), (0, 0), (0, 0), (0, above), (0, 0)))
        blended = {**batch, "targets": targets + change}
        if "residual" in batch:
            blended["residual"] = batch["residual"] - tf.reduce_sum(change, axis=1)
        return blended
