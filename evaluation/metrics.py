"""SDR and SI-SDR of whole tracks, and the definition of silence."""

from __future__ import annotations

import numpy as np

from spleeter_2.data.cache import SILENCE

EPSILON = 1e-7  # as in the MDX challenge; a silent estimate of silence scores 0 dB


def is_silent(waveform: np.ndarray) -> bool:
    """Return True if every sample is below ``SILENCE``, as in training."""
    return not np.max(np.abs(waveform), initial=0) >= SILENCE


def sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Signal-to-distortion ratio of a whole track in dB, as in the MDX challenge.

    ``10 log10((sum s^2 + e) / (sum (s - s^)^2 + e))`` over all samples and channels
    (Y. Mitsufuji et al., "Music Demixing Challenge 2021", Frontiers in Signal Processing 2022).

    Args:
        reference, estimate: waveforms ``[S, C]`` of equal shape.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != estimate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {estimate.shape}")
    reference = reference.astype(np.float64)
    signal = np.sum(reference**2)
    distortion = np.sum((reference - estimate) ** 2)
    return float(10 * np.log10((signal + EPSILON) / (distortion + EPSILON)))


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant SDR of a whole track in dB: the SDR after the best gain on the reference.

    ``10 log10(|a s|^2 / |a s - s^|^2)`` with ``a = <s^, s> / |s|^2``, one gain for all channels
    (J. Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019).

    Args:
        reference, estimate: waveforms ``[S, C]`` of equal shape.

    Returns:
        dB; infinity for a perfect estimate, NaN if either waveform is silent throughout.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != estimate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {estimate.shape}")
    reference = reference.astype(np.float64)
    energy = np.sum(reference**2)
    if not energy or not np.any(estimate):
        return float("nan")
    scaled = np.sum(estimate * reference) / energy * reference
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.sum(scaled**2) / np.sum((scaled - estimate) ** 2)))
