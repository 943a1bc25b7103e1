"""Filters over the estimates of all instruments in a window of the STFT."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spleeter_2.audio.mixing import residual
from spleeter_2.config.schema import RatioMask

EPSILON = 1e-10  # of Spleeter's masks: all equal where every estimate is silent

Spectrograms = Mapping[str, np.ndarray]  # complex64 [T, F, C] by instrument


def ratio_masks(
    mixture: np.ndarray, estimates: Spectrograms, options: RatioMask, nb_bins: int
) -> dict[str, np.ndarray]:
    """Share the mixture among its estimates, bin by bin, as Spleeter does.

    ``mask_i = (|e_i|^p + epsilon / I) / (sum_j |e_j|^p + epsilon)``

    Args:
        mixture: complex64 ``[T, F, C]``.
        nb_bins: bins of the masks; above them ``options.extension`` applies.

    Returns:
        ``{instrument: complex64 [T, F, C]}``.
    """
    powers = {
        name: _power(estimate[:, :nb_bins], options.exponent)
        for name, estimate in estimates.items()
    }
    total = sum(powers.values()) + np.float32(EPSILON)
    shares = {}
    for name, power in powers.items():
        mask = power  # in place: these are the largest arrays of a separation
        mask += np.float32(EPSILON / len(powers))
        mask /= total
        shares[name] = share = np.zeros_like(mixture)
        np.multiply(mixture[:, :nb_bins], mask, out=share[:, :nb_bins])
        if options.extension == "average":
            mean = mask.mean(axis=1, keepdims=True)
            np.multiply(mixture[:, nb_bins:], mean, out=share[:, nb_bins:])
    return shares


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
        ``{instrument: complex64 [T, F, C]}``, without the residual.
    """
    import norbert

    sources = list(estimates.values())
    if has_residual:
        sources.append(residual(mixture, estimates))
    magnitudes = np.abs(np.stack(sources, axis=-1))  # [T, F, C, J]
    epsilon = np.finfo(np.float32).eps  # Spleeter's; the estimates depend on it
    filtered = norbert.wiener(magnitudes, mixture.astype(np.complex128), eps=epsilon)
    return {name: filtered[..., index].astype(np.complex64) for index, name in enumerate(estimates)}
