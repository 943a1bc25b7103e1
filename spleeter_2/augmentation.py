"""Augmentation of training examples: small pure functions on stems, and the options of all.

Each function takes stems float32 ``[I, S, C]``, draws what it needs from a ``Generator`` and
returns new stems: the same state of the generator gives the same stems. The mixture of an example
is the sum of its stems afterwards, so whatever is done here, stems and mixture agree.

Remix of instruments across songs, random channel swap and random gain follow S. Uhlich et al.,
"Improving music source separation based on deep neural networks through data augmentation and
network blending", ICASSP 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np
import scipy.signal
import soxr

from .errors import SeparationError

EQUALISER_BAND = (60.0, 12000.0)  # Hz, of the centres
EQUALISER_Q = (0.5, 2.0)
_SPARE = 64  # samples beside the exact need of a resampler


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise SeparationError(sentence)


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
            _require(
                0 <= value <= 1,
                f"augmentation.{name} is a probability between 0 and 1, not {value}",
            )
        for name in ("gain", "gain_db"):
            bounds = getattr(self, name)
            if bounds is None:
                continue
            _require(
                len(bounds) == 2 and all(map(math.isfinite, bounds)) and bounds[0] <= bounds[1],
                f"augmentation.{name} must be two numbers, the lower one first, not {bounds}",
            )
        _require(
            self.gain is None or self.gain[0] >= 0,
            f"augmentation.gain must not be negative (see sign_flip), not {self.gain}",
        )
        _require(
            self.gain is None or self.gain_db is None,
            "augmentation has both gain and gain_db: keep one of them",
        )
        _require(
            0 <= self.speed <= 0.5,
            f"augmentation.speed must lie between 0 and 0.5, not {self.speed}",
        )
        for name in ("equaliser_db", "clipping_db"):
            value = getattr(self, name)
            _require(
                0 <= value <= 40, f"augmentation.{name} must lie between 0 and 40 dB, not {value}"
            )

    def nb_samples_in(self, nb_samples: int) -> int:
        """Samples that ``apply`` takes to return ``nb_samples``: more where ``speed`` is on."""
        if not self.speed:
            return nb_samples
        return math.ceil(nb_samples * (1 + self.speed)) + _SPARE

    def apply(
        self, stems: np.ndarray, rng: np.random.Generator, nb_samples: int, sample_rate: int
    ) -> np.ndarray:
        """All of it but ``remix``, which is for whoever reads the stems.

        Args:
            stems: float32 ``[I, nb_samples_in(nb_samples), C]``.
            sample_rate: in Hz.

        Returns:
            float32 ``[I, nb_samples, C]``.
        """
        if self.speed:
            stems = change_speed(stems, rng, self.speed, nb_samples)
        if self.equaliser_db:
            stems = equalise(stems, rng, self.equaliser_db, sample_rate)
        if self.clipping:
            stems = clip(stems, rng, self.clipping, self.clipping_db)
        if self.channel_swap:
            stems = swap_channels(stems, rng, self.channel_swap)
        if self.sign_flip:
            stems = flip_sign(stems, rng, self.sign_flip)
        if self.gain is not None:
            stems = change_gain(stems, rng, *self.gain)
        if self.gain_db is not None:
            stems = change_gain_db(stems, rng, *self.gain_db)
        return stems


USUAL = Augmentation(remix=1.0, gain=(0.25, 1.25), channel_swap=0.5, sign_flip=0.5)


def change_gain(stems: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Each stem times a factor, uniform between ``low`` and ``high``."""
    return stems * _per_stem(rng.uniform(low, high, len(stems)))


def change_gain_db(
    stems: np.ndarray, rng: np.random.Generator, low: float, high: float
) -> np.ndarray:
    """Each stem times a factor whose dB are uniform between ``low`` and ``high``."""
    return stems * _per_stem(10 ** (rng.uniform(low, high, len(stems)) / 20))


