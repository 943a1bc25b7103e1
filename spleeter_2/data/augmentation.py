"""Augmentation of training examples: pure functions on stems.

Each function takes stems float32 ``[I, S, C]`` and a NumPy ``Generator`` and returns new stems; the
result is determined by the generator's state. The mixture is summed afterwards, so it always equals
the sum of the stems.

Remix of instruments across songs, random channel swap and random gain follow S. Uhlich et al.,
"Improving music source separation based on deep neural networks through data augmentation and
network blending", ICASSP 2017.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.signal
import soxr

from spleeter_2.config.training import Augmentation

EQUALISER_BAND = (60.0, 12000.0)  # of the centre frequency, in Hz
EQUALISER_Q = (0.5, 2.0)
_SPARE = 64  # samples beyond the exact length, for the resampler's filter


def nb_samples_needed(options: Augmentation, nb_samples: int) -> int:
    """Length of ``augment``'s input for an output of ``nb_samples``; longer if ``speed`` is set."""
    if not options.speed:
        return nb_samples
    return math.ceil(nb_samples * (1 + options.speed)) + _SPARE


def augment(
    stems: np.ndarray,
    options: Augmentation,
    rng: np.random.Generator,
    nb_samples: int,
    sample_rate: int,
) -> np.ndarray:
    """Apply all augmentations except ``remix``, which is applied when stems are read.

    Args:
        stems: float32 ``[I, nb_samples_needed(options, nb_samples), C]``.
        sample_rate: in Hz.

    Returns:
        float32 ``[I, nb_samples, C]``.
    """
    if options.speed:
        stems = change_speed(stems, rng, options.speed, nb_samples)
    if options.equaliser_db:
        stems = equalise(stems, rng, options.equaliser_db, sample_rate)
    if options.clipping:
        stems = clip(stems, rng, options.clipping, options.clipping_db)
    if options.channel_swap:
        stems = swap_channels(stems, rng, options.channel_swap)
    if options.sign_flip:
        stems = flip_sign(stems, rng, options.sign_flip)
    if options.gain is not None:
        stems = change_gain(stems, rng, *options.gain)
    if options.gain_db is not None:
        stems = change_gain_db(stems, rng, *options.gain_db)
    return stems


def change_gain(stems: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Multiply each stem by a factor uniform between ``low`` and ``high``."""
    return stems * _per_stem(rng.uniform(low, high, len(stems)))


def change_gain_db(
    stems: np.ndarray, rng: np.random.Generator, low: float, high: float
) -> np.ndarray:
    """Change the level of each stem by a gain in dB uniform between ``low`` and ``high``."""
    return stems * _per_stem(10 ** (rng.uniform(low, high, len(stems)) / 20))


def swap_channels(stems: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """Swap left and right of each stem with ``probability``."""
    swapped = stems.copy()
    chosen = rng.random(len(stems)) < probability
    swapped[chosen] = stems[chosen][..., ::-1]
    return swapped


def flip_sign(stems: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """Flip the sign of each stem with ``probability``."""
    return stems * _per_stem(np.where(rng.random(len(stems)) < probability, -1.0, 1.0))


def clip(
    stems: np.ndarray, rng: np.random.Generator, probability: float, depth_db: float
) -> np.ndarray:
    """Clip each stem with ``probability`` at 0 to ``depth_db`` dB below its own peak."""
    clipped = stems.copy()
    chosen = rng.random(len(stems)) < probability
    thresholds = np.abs(stems).max(axis=(1, 2)) * 10 ** (-rng.uniform(0, depth_db, len(stems)) / 20)
    for index in np.flatnonzero(chosen):
        np.clip(stems[index], -thresholds[index], thresholds[index], out=clipped[index])
    return clipped


def equalise(
    stems: np.ndarray, rng: np.random.Generator, largest_db: float, sample_rate: int
) -> np.ndarray:
    """Filter each stem with a random peaking filter.

    Its centre frequency is log-uniform in ``EQUALISER_BAND``, its Q log-uniform in ``EQUALISER_Q``,
    its gain uniform between plus and minus ``largest_db`` dB.
    """
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
    """Second-order section ``[1, 6]``: ``gain_db`` dB at ``centre`` Hz, 0 dB far away from it.

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
    """Resample all stems by one random factor of at most ``1 + largest``, up or down.

    Tempo and pitch change together.

    Args:
        stems: ``[I, S, C]``, S at least ``nb_samples_needed(...)`` for this ``largest``.

    Returns:
        float32 ``[I, nb_samples, C]``.
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
