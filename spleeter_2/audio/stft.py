"""STFT and inverse STFT.

Computed by SciPy, outside the network's graph: on a CPU, TensorFlow's FFT takes about nine times
as long.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

WORKERS = 2  # threads of a transform


class Transform:
    """STFT and its exact inverse.

    Periodic Hann window, one-sided, not normalised.

    Args:
        frame_length, frame_step: in samples.
        window: analysis and synthesis window ``[frame_length]`` instead of the Hann window.
        centred: frame t is centred on sample t * hop, with reflect padding, so S samples give
            1 + S // hop frames. Otherwise it begins there, and they give
            1 + (S - frame_length) // hop.
    """

    def __init__(
        self,
        frame_length: int = 4096,
        frame_step: int = 1024,
        window: np.ndarray | None = None,
        centred: bool = True,
    ) -> None:
        self.length = frame_length
        self.step = frame_step
        self._before = frame_length // 2 if centred else 0  # padding on either side
        if window is None:
            window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.length) / self.length)
        self.window = window.astype(np.float32)
        self._norms: dict[int, np.ndarray] = {}

    def forward(self, waveform: np.ndarray) -> np.ndarray:
        """Waveform float32 ``[S, C]`` -> complex64 ``[T, F, C]``.

        S exceeds frame_length / 2 if centred, else frame_length.
        """
        channels = np.ascontiguousarray(waveform.T)
        if self._before:
            channels = np.pad(channels, ((0, 0), (self._before,) * 2), mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(channels, self.length, axis=1)
        frames = frames[:, :: self.step] * self.window  # [C, T, length]
        spectrogram = import_fft().rfft(frames, workers=WORKERS, overwrite_x=True)
        return np.moveaxis(spectrogram, 0, 2)  # [T, F, C]

    def inverse(self, spectrogram: np.ndarray, nb_samples: int) -> np.ndarray:
        """Complex64 ``[T, F, C]`` -> float32 ``[nb_samples, C]``; missing upper bins are zero.

        Overlap-add of windowed frames, divided by the sum of squared windows. The
        imaginary parts at 0 Hz and at the Nyquist frequency are ignored.
        """
        frames = import_fft().irfft(
            np.moveaxis(spectrogram, 2, 0), n=self.length, workers=WORKERS, overwrite_x=True
        )
        frames *= self.window  # [C, T, length]
        kept = slice(self._before, self._before + nb_samples)
        summed = self._overlap_add(frames)[:, kept]
        return (summed / self.norm(frames.shape[1])[kept]).T

    def _overlap_add(self, frames: np.ndarray) -> np.ndarray:
        """Frames ``[C, T, length]`` -> ``[C, S]`` with S at least ``(T - 1) * step + length``."""
        channels, nb_frames, _ = frames.shape
        parts = -(-self.length // self.step)
        summed = np.zeros((channels, nb_frames + parts - 1, self.step), frames.dtype)
        for part in range(parts):
            piece = frames[:, :, part * self.step : (part + 1) * self.step]
            summed[:, part : part + nb_frames, : piece.shape[2]] += piece
        return summed.reshape(channels, -1)

    def norm(self, nb_frames: int) -> np.ndarray:
        """Sum of the squared windows of ``nb_frames`` frames, from the first one's start on."""
        if nb_frames not in self._norms:
            squared = np.broadcast_to(self.window**2, (1, nb_frames, self.length))
            # avoids division by zero where all windows are zero
            self._norms[nb_frames] = np.maximum(self._overlap_add(squared)[0], 1e-8)
        return self._norms[nb_frames]


def import_fft() -> ModuleType:
    """scipy.fft, whose import takes as long as that of NumPy: not before it is needed."""
    import scipy.fft

    return scipy.fft
