"""STFT, inverse STFT and overlap-add: the only place that knows windows and hops.

The transforms run in SciPy, outside the network's graph: on a CPU TensorFlow's own take about
nine times as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.fft

from .configuration import Segment, Stft

WORKERS = 2  # threads of a transform


class Transform:
    """Centred STFT with reflect padding, and its exact inverse.

    Periodic Hann window, one-sided, not normalised; frame t is centred on sample t * hop, so
    S samples give 1 + S // hop frames.

    Args:
        stft: frame length and step.
        window: analysis and synthesis window ``[frame_length]`` instead of the Hann window.
    """

    def __init__(self, stft: Stft, window: np.ndarray | None = None) -> None:
        self.length = stft.frame_length
        self.step = stft.frame_step
        if window is None:
            window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.length) / self.length)
        self.window = window.astype(np.float32)
        self._norms: dict[int, np.ndarray] = {}

    def forward(self, waveform: np.ndarray) -> np.ndarray:
        """Waveform float32 ``[S, C]``, S > frame_length / 2 -> complex64 ``[T, F, C]``."""
        half = self.length // 2
        channels = np.ascontiguousarray(waveform.T)
        padded = np.pad(channels, ((0, 0), (half, half)), mode="reflect")  # [C, S + length]
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.length, axis=1)
        frames = frames[:, :: self.step] * self.window  # [C, T, length]
        spectrogram = scipy.fft.rfft(frames, workers=WORKERS, overwrite_x=True)
        return np.moveaxis(spectrogram, 0, 2)  # [T, F, C]

    def inverse(self, spectrogram: np.ndarray, nb_samples: int) -> np.ndarray:
        """Complex64 ``[T, F, C]`` -> float32 ``[nb_samples, C]``; bins that it lacks are silent.

        Overlap-add of windowed frames, divided by the actual sum of squared windows. The
        imaginary parts at 0 Hz and at the Nyquist frequency do not count.
        """
        frames = scipy.fft.irfft(
            np.moveaxis(spectrogram, 2, 0), n=self.length, workers=WORKERS, overwrite_x=True
        )
        frames *= self.window  # [C, T, length]
        half = self.length // 2
        summed = self._overlap_add(frames)[:, half : half + nb_samples]
        norm = self._norm(frames.shape[1])[half : half + nb_samples]
        return (summed / norm).T

    def _overlap_add(self, frames: np.ndarray) -> np.ndarray:
        """Frames ``[C, T, length]`` -> ``[C, (T - 1) * step + length or more]``."""
        channels, nb_frames, _ = frames.shape
        parts = -(-self.length // self.step)
        summed = np.zeros((channels, nb_frames + parts - 1, self.step), frames.dtype)
        for part in range(parts):
            piece = frames[:, :, part * self.step : (part + 1) * self.step]
            summed[:, part : part + nb_frames, : piece.shape[2]] += piece
        return summed.reshape(channels, -1)

    def _norm(self, nb_frames: int) -> np.ndarray:
        """Sum of the squared windows of so many frames."""
        if nb_frames not in self._norms:
            squared = np.broadcast_to(self.window**2, (1, nb_frames, self.length))
            # nothing is left of a sample that every window weighs with zero
            self._norms[nb_frames] = np.maximum(self._overlap_add(squared)[0], 1e-8)
        return self._norms[nb_frames]


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
