"""Spectrogram of a stem as a PNG picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 1200, 192  # pixels
LOWEST = 40.0  # Hz, at the lower edge; frequencies are on a logarithmic scale
RANGE = 80.0  # dB below the loudest pixel
FRAME = 4096
# dark to bright, of even steps in lightness
COLOURS = np.array(
    [(0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)]
)


def spectrogram(samples: np.ndarray, sample_rate: int) -> bytes:
    """Picture of the mean power over channels, in dB below the loudest pixel.

    Args:
        samples: float32 ``[S, C]``, which may be mapped from the disk: few of them are read.

    Returns:
        A PNG file of ``WIDTH`` x ``HEIGHT`` pixels.
    """
    starts = np.linspace(0, max(len(samples) - FRAME, 0), WIDTH).astype(int)
    window = np.hanning(FRAME).astype(np.float32)[:, None]
    edges = np.geomspace(LOWEST, sample_rate / 2, HEIGHT + 1) * FRAME / sample_rate
    edges = np.minimum(edges.astype(int), FRAME // 2)
    power = np.empty((HEIGHT, WIDTH), np.float32)
    for column, start in enumerate(starts):
        frame = np.asarray(samples[start : start + FRAME], np.float32)
        frame = np.pad(frame, ((0, FRAME - len(frame)), (0, 0)))
        levels = (np.abs(np.fft.rfft(frame * window, axis=0)) ** 2).mean(axis=1)  # [F]
        power[:, column] = np.maximum.reduceat(levels, edges[:-1])
    decibels = 10 * np.log10(power / max(float(power.max()), 1e-12) + 1e-12)
    shades = np.clip(1 + decibels[::-1] / RANGE, 0, 1)  # [HEIGHT, WIDTH], high frequencies on top
    places = np.linspace(0, 1, len(COLOURS))
    pixels = np.stack([np.interp(shades, places, COLOURS[:, i]) for i in range(3)], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
