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

    def forward(self, waveform: np.ndarray, nb_bins: int | None = None) -> np.ndarray:
        """Waveform float32 ``[S, C]`` -> complex64 ``[T, F, C]``.

        S exceeds frame_length / 2 if centred, else frame_length.

        Args:
            nb_bins: F, the lowest bins to keep (default: all).
        """
        nb_bins = self.length // 2 + 1 if nb_bins is None else nb_bins
        nb_frames = 1 + (len(waveform) + 2 * self._before - self.length) // self.step
        spectrogram = np.empty((nb_frames, nb_bins, waveform.shape[1]), np.complex64)
        for channel, samples in enumerate(waveform.T):  # one at a time takes less memory
            padded = np.pad(samples, self._before, mode="reflect")
            frames = np.lib.stride_tricks.sliding_window_view(padded, self.length)
            frames = frames[:: self.step] * self.window  # [T, length]
            bins = import_fft().rfft(frames, workers=WORKERS, overwrite_x=True)
            spectrogram[:, :, channel] = bins[:, :nb_bins]
        return spectrogram

    def inverse(self, spectrogram: np.ndarray, nb_samples: int) -> np.ndarray:
        """Complex64 ``[T, F, C]`` -> float32 ``[nb_samples, C]``; missing upper bins are zero.

        Overlap-add of windowed frames, divided by the sum of squared windows. The
        imaginary parts at 0 Hz and at the Nyquist frequency are ignored.
        """
        kept = slice(self._before, self._before + nb_samples)
        norm = self.norm(len(spectrogram))[kept]
        waveform = np.empty((len(norm), spectrogram.shape[2]), np.float32)
        for channel in range(spectrogram.shape[2]):
            bins = spectrogram[:, :, channel]
            frames = import_fft().irfft(bins, n=self.length, workers=WORKERS)
            frames *= self.window  # [T, length]
            waveform[:, channel] = self._overlap_add(frames)[kept] / norm
        return waveform

    def _overlap_add(self, frames: np.ndarray) -> np.ndarray:
        """Frames ``[T, length]`` -> ``[S]`` with S at least ``(T - 1) * step + length``."""
        nb_frames = len(frames)
        parts = -(-self.length // self.step)
        summed = np.zeros((nb_frames + parts - 1, self.step), frames.dtype)
        for part in range(parts):
            piece = frames[:, part * self.step : (part + 1) * self.step]
            summed[part : part + nb_frames, : piece.shape[1]] += piece
        return summed.reshape(-1)

    def norm(self, nb_frames: int) -> np.ndarray:
        """Sum of the squared windows of ``nb_frames`` frames, from the first one's start on."""
        if nb_frames not in self._norms:
            squared = np.broadcast_to(self.window**2, (nb_frames, self.length))
            # avoids division by zero where all windows are zero
            self._norms[nb_frames] = np.maximum(self._overlap_add(squared), 1e-8)
        return self._norms[nb_frames]


def import_fft() -> ModuleType:
    """scipy.fft, whose import takes as long as that of NumPy: not before it is needed."""
    import scipy.fft

    return scipy.fft
