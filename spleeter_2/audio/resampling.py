"""Sample rate conversion of a stream of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr


def resample(blocks: Iterable[np.ndarray], source: int, target: int) -> Iterator[np.ndarray]:
    """Change the sample rate of a stream of float32 ``[n, C]``; no delay."""
    if source == target:
        yield from blocks
        return
    stream = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(
                source, target, block.shape[1], dtype="float32", quality="VHQ"
            )
            nothing = block[:0]
        yield stream.resample_chunk(np.ascontiguousarray(block))
    if stream is not None:
        yield stream.resample_chunk(np.ascontiguousarray(nothing), last=True)
