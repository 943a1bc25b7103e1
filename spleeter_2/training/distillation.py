"""Teachers: trained models whose estimates a student learns from, beside or instead of the truth.

G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from spleeter_2.audio.mixing import residual
from spleeter_2.config.loading import has_weights, load_configuration
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.models.inference import load_for_inference


def _teacher(descriptor: str) -> Configuration:
    """Its configuration, if it has weights."""
    try:
        configuration = load_configuration(descriptor)
    except SeparationError as error:
        raise SeparationError(f"training.teachers: {error}") from error
    if not has_weights(configuration.weights):
        raise SeparationError(f"training.teachers: {descriptor} has no weights")
    return configuration


class Teachers:
    """The mean estimate of several models.

    Every model sees the mixture rolled in time by a random number of frames, and what it says is
    rolled back: strides let a network see music on a grid, and no place on it is better than
    another, so what a student learns is the mean over all of them.

    Args:
        student: whose targets are asked for; all models must have its STFT.
        descriptors: of the models. A model that estimates a target's counterpart serves as well,
            as mixture minus residual.

    Raises:
        SeparationError: a model that does not know the student's targets, or has another STFT or
            no weights.
    """

    def __init__(self, student: Configuration, descriptors: Sequence[str]) -> None:
        configurations = [_teacher(descriptor) for descriptor in descriptors]
        for descriptor, configuration in zip(descriptors, configurations, strict=True):
            for name in ("stft", "sample_rate", "nb_channels"):
                ours, theirs = getattr(student, name), getattr(configuration, name)
                if ours != theirs:
                    raise SeparationError(
                        f"training.teachers: {descriptor} has {name} {theirs}, not {ours}"
                    )
        self.targets = student.targets
        self.networks = [
            load_for_inference(configuration, student.targets).function
            for configuration in configurations
        ]
        self.residuals = [configuration.residual for configuration in configurations]
        # above its band a model says nothing
        self.nb_bins = min(configuration.model.nb_bins for configuration in configurations)
        self.stride = max(configuration.model.stride for configuration in configurations)

    def estimates(self, mixture: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Mixture complex64 ``[B, T, F, C]`` and a seed ``[2]`` -> ``[B, targets, T, F, C]``."""
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

    def taught(self, y_true: tf.Tensor, share: float, seed: tf.Tensor) -> tf.Tensor:
        """The truth, with the estimates in the place of a share of it.

        An MSE to this mean has the gradient of the mean of both MSEs. A residual stays what the
        targets leave of the mixture; bins above the models' band stay as they are.

        Args:
            y_true: complex64 ``[B, 1 + I, T, F, C]``: mixture, targets and, if there is one, the
                residual.
        """
        nb_targets = len(self.targets)
        mixture, truth = y_true[:, 0], y_true[:, 1 : 1 + nb_targets]
        low = (self.estimates(mixture, seed) - truth)[..., : self.nb_bins, :] * share
        above = truth.shape[3] - self.nb_bins
        change = tf.pad(low, ((0, 0), (0, 0), (0, 0), (0, above), (0, 0)))
        if y_true.shape[1] > nb_targets + 1:
            change = tf.concat([change, -tf.reduce_sum(change, axis=1, keepdims=True)], axis=1)
        return y_true + tf.pad(change, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
