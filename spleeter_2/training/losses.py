"""Losses between STFTs.

Keras hands a loss two tensors, so the mixture travels with the truth. The second axis counts
instruments: ``y_true`` complex64 ``[B, 1 + J, T, F, C]`` is the mixture and then the true
instruments, ``y_pred`` complex64 ``[B, I, T, F, C]`` the estimated targets. J is I, or I + 1 where
the model has a residual, which stands last. Spectrograms are unnormalised, of waveforms whose full
scale is 1.0. Every loss gives one number per example, ``[B]``.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from spleeter_2.config.training import LossOptions
from spleeter_2.models.layers import scaled

register = tf.keras.utils.register_keras_serializable("spleeter_2")

ERRORS = ("mse", "log_mse", "l1", "magnitude_l1")
FLOOR = 1e-2  # of log_mse: 20 dB under the mixture


@register
class SpectrogramLoss(tf.keras.losses.Loss):
    """Mean error over frames, bins and channels, summed over the instruments.

    Args:
        error: "mse" or "l1" of real and imaginary parts, as channels of their own,
            "magnitude_l1", Spleeter's loss, or "log_mse": the logarithm of the first, relative to
            the mixture's power and with a floor 20 dB under it. Up to a constant and a factor
            that is an SDR: quiet and loud, easy and hard examples count alike.
        two_source: count the residual too, estimated as the mixture minus all targets: with
            vocals as the only target, ``MSE(T_v, T^_v) + MSE(T_a, T_mix - T^_v)``. Where the
            mixture is the sum of its instruments, both terms of a linear error are equal; those
            of a magnitude error are not.
    """

    def __init__(
        self, error: str = "mse", two_source: bool = False, name: str = "spectrogram", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        if error not in ERRORS:
            raise ValueError(f"the error must be one of {', '.join(ERRORS)}, not {error!r}")
        self.error = error
        self.two_source = two_source

    def call(self, y_true, y_pred):
        nb_targets = y_pred.shape[1]
        errors = self._mean(y_true[:, 1 : nb_targets + 1], y_pred)  # [B, I]
        if self.two_source:
            if y_true.shape[1] != nb_targets + 2:
                raise ValueError("two_source needs a model with a residual, and its truth")
            residual = y_true[:, 0] - tf.reduce_sum(y_pred, axis=1)
            errors = tf.concat([errors, self._mean(y_true[:, -1:], residual[:, tf.newaxis])], 1)
        if self.error == "log_mse":
            mixture = _mean_square(_parts(y_true[:, :1])) + 1e-12
            errors = tf.math.log(errors / mixture + FLOOR)
        return tf.reduce_sum(errors, axis=1)

    def _mean(self, truth, estimate):
        """``[B, I, T, F, C]`` each -> mean error ``[B, I]``."""
        if self.error == "magnitude_l1":
            return _mean_absolute(_magnitude(truth) - _magnitude(estimate))
        mean = _mean_absolute if self.error == "l1" else _mean_square
        return mean(_parts(estimate - truth))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "error": self.error, "two_source": self.two_source}


@register
class OverMixturePenalty(tf.keras.losses.Loss):
    """``weight * reduce(max(0, log(|S^| / |S_mix|)))`` per bin and target.

    An estimate should not be louder than the mixture it is taken from. Only the excess counts; a
    bin at or below the mixture costs nothing. Both magnitudes get a floor, as
    ``sqrt(|S|^2 + floor^2)``, so that silence has a finite logarithm and a finite gradient.

    Args:
        weight: lambda.
        reduce: "mean" over bins, or "sum", the formula of the study that proposed it. A sum
            over a window of 512 frames is six orders of magnitude larger.
        floor: in dB under a sine of full scale.
        frame_length: of the STFT, in samples: such a sine has the magnitude frame_length / 4.
    """

    def __init__(
        self,
        weight: float,
        reduce: str = "mean",
        floor: float = -80.0,
        frame_length: int = 4096,
        name: str = "over_mixture_penalty",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if reduce not in ("mean", "sum"):
            raise ValueError(f"reduce must be mean or sum, not {reduce!r}")
        if not weight >= 0:
            raise ValueError(f"the weight must not be negative, not {weight}")
        self.weight = weight
        self.reduce = reduce
        self.floor = floor
        self.frame_length = frame_length

    def call(self, y_true, y_pred):
        mixture = y_true[:, :1]
        floor = (self.frame_length / 4 * 10 ** (self.floor / 20)) ** 2
        ratio = (_power(y_pred) + floor) / (_power(mixture) + floor)
        # half of it, because powers are the squares of magnitudes
        excess = 0.5 * tf.nn.relu(tf.math.log(ratio))
        reduce = tf.reduce_mean if self.reduce == "mean" else tf.reduce_sum
        return self.weight * tf.reduce_sum(reduce(excess, axis=(2, 3, 4)), axis=1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weight": self.weight,
            "reduce": self.reduce,
            "floor": self.floor,
            "frame_length": self.frame_length,
        }


@register
class SumOfLosses(tf.keras.losses.Loss):
    """Several losses as one."""

    def __init__(self, losses: list, name: str = "loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.losses = [
            tf.keras.losses.deserialize(loss) if isinstance(loss, dict) else loss for loss in losses
        ]

    def call(self, y_true, y_pred):
        return tf.add_n([loss.call(y_true, y_pred) for loss in self.losses])

    def get_config(self) -> dict[str, Any]:
        losses = [tf.keras.losses.serialize(loss) for loss in self.losses]
        return {**super().get_config(), "losses": losses}


# TensorFlow's own gradients of what follows spread numbers out to whole spectrograms, or make a
# complex one of either part, and add or multiply them afterwards.


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
    """Of a gradient ``[B, I]`` of means of errors ``[B, I, ...]``, what each of them gets."""
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
    """Complex -> squared magnitude; unlike that of the magnitude, its gradient is smooth."""
    return (
        tf.math.real(spectrogram) ** 2 + tf.math.imag(spectrogram) ** 2,
        lambda upstream: scaled(spectrogram, 2 * upstream),
    )


def _magnitude(spectrogram):
    """Complex -> magnitude, quicker than ``tf.abs`` and with a gradient of zero at silence."""
    return tf.sqrt(_power(spectrogram) + 1e-20)


def build_loss(options: LossOptions, frame_length: int) -> SumOfLosses:
    """The loss that a configuration composes."""
    losses = [SpectrogramLoss(options.spectrogram, options.two_source)]
    if options.over_mixture_penalty:
        losses.append(
            OverMixturePenalty(
                options.over_mixture_penalty,
                options.over_mixture_reduce,
                options.over_mixture_floor,
                frame_length,
            )
        )
    return SumOfLosses(losses)
