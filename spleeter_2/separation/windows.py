"""Windows of a song for a network, and the overlap-add of what the network makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spleeter_2.config.schema import Segment, Stft


@dataclass(frozen=True)
class Windows:
    """Windows of a song, in samples.

    Window i keeps the samples from ``i * step`` to ``i * step + useful``. It has ``trim`` more on
    either side as context: the song's own where there are any, silence elsewhere.

    Attributes:
        length: samples of a window, the context included.
        trim: samples of context on either side.
        step: distance of two windows.
        linear: cross-fade neighbours where they overlap, instead of their mean.
    """

    length: int
    trim: int
    step: int
    linear: bool

    @classmethod
    def of(cls, stft: Stft, segment: Segment, overlap: float | None = None) -> Windows:
        """Windows of a configuration.

        Args:
            overlap: share of ``useful`` computed twice, 0 to 0.5 (default: the segment's). Linear
                joins overlap by at least one STFT frame, since a hard cut between two estimates
                clicks.
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
        """Weight float32 ``[useful, 1]`` of a window's samples in the overlap-add."""
        weight = np.ones((self.useful, 1), np.float32)
        if self.linear:
            shared = self.useful - self.step
            ramp = ((np.arange(shared) + 0.5) / shared).astype(np.float32)
            weight[:shared, 0] = ramp
            weight[self.useful - shared :, 0] = np.minimum(weight[self.step :, 0], ramp[::-1])
        return weight

    def cut(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        """Cut a stream into windows, reading no further than each window needs.

        Args:
            blocks: float32 ``[n, C]`` each, any n.

        Yields:
            A window float32 ``[length, C]``, and the number of samples left from the start of its
            kept part on: exact for the last window, only known to exceed ``useful`` for others.
        """
        source = iter(blocks)
        buffer: np.ndarray | None = None  # begins ``trim`` samples before the window's kept part
        ended = False
        while True:
            while not ended and (buffer is None or len(buffer) <= self.length):
                block = next(source, None)
                if block is None:
                    ended = True
                elif buffer is None:
                    buffer = np.concatenate([np.zeros((self.trim, block.shape[1]), "f4"), block])
                else:
                    buffer = np.concatenate([buffer, block])
            if buffer is None or len(buffer) <= self.trim:
                return
            window = buffer[: self.length]
            missing = self.length - len(window)
            nb_left = len(buffer) - self.trim
            yield np.pad(window, ((0, missing), (0, 0))), nb_left
            if ended and nb_left <= self.useful:
                return
            buffer = buffer[self.step :]


class OverlapAdd:
    """Weighted overlap-add of the estimates of consecutive windows.

    Every sample is the weighted mean of the windows that keep it: estimates that equal their
    windows give back the song. Memory does not depend on the song's length.
    """

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._sum: np.ndarray | None = None  # [I, useful, C] from the current window's start on
        self._weights = np.zeros((windows.useful, 1), np.float32)

    def add(self, estimates: np.ndarray, nb_left: int) -> np.ndarray:
        """Add the estimates of the next window.

        Args:
            estimates: float32 ``[I, length, C]`` of I instruments.
            nb_left: as yielded by ``Windows.cut`` with the window.

        Returns:
            The samples that no later window changes, float32 ``[I, n, C]``.
        """
        windows = self._windows
        kept = estimates[:, windows.trim : windows.trim + windows.useful] * windows.weight
        total = kept if self._sum is None else self._sum + kept
        weights = self._weights + windows.weight
        ready = nb_left if nb_left <= windows.useful else min(windows.step, nb_left)
        # later windows add to the samples from ``step`` on, which move to the front
        self._sum = np.pad(total[:, windows.step :], ((0, 0), (0, windows.step), (0, 0)))
        self._weights = np.pad(weights[windows.step :], ((0, windows.step), (0, 0)))
        return total[:, :ready] / weights[:ready]
