"""The ``training`` object of a configuration -> validated dataclasses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Optional, Union

from .loading import parse
from .schema import Configuration, require


@dataclass(frozen=True)
class Augmentation:
    """What is done to an example; the defaults do nothing, ``USUAL`` is what the field does.

    Args:
        remix: probability that each instrument comes from a song and a moment of its own.
        gain: bounds of a random factor per stem, such as (0.25, 1.25).
        gain_db: bounds in dB of a random factor per stem, such as (-10, 3), instead of ``gain``.
        channel_swap: probability per stem that left and right change places.
        sign_flip: probability per stem that its sign changes.
        speed: largest relative change of tempo and pitch together, of all stems alike: 0.06 is
            a semitone up or down.
        equaliser_db: largest boost or cut, in dB, of one random peaking filter per stem.
        clipping: probability per stem that its peaks are cut off.
        clipping_db: by how many dB they are cut at most.

    Raises:
        SeparationError: a value out of its range.
    """

    remix: float = 0.0
    gain: Optional[tuple[float, float]] = None
    gain_db: Optional[tuple[float, float]] = None
    channel_swap: float = 0.0
    sign_flip: float = 0.0
    speed: float = 0.0
    equaliser_db: float = 0.0
    clipping: float = 0.0
    clipping_db: float = 6.0

    def __post_init__(self) -> None:
        for name in ("remix", "channel_swap", "sign_flip", "clipping"):
            value = getattr(self, name)
            require(
                0 <= value <= 1,
                f"augmentation.{name} is a probability between 0 and 1, not {value}",
            )
        for name in ("gain", "gain_db"):
            bounds = getattr(self, name)
            if bounds is None:
                continue
            require(
                len(bounds) == 2 and all(map(math.isfinite, bounds)) and bounds[0] <= bounds[1],
                f"augmentation.{name} must be two numbers, the lower one first, not {bounds}",
            )
        require(
            self.gain is None or self.gain[0] >= 0,
            f"augmentation.gain must not be negative (see sign_flip), not {self.gain}",
        )
        require(
            self.gain is None or self.gain_db is None,
            "augmentation has both gain and gain_db: keep one of them",
        )
        require(
            0 <= self.speed <= 0.5,
            f"augmentation.speed must lie between 0 and 0.5, not {self.speed}",
        )
        for name in ("equaliser_db", "clipping_db"):
            value = getattr(self, name)
            require(
                0 <= value <= 40, f"augmentation.{name} must lie between 0 and 40 dB, not {value}"
            )


USUAL = Augmentation(remix=1.0, gain=(0.25, 1.25), channel_swap=0.5, sign_flip=0.5)


@dataclass(frozen=True)
class LossOptions:
    """Which errors are added up: see ``losses``.

    ``over_mixture_penalty`` is lambda; ``over_mixture_floor`` in dB under full scale.
    """

    spectrogram: Literal["mse", "log_mse", "l1", "magnitude_l1"] = "mse"
    two_source: bool = False
    over_mixture_penalty: float = 0.0
    over_mixture_reduce: Literal["mean", "sum"] = "mean"
    over_mixture_floor: float = -80.0

    def __post_init__(self) -> None:
        require(
            self.over_mixture_penalty >= 0,
            f"training.loss.over_mixture_penalty must not be negative, "
            f"not {self.over_mixture_penalty}",
        )


@dataclass(frozen=True)
class Training:
    """How to train.

    ``start``: descriptor of the model whose weights are taken where name and shape agree; None
    starts from random ones. ``pretrained_rate``: factor on the learning rate of what was taken, 0
    freezes it. ``freeze_statistics``: BatchNorm normalises by its stored mean and variance and
    leaves them alone. ``nb_frames``: of a crop; None takes the model's window. ``average``: decay
    of the weights' moving average, which is validated and saved; 0 is none. ``schedule``: the rate
    stays, or falls to nothing along half a cosine; it rises over the first ``warmup_steps``.
    ``patience``: epochs without a better validation loss before the end; 0 waits for ever.
    ``validation``: names of the songs to validate with, or their share. ``teachers``: descriptors
    of models whose mean estimate takes the place of ``teacher_share`` of the truth.
    ``batch_size``: examples of a step, which all devices share. ``mixed_precision``: compute the
    network in float16, on GPUs only.
    """

    loss: LossOptions = field(default_factory=LossOptions)
    augmentation: Augmentation = USUAL
    validation: Union[float, tuple[str, ...]] = 0.1
    start: Optional[str] = None
    pretrained_rate: float = 1.0
    freeze_statistics: bool = False
    nb_frames: Optional[int] = None
    batch_size: int = 4
    steps_per_epoch: int = 100
    epochs: int = 100
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    clip_norm: Optional[float] = 5.0
    average: float = 0.0
    patience: int = 0
    seed: int = 0
    teachers: tuple[str, ...] = ()
    teacher_share: float = 0.5
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps_per_epoch", "epochs"):
            value = getattr(self, name)
            require(value >= 1, f"training.{name} must be at least 1, not {value}")
        for name in ("warmup_steps", "patience", "seed", "pretrained_rate"):
            value = getattr(self, name)
            require(value >= 0, f"training.{name} must not be negative, not {value}")
        for name in ("learning_rate", "clip_norm", "nb_frames"):
            value = getattr(self, name)
            require(value is None or value > 0, f"training.{name} must be positive, not {value}")
        require(self.validation != 0, "training.validation must set songs aside, not 0")
        require(
            0 < self.teacher_share <= 1,
            f"training.teacher_share must lie in (0, 1], not {self.teacher_share}",
        )
        require(0 <= self.average < 1, f"training.average must lie in [0, 1), not {self.average}")

    def crop_frames(self, configuration: Configuration) -> int:
        """STFT frames of a crop.

        Raises:
            SeparationError: the model's strides do not divide them.
        """
        nb_frames = self.nb_frames or configuration.segment.nb_frames
        stride = configuration.model.stride
        require(
            nb_frames % stride == 0,
            f"training.nb_frames must be a multiple of {stride} for this model, not {nb_frames}",
        )
        return nb_frames


def training_of(configuration: Configuration) -> Training:
    """The options of a configuration; where it has none, the defaults.

    Raises:
        SeparationError: an unknown key or an impossible value.
    """
    data: dict[str, Any] = configuration.training or {}
    return parse(Training, data, "training.")
