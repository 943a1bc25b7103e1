"""Losses between STFTs.

A loss is called with a batch and the estimates of the targets and returns one number per example,
``[B]``. A batch is a dict of complex64 tensors:

    mixture     [B, T, F, C]
    targets     [B, I, T, F, C]
    residual    [B, T, F, C]      if the configuration has one

Estimates are ``[B, I, T, F, C]``. Spectrograms are unnormalised, of waveforms with full scale 1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tensorflow as tf

from spleeter_2.config.training import LossOptions
from spleeter_2.models.layers import scale_complex

Batch = Mapping[str, tf.Tensor]
Loss = Callable[[Batch, tf.Tensor], tf.Tensor]

ERRORS = ("mse", "log_mse", "l1", "magnitude_l1")
FLOOR = 1e-2  # of log_mse: 20 dB below the mixture


@dataclass(frozen=True)
class SpectrogramLoss:
    """Mean error over frames, bins and channels, summed over the instruments.

    Args:
        error: "mse" or "l1" of real and imaginary parts; "magnitude_l1", Spleeter's loss; or
            "log_mse", the logarithm of the MSE relative to the mixture's power, with a floor 20 dB
            below it: an SDR up to a constant and a factor, so quiet and loud, easy and hard
            examples have the same weight.
        two_source: add the error of the residual, estimated as the mixture minus all targets: with
            vocals as the only target, ``MSE(T_v, T^_v) + MSE(T_a, T_mix - T^_v)``. If the mixture
            is the sum of its instruments, both terms of a linear error are equal; those of a
            magnitude error are not.
    """

    error: str = "mse"
    two_source: bool = False

    def __post_init__(self) -> None:
        if self.error not in ERRORS:
            raise ValueError(f"the error must be one of {', '.join(ERRORS)}, not {self.error!r}")

    def __call__(self, batch: Batch, estimates: tf.Tensor) -> tf.Tensor:
        mixture = batch["mixture"]
        errors = self._mean(batch["targets"], estimates)  # [B, I]
        if self.two_source:
            if "residual" not in batch:
                raise ValueError("two_source needs a model with a residual")
            residual = mixture - tf.reduce_sum(estimates, axis=1)
            error = self._mean(tf.expand_dims(batch["residual"], 1), tf.expand_dims(residual, 1))
            errors = tf.concat([errors, error], axis=1)  # [B, I + 1]
        if self.error == "log_mse":
            power = _mean_square(_parts(tf.expand_dims(mixture, 1))) + 1e-12  # [B, 1]
            errors = tf.math.log(errors / power + FLOOR)
        return tf.reduce_sum(errors, axis=1)

    def _mean(self, truth: tf.Tensor, estimate: tf.Tensor) -> tf.Tensor:
        """``[B, I, T, F, C]`` each -> mean error ``[B, I]``."""
        if self.error == "magnitude_l1":
            return _mean_absolute(_magnitude(truth) - _magnitude(estimate))
        mean = _mean_absolute if self.error == "l1" else _mean_square
        return mean(_parts(estimate - truth))


@dataclass(frozen=True)
class OverMixturePenalty:
    """``weight * reduce(max(0, log(|S^| / |S_mix|)))`` over the bins, summed over the targets.

    An estimate should not exceed the mixture that it is taken from; a bin at or below the mixture
    costs nothing. Both magnitudes get a floor, as ``sqrt(|S|^2 + floor^2)``, so that silence has a
    finite logarithm and a finite gradient.

    Args:
        weight: lambda.
        reduce: "mean" over bins, or "sum", the formula of the study that proposed it. For a window
            of 512 frames the sum is six orders of magnitude larger.
        floor: in dB relative to a sine of full scale.
        frame_length: of the STFT, in samples; a sine of full scale has magnitude frame_length / 4.
    """

    weight: float
    reduce: str = "mean"
    floor: float = -80.0
    frame_length: int = 4096

    def __post_init__(self) -> None:
        if self.reduce not in ("mean", "sum"):
            raise ValueError(f"reduce must be mean or sum, not {self.reduce!r}")
        if not self.weight >= 0:
            raise ValueError(f"the weight must not be negative, not {self.weight}")

    def __call__(self, batch: Batch, estimates: tf.Tensor) -> tf.Tensor:
        mixture = tf.expand_dims(batch["mixture"], 1)  # [B, 1, T, F, C]
        floor = (self.frame_length / 4 * 10 ** (self.floor / 20)) ** 2
        ratio = (_power(estimates) + floor) / (_power(mixture) + floor)
        # powers are squares of magnitudes, hence the factor 0.5
        excess = 0.5 * tf.nn.relu(tf.math.log(ratio))
        reduce = tf.reduce_mean if self.reduce == "mean" else tf.reduce_sum
        return self.weight * tf.reduce_sum(reduce(excess, axis=(2, 3, 4)), axis=1)


def build_loss(options: LossOptions, frame_length: int) -> Loss:
    """The loss that a configuration describes."""
    spectrogram = SpectrogramLoss(options.spectrogram, options.two_source)
    if not options.over_mixture_penalty:
        return spectrogram
    penalty = OverMixturePenalty(
        options.over_mixture_penalty,
        options.over_mixture_reduce,
        options.over_mixture_floor,
        frame_length,
    )
    return lambda batch, estimates: spectrogram(batch, estimates) + penalty(batch, estimates)


# The gradients below replace TensorFlow's, which broadcast scalars to whole spectrograms, or turn
# real and imaginary part into a complex spectrogram each, before they multiply and add.


@tf.custom_gradient
def _mean_square(errors):
    """Real ``[B, I, ...]`` -> ``[B, I]``."""
    return (
        tf.reduce_mean(errors**2, axis=range(2, errors.shape.rank)),
        lambda upstream: errors * _share(2 * upstream, errors),
    )


@tf.custom_gradient
def _mean_absolute(errors):
    """Real ``[B, I, ...]`` -> ``[B, I]``."""
    return (
        tf.reduce_mean(tf.abs(errors), axis=range(2, errors.shape.rank)),
        lambda upstream: tf.sign(errors) * _share(upstream, errors),
    )


def _share(upstream, errors):
    """Gradient ``[B, I]`` of means -> gradient ``[B, I, 1, ...]`` of each error."""
    count = tf.cast(tf.size(errors) / tf.size(upstream), upstream.dtype)
    return (upstream / count)[(..., *[tf.newaxis] * (errors.shape.rank - 2))]


@tf.custom_gradient
def _parts(spectrogram):
    """Complex ``[...]`` -> real and imaginary parts, ``[..., 2]``: the same memory."""
    spectrogram = tf.convert_to_tensor(spectrogram)
    return (
        tf.bitcast(spectrogram, spectrogram.dtype.real_dtype),
        lambda upstream: tf.bitcast(upstream, spectrogram.dtype),
    )


@tf.custom_gradient
def _power(spectrogram):
    """Complex -> squared magnitude; its gradient is smooth at zero, unlike the magnitude's."""
    return (
        tf.math.real(spectrogram) ** 2 + tf.math.imag(spectrogram) ** 2,
        lambda upstream: scale_complex(spectrogram, 2 * upstream),
    )


def _magnitude(spectrogram):
    """Complex -> magnitude, faster than ``tf.abs``; the gradient is zero at silence."""
    return tf.sqrt(_power(spectrogram) + 1e-20)