def swap_channels(stems: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """Left and right of a stem change places with ``probability``."""
    swapped = stems.copy()
    chosen = rng.random(len(stems)) < probability
    swapped[chosen] = stems[chosen][..., ::-1]
    return swapped


def flip_sign(stems: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """A stem changes its sign with ``probability``."""
    return stems * _per_stem(np.where(rng.random(len(stems)) < probability, -1.0, 1.0))


def clip(
    stems: np.ndarray, rng: np.random.Generator, probability: float, depth_db: float
) -> np.ndarray:
    """With ``probability`` a stem is cut off at 0 to ``depth_db`` dB under its own peak."""
    clipped = stems.copy()
    chosen = rng.random(len(stems)) < probability
    thresholds = np.abs(stems).max(axis=(1, 2)) * 10 ** (-rng.uniform(0, depth_db, len(stems)) / 20)
    for index in np.flatnonzero(chosen):
        np.clip(stems[index], -thresholds[index], thresholds[index], out=clipped[index])
    return clipped


def equalise(
    stems: np.ndarray, rng: np.random.Generator, largest_db: float, sample_rate: int
) -> np.ndarray:
    """Each stem through one peaking filter: its centre log-uniform in ``EQUALISER_BAND``, its Q
    log-uniform in ``EQUALISER_Q``, its gain uniform between plus and minus ``largest_db`` dB."""
    low, high = EQUALISER_BAND
    high = max(min(high, 0.45 * sample_rate), low)
    centres = np.exp(rng.uniform(math.log(low), math.log(high), len(stems)))
    widths = np.exp(rng.uniform(*np.log(EQUALISER_Q), len(stems)))
    gains = rng.uniform(-largest_db, largest_db, len(stems))
    filtered = np.empty_like(stems)
    for stem, out, *filter_ in zip(stems, filtered, centres, widths, gains, strict=True):
        out[:] = scipy.signal.sosfilt(peaking_filter(*filter_, sample_rate), stem, axis=0)
    return filtered


def peaking_filter(centre: float, q: float, gain_db: float, sample_rate: int) -> np.ndarray:
    """Second-order section ``[1, 6]`` of gain ``gain_db`` at ``centre`` Hz and 1 far away.

    The peaking filter of R. Bristow-Johnson's "Cookbook formulae for audio EQ biquad filter
    coefficients".
    """
    omega = 2 * math.pi * centre / sample_rate
    alpha = math.sin(omega) / (2 * q)
    amplitude = 10 ** (gain_db / 40)
    middle = -2 * math.cos(omega)
    b = np.array([1 + alpha * amplitude, middle, 1 - alpha * amplitude])
    a = np.array([1 + alpha / amplitude, middle, 1 - alpha / amplitude])
    return np.concatenate([b, a])[np.newaxis] / a[0]


def change_speed(
    stems: np.ndarray, rng: np.random.Generator, largest: float, nb_samples: int
) -> np.ndarray:
    """All stems faster or slower by one factor, at most ``1 + largest`` either way.

    Args:
        stems: ``[I, S, C]``, S at least ``Augmentation(speed=largest).nb_samples_in(nb_samples)``.

    Returns:
        float32 ``[I, nb_samples, C]``: tempo and pitch have changed together.
    """
    bound = math.log1p(largest)
    factor = math.exp(rng.uniform(-bound, bound))
    nb_instruments, available, nb_channels = stems.shape
    taken = min(math.ceil(nb_samples * factor) + _SPARE, available)
    flat = stems[:, :taken].transpose(1, 0, 2).reshape(taken, -1)  # [S, I C]
    flat = soxr.resample(np.ascontiguousarray(flat, np.float32), factor, 1.0)[:nb_samples]
    return np.ascontiguousarray(
        flat.reshape(nb_samples, nb_instruments, nb_channels).transpose(1, 0, 2)
    )


def _per_stem(factors: np.ndarray) -> np.ndarray:
    """Factors ``[I]`` -> float32 ``[I, 1, 1]``."""
    return factors.astype(np.float32)[:, np.newaxis, np.newaxis]
