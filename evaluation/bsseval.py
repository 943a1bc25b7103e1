"""BSSEval v4: SDR, SIR, ISR and SAR of frames, the numbers of museval in a fraction of its time.

Definition: E. Vincent, R. Gribonval and C. Févotte, "Performance Measurement in Blind Audio Source
Separation", IEEE TASLP 14(4), 2006; frames with filters of the whole track: F.-R. Stöter,
A. Liutkus and N. Ito, "The 2018 Signal Separation Evaluation Campaign", LVA/ICA 2018. An estimate e
is projected on its own reference s, and on all references, delayed by 0 to 511 samples:

    own projection   P = h * s,             h minimises |e - P| over the whole track
    full projection  Q = g * (all sources), g minimises |e - Q| over the whole track

    SDR = |s|^2 / |e - s|^2        ISR = |s|^2 / |P - s|^2
    SIR = |P|^2 / |Q - P|^2        SAR = |Q|^2 / |e - Q|^2

The filters are matrices, from all channels to all channels. The energies are those of a frame and
of the 511 samples by which filtering prolongs it.

Every frame is transformed once, with 511 zeros behind it. Cross-spectra, summed over frames, give
the correlations of the whole track; filtering is a product; energies are taken in the frequency
domain (Parseval). The Gram matrix of all references and delays is factorised once per track.

In the shapes below K is the number of channels of all sources, B that of bins, T that of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import irfft, next_fast_len, rfft
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.linalg.lapack import dpstrf

TAPS = 512  # of the distortion filters
METRICS = ("SDR", "ISR", "SIR", "SAR")
EDGE_LENGTH = 2 * TAPS  # of transforms across the border between frames
FRAMES = 16  # transformed at a time
BLOCK = 2**16  # complex numbers of a block of bins, 1 MB: its temporaries stay in the cache

Solver = Callable[[np.ndarray], np.ndarray]


class References:
    """The references of a track, with their spectra and factors: shared by all estimates.

    Args:
        references: ``[sources, S, C]``.
        frame: samples of a frame, at least ``TAPS``. A shorter track is one frame; samples behind
            the last whole frame count for the filters only.

    Raises:
        ValueError: a frame is shorter than a filter.
    """

    def __init__(self, references: np.ndarray, frame: int) -> None:
        if frame < TAPS:
            raise ValueError(f"frames of {frame} samples are shorter than {TAPS} taps")
        self._references = references
        nb_sources, nb_samples, nb_channels = references.shape
        self._frame = min(frame, nb_samples)
        self.nb_frames = nb_samples // self._frame
        self._length = 2 * next_fast_len((self._frame + TAPS) // 2, real=True)  # even
        self._spectra = self._transform(references)
        self._tails = _edges(references, self._frame)[0]
        lags = self._correlations(references, self._spectra)
        self._solve = _solver(lags)
        own = [slice(i * nb_channels, (i + 1) * nb_channels) for i in range(nb_sources)]
        self._own = [(part, _solver(lags[part, part])) for part in own]

    def score(self, estimates: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
        """Score one estimate of each source.

        Args:
            estimates: ``[S, C]`` of every source; of an iterator, one at a time is in memory.

        Returns:
            ``{metric: float64 dB [sources, frames]}``; NaN in frames in which the channels of a
            reference or an estimate sum to zero, infinite without any error.

        Raises:
            ValueError: the shapes differ.
        """
        scores, silent = [], np.any([self._silent(signal) for signal in self._references], axis=0)
        for index, estimate in enumerate(estimates):
            if estimate.shape != self._references.shape[1:]:
                raise ValueError(f"shapes differ: {estimate.shape}, {self._references.shape[1:]}")
            scores.append(self._score(index, estimate))
            silent |= self._silent(estimate)
        found = np.stack(scores, axis=1)  # [4, sources, T]
        found[..., silent] = np.nan
        return dict(zip(METRICS, found, strict=True))

    def _score(self, index: int, estimate: np.ndarray) -> np.ndarray:
        """Metrics ``[4, T]`` of an estimate ``[S, C]`` of the source at ``index``."""
        own, full, spatial, interference, artifacts = self._projections(index, estimate)
        pairs = zip(self._frames(self._references[index]), self._frames(estimate), strict=True)
        signal, error = np.transpose([(_energy(s), _energy(e - s)) for s, e in pairs])
        return np.stack(
            [
                _decibels(signal, error),
                _decibels(signal, spatial),
                _decibels(own, interference),
                _decibels(full, artifacts),
            ]
        )

    def _projections(self, index: int, estimate: np.ndarray) -> np.ndarray:
        """Energies ``[5, T]`` of P, Q, P - s, Q - P and e - Q: see the module's docstring."""
        spectra = self._transform(estimate[None])
        lags = self._correlations(estimate[None], spectra)  # [K, C, TAPS]
        part, solve_own = self._own[index]
        own_filters = self._filters(solve_own, lags[part])
        full_filters = self._filters(self._solve, lags)
        weights = np.full(len(spectra), 2.0 / self._length)  # negative frequencies included
        weights[[0, -1]] /= 2  # which 0 Hz and half the sample rate do not have
        energies = np.zeros((5, self.nb_frames))
        block = max(1, BLOCK // spectra[0].size)
        for start in range(0, len(spectra), block):
            bins = slice(start, start + block)
            references = self._spectra[bins, :, : self.nb_frames]
            true = references[:, part]
            own = own_filters[bins] @ true
            full = full_filters[bins] @ references
            artifacts = spectra[bins, :, : self.nb_frames] - full
            signals = (own, full, own - true, full - own, artifacts)
            for energy, signal in zip(energies, signals, strict=True):
                energy += _spectral_energy(signal, weights[bins])
        return energies

    def _transform(self, signals: np.ndarray) -> np.ndarray:
        """Spectra ``[B, K, T]`` of the frames of ``[sources, S, C]``, the last zero-padded.

        Bins come first: what is summed or filtered is a small matrix product per bin.
        """
        channels = _channels(signals)
        nb_frames = -(-signals.shape[1] // self._frame)
        spectra = np.empty((self._length // 2 + 1, len(channels), nb_frames), np.complex128)
        for index, channel in enumerate(channels):
            for start in range(0, nb_frames, FRAMES):
                frames = np.zeros((min(FRAMES, nb_frames - start), self._frame))
                part = channel[start * self._frame :][: frames.size]
                frames.reshape(-1)[: len(part)] = part
                spectra[:, index, start : start + FRAMES] = rfft(frames, self._length).T
        return spectra

    def _correlations(self, signals: np.ndarray, spectra: np.ndarray) -> np.ndarray:
        """Sums ``r[n] x[n + lag]`` over the track of references r and signals x.

        Args:
            signals: ``[sources, S, C]`` with K' channels in all, and their ``spectra``.

        Returns:
            ``[K, K', TAPS]``.
        """
        cross = np.empty((len(spectra), self._spectra.shape[1], spectra.shape[1]), np.complex128)
        block = max(1, BLOCK // self._spectra[0].size)
        for start in range(0, len(spectra), block):
            bins = slice(start, start + block)
            np.matmul(self._spectra[bins], spectra[bins].conj().transpose(0, 2, 1), out=cross[bins])
        lags = irfft(cross.conj(), self._length, axis=0)[:TAPS]  # within frames
        _, heads = _edges(signals, self._frame)
        across = np.matmul(self._tails, heads.conj().transpose(0, 2, 1))
        # from the end of a frame to the start of the next: index -510 is lag 1, index 0 lag 511
        lags[1:] += irfft(across.conj(), EDGE_LENGTH, axis=0)[np.arange(2 - TAPS, 1)]
        return lags.transpose(1, 2, 0)

    def _filters(self, solve: Solver, lags: np.ndarray) -> np.ndarray:
        """Transfer functions ``[B, C, K]`` of the filters that solve the normal equations.

        Args:
            lags: correlations ``[K, C, TAPS]`` of references and estimate.
        """
        nb_inputs, nb_outputs, _ = lags.shape
        taps = solve(lags.transpose(0, 2, 1).reshape(-1, nb_outputs))  # [K * TAPS, C]
        taps = taps.reshape(nb_inputs, TAPS, nb_outputs)
        return np.ascontiguousarray(rfft(taps, self._length, axis=1).transpose(1, 2, 0))

    def _frames(self, signal: np.ndarray) -> np.ndarray:
        """Whole frames ``[T, frame, C]`` of a signal ``[S, C]``."""
        return signal[: self.nb_frames * self._frame].reshape(self.nb_frames, self._frame, -1)

    def _silent(self, signal: np.ndarray) -> np.ndarray:
        """Frames ``[T]`` in which the channels of a signal sum to zero, museval's rule."""
        return np.array([not sum(frame.T).any() for frame in self._frames(signal)])


def _channels(signals: np.ndarray) -> list[np.ndarray]:
    """The K channels ``[S]`` of signals ``[sources, S, C]``, without a copy."""
    return [channel for signal in signals for channel in signal.T]


def _edges(signals: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectra ``[TAPS + 1, K, T - 1]`` of 511 samples before and behind each border of frames."""
    channels = _channels(signals)
    width = TAPS - 1
    borders = range(frame, signals.shape[1], frame)
    tails, heads = np.zeros((2, len(channels), len(borders), width))
    for k, channel in enumerate(channels):
        for t, border in enumerate(borders):
            tails[k, t] = channel[border - width : border]
            head = channel[border : border + width]
            heads[k, t, : len(head)] = head
    return tuple(
        np.ascontiguousarray(rfft(part, EDGE_LENGTH).transpose(2, 0, 1)) for part in (tails, heads)
    )


def _spectral_energy(signal: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Energies ``[T]`` of spectra ``[B, C, T]``."""
    parts = signal.view(np.float64).reshape(len(signal), -1)
    parts = (weights @ parts**2).reshape(signal.shape[1], -1, 2)
    return parts.sum(axis=(0, 2))


def _energy(signal: np.ndarray) -> float:
    """Sum of squares."""
    return np.vdot(signal, signal)


def _decibels(energy: np.ndarray, error: np.ndarray) -> np.ndarray:
    """``10 log10(energy / error)``, infinite if the error is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, np.inf, 10 * np.log10(energy / error))


def _solver(lags: np.ndarray) -> Solver:
    """Solver of the normal equations of references with the correlations ``[K, K, TAPS]``.

    By Cholesky's factors. A Gram matrix of dependent channels, such as two equal ones, has none: of
    these, pivots choose independent columns, and the filters of the others are zero.
    """
    gram = _gram(lags)
    gram[np.diag_indices_from(gram)] += np.finfo(np.float64).eps  # as museval
    try:
        factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
        return lambda right: cho_solve(factor, right, check_finite=False)
    except LinAlgError:
        return _pivoted_solver(_gram(lags))


def _pivoted_solver(gram: np.ndarray) -> Solver:
    """Solver of a matrix of reduced rank: filters of dependent columns are zero."""
    factor, pivots, rank, _ = dpstrf(gram, lower=True, overwrite_a=True)
    kept = pivots[:rank] - 1
    factor = np.array(factor[:rank, :rank], order="F")

    def solve(right: np.ndarray) -> np.ndarray:
        solution = np.zeros_like(right)
        solution[kept] = cho_solve((factor, True), right[kept], check_finite=False)
        return solution

    return solve


def _gram(lags: np.ndarray) -> np.ndarray:
    """Inner products ``[K * TAPS, K * TAPS]`` of all references and delays: Toeplitz blocks.

    Only the lower triangle is filled, in Fortran order as LAPACK takes it.
    """
    nb_channels = len(lags)
    gram = np.zeros((nb_channels, TAPS, nb_channels, TAPS))
    for i in range(nb_channels):
        for j in range(i, nb_channels):
            values = np.concatenate([lags[j, i, :0:-1], lags[i, j]])  # of lags -511 to 511
            gram[i, :, j] = sliding_window_view(values, TAPS)[:, ::-1]
    return gram.reshape(nb_channels * TAPS, -1).T
