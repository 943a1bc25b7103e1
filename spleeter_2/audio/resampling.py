"""Sample rate conversion of a stream of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr


def resample(blocks: Iterable[np.ndarray], source: int, target: int) -> Iterator[np.ndarray]:
    """Change the sample rate of a stream of blocks, without delay.

    Args:
        blocks: float32 ``[n, C]`` each.
        source, target: sample rates in Hz.

    Yields:
        float32 ``[m, C]``, m may be 0.
    """
    if source == target:
        yield from blocks
        return
    stream = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(
                source, target, block.shape[1], dtype="float32", quality="VHQ"
            )
            empty = block[:0]
        yield stream.resample_chunk(np.ascontiguousarray(block))
    if stream is not None:
        yield stream.resample_chunk(np.ascontiguousarray(empty), last=True)
