"""Filters over the estimates of all instruments in a window of the STFT.

Estimates have the F' lowest of the mixture's F bins, the band of the model.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spleeter_2.audio.mixing import residual
from spleeter_2.config.schema import RatioMask

EPSILON = 1e-10  # of Spleeter's masks: all equal where every estimate is silent

Spectrograms = Mapping[str, np.ndarray]  # complex64 [T, F', C] by instrument


def ratio_masks(
    mixture: np.ndarray, estimates: Spectrograms, options: RatioMask
) -> dict[str, np.ndarray]:
    """Share the mixture among its estimates, bin by bin, as Spleeter does.

    ``mask_i = (|e_i|^p + epsilon / I) / (sum_j |e_j|^p + epsilon)``

    Args:
        mixture: complex64 ``[T, F, C]``.

    Returns:
        ``{instrument: complex64 [T, F', C]}``, or with all F bins where masks are extended by
        their average.
    """
    powers = {name: _power(each, options.exponent) for name, each in estimates.items()}
    total = sum(powers.values()) + np.float32(EPSILON)
    shares = {}
    for name, power in powers.items():
        mask = power  # in place: these are the largest arrays of a separation
        mask += np.float32(EPSILON / len(powers))
        mask /= total
        shares[name] = mixture[:, : mask.shape[1]] * mask
        if options.extension == "average":
            above = mixture[:, mask.shape[1] :] * mask.mean(axis=1, keepdims=True)
            shares[name] = np.concatenate([shares[name], above], axis=1)
    return shares


def extended_by_power(mixture: np.ndarray, estimates: Spectrograms) -> dict[str, np.ndarray]:
    """Extend estimates above the model's band by the mixture there, scaled per frame and channel.

    The factor is the estimate's share of the mixture's power in the highest quarter of the band, at
    most 1: sibilants and breath go on upwards, and where the band's top has no voice, nothing does.

    Args:
        mixture: complex64 ``[T, F, C]``.

    Returns:
        ``{instrument: complex64 [T, F, C]}``.
    """
    nb_bins = next(iter(estimates.values())).shape[1]
    top = slice(nb_bins - nb_bins // 4, nb_bins)
    total = _power(mixture[:, top], 2).sum(axis=1, keepdims=True) + np.float32(EPSILON)
    extended = {}
    for name, estimate in estimates.items():
        share = np.minimum(_power(estimate[:, top], 2).sum(axis=1, keepdims=True) / total, 1)
        extended[name] = np.concatenate([estimate, mixture[:, nb_bins:] * share], axis=1)
    return extended


def _power(estimate: np.ndarray, exponent: float) -> np.ndarray:
    """Magnitudes to a power, float32."""
    squared = estimate.real**2 + estimate.imag**2
    return squared if exponent == 2 else squared ** np.float32(exponent / 2)


def wiener(
    mixture: np.ndarray, estimates: Spectrograms, has_residual: bool
) -> dict[str, np.ndarray]:
    """Multichannel Wiener filter (Nugraha et al., 2016) over all instruments of a window.

    Args:
        mixture: complex64 ``[T, F, C]``.
        has_residual: the mixture minus the estimates is an instrument too.

    Returns:
        ``{instrument: complex64 [T, F', C]}``, without the residual.
    """
    import norbert

    mixture = mixture[:, : next(iter(estimates.values())).shape[1]]
    sources = list(estimates.values())
    if has_residual:
        sources.append(residual(mixture, estimates))
    magnitudes = np.abs(np.stack(sources, axis=-1))  # [T, F, C, J]
    epsilon = np.finfo(np.float32).eps  # Spleeter's; the estimates depend on it
    filtered = norbert.wiener(magnitudes, mixture.astype(np.complex128), eps=epsilon)
    return {name: filtered[..., index].astype(np.complex64) for index, name in enumerate(estimates)}
