"""Chunking of a song into windows, and overlap-add of their estimates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spleeter_2.config.schema import Segment, Stft


@dataclass(frozen=True)
class Windows:
    """Windows of a song, in samples.

    Window i keeps the samples from ``i * step`` to ``i * step + useful``, and has ``trim`` samples
    of context on either side: the song's where it has any, silence elsewhere.

    Attributes:
        length: samples of a window's estimate, including the context.
        trim: samples of context on either side, whose estimates are dropped.
        margin: further samples on either side that the network sees, without an estimate.
        step: samples between the starts of two windows.
        linear: cross-fade neighbouring windows linearly instead of averaging them.
    """

    length: int
    trim: int
    step: int
    linear: bool
    margin: int = 0

    @classmethod
    def of(
        cls, stft: Stft, segment: Segment, overlap: float | None = None, nb_late: int = 0
    ) -> Windows:
        """Windows of a configuration.

        Args:
            overlap: overlap relative to ``useful``, 0 to 0.5 (default: the segment's). With linear
                cross-fades it is at least one STFT frame, since a hard cut causes a click.
            nb_late: frames by which the latest pass of the network starts later than the first;
                the estimate has as many frames less than the network's segment.
        """
        length = stft.frame_step * (segment.nb_frames - nb_late - 1)
        useful = length - 2 * segment.trim
        step = int(useful * (1 - (segment.overlap if overlap is None else overlap)))
        linear = segment.join == "linear"
        if linear:
            step = min(step, useful - min(stft.frame_length, useful // 2))
        return cls(length, segment.trim, step, linear, nb_late * stft.frame_step)

    @property
    def useful(self) -> int:
        """Kept samples of a window."""
        return self.length - 2 * self.trim

    @cached_property
    def weight(self) -> np.ndarray:
        """Weights float32 ``[useful, 1]`` of a window's samples in the overlap-add."""
        weight = np.ones((self.useful, 1), np.float32)
        if self.linear:
            shared = self.useful - self.step
            ramp = ((np.arange(shared) + 0.5) / shared).astype(np.float32)
            weight[:shared, 0] = ramp
            weight[self.useful - shared :, 0] = np.minimum(weight[self.step :, 0], ramp[::-1])
        return weight

    def cut(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        """Cut a stream into windows, reading no more blocks than each window requires.

        Args:
            blocks: float32 ``[n, C]`` each, any n.

        Yields:
            A window float32 ``[length + 2 * margin, C]``, and the number of remaining samples,
            counted from the start of its kept part: exact for the last window, some number above
            ``useful`` before.
        """
        source = iter(blocks)
        before, length = self.trim + self.margin, self.length + 2 * self.margin
        buffer: np.ndarray | None = None  # begins ``before`` samples before the window's kept part
        ended = False
        while True:
            while not ended and (buffer is None or len(buffer) <= length):
                block = next(source, None)
                if block is None:
                    ended = True
                elif buffer is None:
                    buffer = np.concatenate([np.zeros((before, block.shape[1]), "f4"), block])
                else:
                    buffer = np.concatenate([buffer, block])
            if buffer is None or len(buffer) <= before:
                return
            window = buffer[:length]
            missing = length - len(window)
            nb_left = len(buffer) - before
            yield np.pad(window, ((0, missing), (0, 0))), nb_left
            if ended and nb_left <= self.useful:
                return
            buffer = buffer[self.step :]


class OverlapAdd:
    """Weighted overlap-add of the estimates of consecutive windows.

    Every sample is the weighted mean of the windows that keep it. Memory does not depend on the
    song's length.
    """

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._sum: np.ndarray | None = None  # [I, useful, C], from the next window's kept part on
        self._weights = np.zeros((windows.useful, 1), np.float32)

    def add(self, estimates: np.ndarray, nb_left: int) -> np.ndarray:
        """Add the estimates of the next window.

        Args:
            estimates: float32 ``[I, length, C]`` of I instruments.
            nb_left: the number that ``Windows.cut`` yielded with the window.

        Returns:
            The samples that no later window changes, float32 ``[I, n, C]``.
        """
        windows = self._windows
        kept = estimates[:, windows.trim : windows.trim + windows.useful] * windows.weight
        total = kept if self._sum is None else self._sum + kept
        weights = self._weights + windows.weight
        ready = nb_left if nb_left <= windows.useful else min(windows.step, nb_left)
        # the next window starts at ``step``
        self._sum = np.pad(total[:, windows.step :], ((0, 0), (0, windows.step), (0, 0)))
        self._weights = np.pad(weights[windows.step :], ((0, windows.step), (0, 0)))
        return total[:, :ready] / weights[:ready]
