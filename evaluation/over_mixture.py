"""Energy over the mixture: where an estimate is louder than the mixture that it was taken from.

A source can be louder than the mixture where others cancel it, but a model that often says so
has mostly invented something. The tables here count time-frequency bins by frequency band and by
the mixture's level. They are sums, so those of several tracks add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spleeter_2.audio.stft import Transform

BANDS = (0.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 11000.0, 16000.0)  # Hz, lower edges
LEVELS = (-np.inf, -90.0, -70.0, -50.0, -30.0)  # dB, lower edges; see ``measure``
EXCESSES = (0.0, 1.0, 3.0, 6.0, 10.0, 20.0)  # dB, lower edges
TOLERANCE = 0.01  # dB that an estimate may exceed the mixture by: rounding
FLOOR = -110.0  # dB; rounding to 16 bits alone makes -129.5 dB
HIGHEST = 60.0  # dB, of an excess: the mixture may be nothing at all
BLOCK = 512  # frames transformed at a time


@dataclass(frozen=True)
class OverMixture:
    """Counts of bins, int ``[bands, levels]``: all, and those whose estimate is over the mixture.

    ``excess`` is the sum of the excesses in dB of the latter, alike; ``histogram`` counts them by
    ``EXCESSES``.
    """

    bins: np.ndarray
    over: np.ndarray
    excess: np.ndarray
    histogram: np.ndarray

    @property
    def share(self) -> float:
        """Share of the bins that are over the mixture; NaN where there are no bins."""
        return _ratio(self.over.sum(), self.bins.sum())

    @property
    def mean_excess(self) -> float:
        """In dB, over the bins that are over the mixture; NaN where there are none."""
        return _ratio(self.excess.sum(), self.over.sum())

    def __add__(self, other: OverMixture) -> OverMixture:
        pairs = zip(self._arrays(), other._arrays(), strict=True)
        return OverMixture(*(one + two for one, two in pairs))

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.bins, self.over, self.excess, self.histogram

    def as_json(self) -> dict:
        """Lists of numbers."""
        return {
            "share": None if np.isnan(self.share) else self.share,
            "bins": self.bins.tolist(),
            "over": self.over.tolist(),
            "excess": np.round(self.excess, 3).tolist(),
            "histogram": self.histogram.tolist(),
        }

    @classmethod
    def of_json(cls, content: dict) -> OverMixture:
        """What ``as_json`` gave."""
        names = ("bins", "over", "excess", "histogram")
        return cls(*(np.array(content[name]) for name in names))


def measure(mixture: np.ndarray, estimate: np.ndarray, sample_rate: int) -> OverMixture:
    """Count the bins of an estimate that exceed the mixture's.

    STFT of 4096 samples every 1024. Levels are those of the mixture's bins; 0 dB is a sine at full
    scale. Bins in which mixture and estimate both lie below ``FLOOR`` are left out.

    Args:
        mixture, estimate: waveforms ``[S, C]`` of equal shape.
        sample_rate: in Hz.

    Raises:
        ValueError: shapes that differ.
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
    """Waveform ``[S, C]`` -> levels of its STFT in dB ``[T, F, C]``; 0 dB is a full-scale sine."""
    missing = max(transform.length - len(waveform), 0)
    spectrogram = transform.forward(np.pad(waveform.astype(np.float32), ((0, missing), (0, 0))))
    scale = transform.window.sum() / 2
    with np.errstate(divide="ignore"):
        return 20 * np.log10(np.abs(spectrogram) / scale)


def _count(mixture: np.ndarray, estimate: np.ndarray, bands: np.ndarray) -> OverMixture:
    """Tables of one block; levels in dB ``[T, F, C]``."""
    level = np.searchsorted(LEVELS, mixture, side="right") - 1
    cell = np.clip(level, 0, None) + len(LEVELS) * bands[:, np.newaxis]  # [T, F, C]
    heard = np.maximum(mixture, estimate) > FLOOR
    over = heard & (estimate > FLOOR) & (estimate > mixture + TOLERANCE)
    with np.errstate(invalid="ignore"):
        excess = np.minimum(estimate - mixture, HIGHEST)[over]
    shape = (len(BANDS), len(LEVELS))

    def table(cells: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(cells, weights, minlength=shape[0] * shape[1]).reshape(shape)

    classes = np.searchsorted(EXCESSES, excess, side="right") - 1
    return OverMixture(
        table(cell[heard]),
        table(cell[over]),
        table(cell[over], excess),
        np.bincount(classes, minlength=len(EXCESSES)),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
