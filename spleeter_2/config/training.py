"""The ``training`` object of a configuration."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta

from .validation import NonNegative, Options, Positive, Probability, require

NonNegativeNumber = Annotated[float, Meta(ge=0)]
PositiveNumber = Annotated[float, Meta(gt=0)]
Decibels = Annotated[float, Meta(ge=0, le=40)]


class Augmentation(Options):
    """Random changes of the training examples; the defaults are a no-op, see ``USUAL``.

    Attributes:
        remix: probability that each instrument comes from a song and a moment of its own.
        gain: bounds of a random factor per stem, such as (0.25, 1.25).
        gain_db: the same in dB, such as (-10, 3); excludes ``gain``.
        channel_swap: probability per stem of swapping left and right.
        sign_flip: probability per stem of a change of sign.
        speed: largest relative change of tempo and pitch, the same for all stems of an example;
            0.06 is a semitone up or down.
        equaliser_db: largest boost or cut, in dB, of one random peaking filter per stem.
        clipping: probability per stem of clipped peaks.
        clipping_db: largest distance, in dB, of the clipping level from the peak.
    """

    remix: Probability = 0.0
    gain: tuple[NonNegativeNumber, NonNegativeNumber] | None = None
    gain_db: tuple[float, float] | None = None
    channel_swap: Probability = 0.0
    sign_flip: Probability = 0.0
    speed: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    equaliser_db: Decibels = 0.0
    clipping: Probability = 0.0
    clipping_db: Decibels = 6.0

    def __post_init__(self) -> None:
        for name in ("gain", "gain_db"):
            low, high = getattr(self, name) or (0, 0)
            require(
                -math.inf < low <= high < math.inf,
                f"{name} must be two finite numbers, the lower one first, not {low} and {high}",
            )
        require(self.gain is None or self.gain_db is None, "gain must not be set beside gain_db")


USUAL = Augmentation(remix=1.0, gain=(0.25, 1.25), channel_swap=0.5, sign_flip=0.5)


class LossOptions(Options):
    """Terms of the loss; formulas are in ``training/losses.py``.

    ``over_mixture_penalty`` is lambda; ``over_mixture_floor`` is in dB relative to full scale.
    """

    spectrogram: Literal["mse", "log_mse", "l1", "magnitude_l1"] = "mse"
    two_source: bool = False
    over_mixture_penalty: NonNegativeNumber = 0.0
    over_mixture_reduce: Literal["mean", "sum"] = "mean"
    over_mixture_floor: float = -80.0


class Training(Options):
    """Options of a training.

    Attributes:
        validation: names of the songs to validate with, or their share.
        start: descriptor of a model; variables of the same name and shape start from its weights.
        pretrained_rate: factor on the learning rate of those variables; 0 freezes them.
        freeze_statistics: BatchNorm uses its stored mean and variance and does not update them.
        nb_frames: STFT frames of a crop (null: those of the model's window).
        batch_size: examples per step, over all devices.
        schedule: constant learning rate, or half a cosine down to 0.
        warmup_steps: steps of a linear rise of the learning rate.
        clip_norm: largest global norm of the gradients (null: not clipped).
        average: decay of the weights' EMA, which is validated and saved; 0 turns it off.
        patience: epochs without a lower validation loss before training stops (0: never).
        teachers: descriptors of models whose mean estimate replaces ``teacher_share`` of the truth.
        mixed_precision: compute the network in float16; GPUs only.
    """

    loss: LossOptions = LossOptions()
    augmentation: Augmentation = USUAL
    validation: PositiveNumber | tuple[str, ...] = 0.1
    start: str | None = None
    pretrained_rate: NonNegativeNumber = 1.0
    freeze_statistics: bool = False
    nb_frames: Positive | None = None
    batch_size: Positive = 4
    steps_per_epoch: Positive = 100
    epochs: Positive = 100
    learning_rate: PositiveNumber = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: NonNegative = 0
    clip_norm: PositiveNumber | None = 5.0
    average: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    patience: NonNegative = 0
    seed: NonNegative = 0
    teachers: tuple[str, ...] = ()
    teacher_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    mixed_precision: bool = False
