"""Plain numbers that say how good an estimate is; evaluation and training share them."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-7  # as in the MDX challenge: silence against silence scores 0 dB


def sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Signal-to-distortion ratio of a whole track in dB, as the MDX challenge defines it.

    ``10 log10((sum s^2 + e) / (sum (s - s^)^2 + e))`` over all samples and channels
    (Y. Mitsufuji et al., "Music Demixing Challenge 2021", Frontiers in Signal Processing 2022).

    Args:
        reference, estimate: waveforms ``[S, C]`` of equal shape.

    Raises:
        ValueError: shapes that differ.
    """
    if reference.shape != estimate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {estimate.shape}")
    reference = reference.astype(np.float64)
    signal = np.sum(reference**2)
    distortion = np.sum((reference - estimate) ** 2)
    return float(10 * np.log10((signal + EPSILON) / (distortion + EPSILON)))
