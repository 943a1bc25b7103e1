"""Cut a stream of samples into windows, and join what a network makes of them by overlap-add."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spleeter_2.config.schema import Segment, Stft


@dataclass(frozen=True)
class Windows:
    """How a song is cut into windows for a network, in samples, and how they are joined.

    Window i keeps the samples from ``i * step`` to ``i * step + useful``; it sees ``trim`` more
    on either side, real ones where the song has some and silence elsewhere.
    """

    length: int
    trim: int
    step: int
    linear: bool

    @classmethod
    def of(cls, stft: Stft, segment: Segment, overlap: float | None = None) -> Windows:
        """Windows of a configuration, with another overlap (0 to 0.5) on request.

        Linear joins fade over at least one STFT frame: a hard cut between two estimates clicks.
        """
        length = stft.frame_step * (segment.nb_frames - 1)
        useful = length - 2 * segment.trim
        step = int(useful * (1 - (segment.overlap if overlap is None else overlap)))
        linear = segment.join == "linear"
        if linear:
            step = min(step, useful - min(stft.frame_length, useful // 2))
        return cls(length, segment.trim, step, linear)

    @property
    def useful(self) -> int:
        """Samples of a window that are kept."""
        return self.length - 2 * self.trim

    @cached_property
    def weight(self) -> np.ndarray:
        """Weight float32 ``[useful, 1]`` of a window's samples among their neighbours'."""
        weight = np.ones((self.useful, 1), np.float32)
        if self.linear:
            shared = self.useful - self.step
            ramp = ((np.arange(shared) + 0.5) / shared).astype(np.float32)
            weight[:shared, 0] = ramp
            weight[self.useful - shared :, 0] = np.minimum(weight[self.step :, 0], ramp[::-1])
        return weight


def overlap_add(
    blocks: Iterable[np.ndarray],
    windows: Windows,
    estimate: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]],
) -> Iterator[np.ndarray]:
    """Run a stream of samples through a function that sees windows of it.

    Every output sample is the weighted mean of the windows that keep it, so a function that
    returns its input gives back the stream. Memory does not depend on the stream's length.

    Args:
        blocks: float32 ``[n, C]`` each, any n.
        windows: how to cut and join.
        estimate: turns a stream of windows, float32 ``[length, C]``, into one of estimates
            ``[I, length, C]`` of I instruments; it may read ahead.

    Yields:
        float32 ``[I, n, C]``; as many samples in all as came in.
    """
    useful, step, trim = windows.useful, windows.step, windows.trim
    weight = windows.weight
    summed: np.ndarray | None = None  # [I, useful, C] from the current window's start on
    weights = np.zeros((useful, 1), np.float32)
    lefts: deque[int] = deque()

    def cut() -> Iterator[np.ndarray]:
        for window, left in _cut(blocks, windows):
            lefts.append(left)
            yield window

    for estimates in estimate(cut()):
        left = lefts.popleft()
        kept = estimates[:, trim : trim + useful] * weight
        summed = kept if summed is None else summed + kept
        weights = weights + weight
        ready = min(step, left) if left > useful else left
        yield summed[:, :ready] / weights[:ready]
        # what later windows add to moves to the front
        summed = np.pad(summed[:, step:], ((0, 0), (0, step), (0, 0)))
        weights = np.pad(weights[step:], ((0, step), (0, 0)))


def _cut(blocks: Iterable[np.ndarray], windows: Windows) -> Iterator[tuple[np.ndarray, int]]:
    """Windows ``[length, C]`` of a stream, each with the samples left from its start on.

    That number is exact for the last window, and only known to exceed ``useful`` for others.
    """
    source = iter(blocks)
    buffer: np.ndarray | None = None  # begins ``trim`` samples before the window's start
    ended = False
    while True:
        while not ended and (buffer is None or len(buffer) <= windows.length):
            block = next(source, None)
            if block is None:
                ended = True
            elif buffer is None:
                buffer = np.concatenate([np.zeros((windows.trim, block.shape[1]), "f4"), block])
            else:
                buffer = np.concatenate([buffer, block])
        if buffer is None or len(buffer) <= windows.trim:
            return
        window = buffer[: windows.length]
        missing = windows.length - len(window)
        left = len(buffer) - windows.trim
        yield np.pad(window, ((0, missing), (0, 0))), left
        if ended and left <= windows.useful:
            return
        buffer = buffer[windows.step :]
