"""Checks of waveforms that callers pass as arrays, and their peaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from spleeter_2.checks import check_type
from spleeter_2.errors import SeparationError

from .reader import first_invalid_sample


def check_waveform(waveform: Any) -> np.ndarray:
    """A user's array as float32 ``[S, C]``.

    Raises:
        SeparationError: another shape or dtype, no samples, or an invalid or masked sample.
    """
    if np.ma.is_masked(waveform):
        raise SeparationError("a waveform must have no masked samples: fill them first")
    try:
        waveform = np.asarray(waveform)
    except (ValueError, TypeError) as error:  # nested lists of unequal lengths
        raise SeparationError("a waveform must be an array, or lists of equal lengths") from error
    if waveform.ndim == 1:
        waveform = waveform[:, np.newaxis]
    if waveform.ndim != 2 or waveform.shape[1] not in (1, 2) or not len(waveform):
        raise SeparationError(
            "a waveform must have the shape [samples, channels] with 1 or 2 channels and at "
            f"least one sample, not {list(waveform.shape)}"
        )
    if not np.issubdtype(waveform.dtype, np.floating):
        raise SeparationError(
            f"a waveform must be floating point with full scale 1.0, not {waveform.dtype}"
        )
    if (bad := first_invalid_sample(waveform)) is not None:
        raise SeparationError(f"the waveform holds {bad[1]} at sample {bad[0]}")
    return waveform.astype(np.float32, copy=False)


def check_blocks(blocks: Any) -> Iterator[np.ndarray]:
    """A user's blocks as float32 ``[n, C]``, n > 0; each is checked when it is its turn.

    Raises:
        SeparationError: no series of blocks; an invalid block; another number of channels than
            that of the first block.
    """
    check_type("blocks", blocks, Iterable)
    if isinstance(blocks, np.ndarray) and blocks.ndim < 3:
        raise SeparationError("blocks must be a series of arrays, not one: use separate()")
    return _checked(blocks)


def _checked(blocks: Iterable[Any]) -> Iterator[np.ndarray]:
    nb_channels = None
    for block in blocks:
        if isinstance(block, np.ndarray) and not block.size:
            continue
        block = check_waveform(block)
        nb_channels = nb_channels or block.shape[1]
        if block.shape[1] != nb_channels:
            raise SeparationError(
                f"blocks must have equal channels, not {nb_channels} and {block.shape[1]}"
            )
        yield block


def peak_of(block: np.ndarray) -> float:
    """Largest magnitude in an array."""
    return max(float(block.max(initial=0.0)), -float(block.min(initial=0.0)))
