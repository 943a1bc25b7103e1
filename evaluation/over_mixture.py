"""Energy over the mixture: time-frequency bins in which an estimate is louder than its mixture.

An instrument can be louder than the mixture where others cancel it, but a model whose estimates
often are has mostly invented something. Bins are counted by frequency band and by the mixture's
level; counts of several tracks add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from spleeter_2.audio.stft import Transform

BANDS = (0.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 11000.0, 16000.0)  # Hz, lower edges
LEVELS = (-np.inf, -90.0, -70.0, -50.0, -30.0)  # dB, lower edges; see ``measure``
EXCESSES = (0.0, 1.0, 3.0, 6.0, 10.0, 20.0)  # dB, lower edges
TOLERANCE = 0.01  # dB an estimate may exceed the mixture by: rounding
FLOOR = -110.0  # dB; rounding to 16 bits alone makes -129.5 dB
HIGHEST = 60.0  # dB; largest excess counted, since the mixture's bin may be zero
BLOCK = 512  # frames per STFT call


class Counts(msgspec.Struct):
    """``OverMixture`` in a file of scores. ``share`` follows from the rest; it is for readers."""

    share: float | None
    bins: list[list[int]]
    over: list[list[int]]
    excess: list[list[float]]
    histogram: list[int]


@dataclass(frozen=True)
class OverMixture:
    """Counts of the bins of one estimate.

    Attributes:
        bins: all bins, int ``[bands, levels]``.
        over: bins over the mixture, int ``[bands, levels]``.
        excess: sum of the excess of the bins over the mixture, dB ``[bands, levels]``.
        histogram: bins over the mixture by their excess, int ``[EXCESSES]``.
    """

    bins: np.ndarray
    over: np.ndarray
    excess: np.ndarray
    histogram: np.ndarray

    @property
    def share(self) -> float:
        """Share of the bins that are over the mixture; NaN without bins."""
        return _ratio(self.over.sum(), self.bins.sum())

    @property
    def mean_excess(self) -> float:
        """Mean excess in dB of the bins over the mixture; NaN without any."""
        return _ratio(self.excess.sum(), self.over.sum())

    def __add__(self, other: OverMixture) -> OverMixture:
        return OverMixture(
            self.bins + other.bins,
            self.over + other.over,
            self.excess + other.excess,
            self.histogram + other.histogram,
        )

    def counts(self) -> Counts:
        """The form in a file of scores, with the excess to 0.001 dB."""
        return Counts(
            None if np.isnan(self.share) else self.share,
            self.bins.tolist(),
            self.over.tolist(),
            np.round(self.excess, 3).tolist(),
            self.histogram.tolist(),
        )

    @classmethod
    def of_counts(cls, counts: Counts) -> OverMixture:
        """Inverse of ``counts``."""
        parts = (counts.bins, counts.over, counts.excess, counts.histogram)
        return cls(*map(np.array, parts))


def measure(mixture: np.ndarray, estimate: np.ndarray, sample_rate: int) -> OverMixture:
    """Count the bins of an estimate that exceed the mixture's.

    STFT of 4096 samples every 1024. Levels are those of the mixture's bins; 0 dB is a full-scale
    sine. Bins in which mixture and estimate are both below ``FLOOR`` are not counted.

    Args:
        mixture, estimate: waveforms ``[S, C]`` of equal shape.
        sample_rate: in Hz.

    Raises:
        ValueError: the shapes differ.
    """
    if mixture.shape != estimate.shape:
        raise ValueError(f"shapes differ: {mixture.shape} and {estimate.shape}")
    transform = Transform()
    frequencies = np.arange(transform.length // 2 + 1) * sample_rate / transform.length
    bands = np.searchsorted(BANDS, frequencies, side="right") - 1  # [F]
    shape = (len(BANDS), len(LEVELS))
    empty = np.zeros(shape, np.int64)
    total = OverMixture(empty, empty, np.zeros(shape), np.zeros(len(EXCESSES), np.int64))
    for start in range(0, len(mixture), BLOCK * transform.step):
        block = slice(start, start + BLOCK * transform.step)
        levels = [levels_of(transform, waveform[block]) for waveform in (mixture, estimate)]
        total = total + _count(*levels, bands)
    return total


def levels_of(transform: Transform, waveform: np.ndarray) -> np.ndarray:
    """Levels of the STFT of a waveform ``[S, C]``: dB ``[T, F, C]``, 0 dB is a full-scale sine."""
    missing = max(transform.length - len(waveform), 0)
    spectrogram = transform.forward(np.pad(waveform.astype(np.float32), ((0, missing), (0, 0))))
    scale = transform.window.sum() / 2
    with np.errstate(divide="ignore"):
        return 20 * np.log10(np.abs(spectrogram) / scale)


def _count(mixture: np.ndarray, estimate: np.ndarray, bands: np.ndarray) -> OverMixture:
    """Count the bins of one block; levels in dB ``[T, F, C]``."""
    level = np.searchsorted(LEVELS, mixture, side="right") - 1
    cell = np.clip(level, 0, None) + len(LEVELS) * bands[:, np.newaxis]  # [T, F, C]
    audible = np.maximum(mixture, estimate) > FLOOR
    over = audible & (estimate > FLOOR) & (estimate > mixture + TOLERANCE)
    with np.errstate(invalid="ignore"):
        excess = np.minimum(estimate - mixture, HIGHEST)[over]
    shape = (len(BANDS), len(LEVELS))

    def table(cells: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(cells, weights, minlength=shape[0] * shape[1]).reshape(shape)

    classes = np.searchsorted(EXCESSES, excess, side="right") - 1
    return OverMixture(
        table(cell[audible]),
        table(cell[over]),
        table(cell[over], excess),
        np.bincount(classes, minlength=len(EXCESSES)),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
