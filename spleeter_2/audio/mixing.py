"""Conversion of channels, and the residual of a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def with_channels(block: np.ndarray, channels: int) -> np.ndarray:
    """Block ``[n, 1 or 2]`` -> ``[n, channels]``: mono is duplicated, stereo is averaged."""
    if block.shape[1] == channels:
        return block
    if channels == 1:
        return block.mean(axis=1, keepdims=True)
    return np.repeat(block, channels, axis=1)


def residual(mixture: Any, estimates: Mapping[str, Any]) -> Any:
    """Mixture minus all estimates: waveforms or spectrograms, NumPy or TensorFlow."""
    for estimate in estimates.values():
        mixture = mixture - estimate
    return mixture
