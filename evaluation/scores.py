"""Scores of one track: BSSEval v4, whole-track SDR, SI-SDR, bins over the mixture.

References and estimates are rounded to 16 bits first. Lossy stems have no energy above some
frequency: as floats they make the equations of BSSEval's projection ill-conditioned, and framewise
SIR, ISR and SAR are wrong by 10 dB and more. The noise of the rounding regularises them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spleeter_2.errors import SeparationError

from .bsseval import TAPS, References
from .metrics import is_silent, sdr, si_sdr
from .over_mixture import OverMixture, measure

FRAMEWISE = ("SDR", "SIR", "ISR", "SAR")
SCORERS = ("spleeter_2", "museval")  # implementations of BSSEval v4; the first is the default
# the last source of a set-up is the sum of all stems that the others do not name
SET_UPS = {2: ("vocals", "accompaniment"), 4: ("vocals", "drums", "bass", "other")}

# estimates of all sources, [S, C] each -> {metric: float64 [sources, frames]}
BssEval = Callable[[Iterable[np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class SourceScores:
    """Scores of one source.

    Attributes:
        frames: framewise metrics in dB, float64 ``[frames]`` each; NaN in frames in which a
            reference or an estimate is silent.
        sdr, si_sdr: of the whole track, in dB; NaN where they are not defined.
    """

    frames: dict[str, np.ndarray]
    sdr: float
    si_sdr: float
    over_mixture: OverMixture


def round_to_16_bits(waveform: np.ndarray) -> np.ndarray:
    """Round a waveform to multiples of 1/32768, as float64 and without clipping."""
    rounded = np.multiply(waveform, 32768, dtype=np.float64)
    np.round(rounded, out=rounded)
    rounded /= 32768
    return rounded


def regroup(stems: dict[str, np.ndarray], sources: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Sum stems to the sources of a set-up: the last source takes all that the others do not name.

    Raises:
        SeparationError: the stems do not give these sources.
    """
    check_regroup(stems, sources)
    *named, last = sources
    rest = [stem for name, stem in stems.items() if name not in named]
    return {**{name: stems[name] for name in named}, last: sum(rest[1:], start=rest[0])}


def check_regroup(names, sources: tuple[str, ...]) -> None:
    """Raise SeparationError unless stems of these names give the sources."""
    missing = [name for name in sources[:-1] if name not in names]
    if missing or len(names) < len(sources):
        raise SeparationError(
            f"{', '.join(names)} do not give the {len(sources)} sources {', '.join(sources)}"
        )


class TrackScorer:
    """Scores of one track; what depends on the references alone is computed once.

    Args:
        references: ``{source: float [S, C]}``, full scale 1.0.
        mixture: ``[S, C]``.
        sample_rate: in Hz.
        scorer: one of ``SCORERS``.

    Raises:
        SeparationError: a reference has another shape than the mixture, or a second has fewer
            samples than a filter of BSSEval.
    """

    def __init__(
        self,
        references: dict[str, np.ndarray],
        mixture: np.ndarray,
        sample_rate: int,
        scorer: str = SCORERS[0],
    ) -> None:
        _check_references(references, mixture, sample_rate)
        self._mixture, self._sample_rate, self._scorer = mixture, sample_rate, scorer
        self._names = tuple(references)
        self._truth = np.stack([round_to_16_bits(part) for part in references.values()])

    def score(self, estimates: dict[str, np.ndarray]) -> dict[str, SourceScores]:
        """Score the estimates of all sources.

        If a reference or an estimate is silent throughout, BSSEval is not defined for any source
        and all frames are NaN. For whole-track SDR and SI-SDR see ``whole_track``.

        Args:
            estimates: ``{source: float [S, C]}``, full scale 1.0.

        Raises:
            SeparationError: an estimate is missing, has another shape than its reference, or holds
                NaN or infinity.
        """
        _check_estimates(estimates, self._names, self._mixture.shape)
        # before rounding, which by itself lifts quiet bins over the mixture
        over = [measure(self._mixture, estimates[name], self._sample_rate) for name in self._names]
        frames = self._bss_eval(self._rounded(estimates))
        estimated = self._rounded(estimates)
        return {
            name: SourceScores(
                {metric: frames[metric][index] for metric in FRAMEWISE},
                *whole_track(self._truth[index], next(estimated)),
                over[index],
            )
            for index, name in enumerate(self._names)
        }

    def _rounded(self, estimates: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
        """Estimates in the order of the references; one at a time is in memory."""
        return (round_to_16_bits(estimates[name]) for name in self._names)

    @cached_property
    def _bss_eval(self) -> BssEval:
        return bss_eval(self._truth, self._sample_rate, self._scorer)


def whole_track(reference: np.ndarray, estimate: np.ndarray) -> tuple[float, float]:
    """SDR and SI-SDR in dB of a whole track.

    Both are NaN if the reference or the error is silent: the SDR would be the level of one signal
    over that of ``metrics.EPSILON`` or of the rounding. The mixture of an instrumental song differs
    from its accompaniment by the rounding of each stem.

    Args:
        reference, estimate: waveforms ``[S, C]`` of equal shape, rounded to 16 bits.
    """
    if is_silent(reference) or is_silent(reference - estimate):
        return float("nan"), float("nan")
    return sdr(reference, estimate), si_sdr(reference, estimate)


def bss_eval(references: np.ndarray, sample_rate: int, scorer: str = SCORERS[0]) -> BssEval:
    """Prepare BSSEval v4 in frames of one second.

    Args:
        references: ``[sources, S, C]``.
        scorer: one of ``SCORERS``.

    Returns:
        Function of the estimates of all sources, ``[S, C]`` each; it returns ``{metric: float64
        [sources, frames]}``, NaN in frames with a silent signal.
    """
    if _any_zero(references) or any(map(is_silent, references)):
        return lambda estimates: _undefined(references, sample_rate)
    if scorer == "museval":
        return lambda estimates: _museval(references, np.stack(list(estimates)), sample_rate)
    return References(references, sample_rate).score


def _undefined(references: np.ndarray, sample_rate: int) -> dict[str, np.ndarray]:
    nb_frames = max(1, references.shape[1] // sample_rate)
    return dict.fromkeys(FRAMEWISE, np.full((len(references), nb_frames), np.nan))


def _any_zero(signals: np.ndarray) -> bool:
    """Return True if the channels of a signal sum to zero throughout; museval raises on these."""
    return any(not sum(signal.T).any() for signal in signals)


def _museval(
    references: np.ndarray, estimates: np.ndarray, sample_rate: int
) -> dict[str, np.ndarray]:
    from museval.metrics import bss_eval

    if _any_zero(estimates):
        return _undefined(references, sample_rate)
    values = bss_eval(
        references,
        estimates,
        compute_permutation=False,
        window=sample_rate,
        hop=sample_rate,
        framewise_filters=False,
        bsseval_sources_version=False,
    )
    return dict(zip(("SDR", "ISR", "SIR", "SAR"), values, strict=False))


def _check_references(
    references: dict[str, np.ndarray], mixture: np.ndarray, sample_rate: int
) -> None:
    if sample_rate < TAPS:
        raise SeparationError(
            f"a sample rate of {sample_rate} Hz is too low: a frame of a second must have "
            f"{TAPS} samples"
        )
    for name, reference in references.items():
        if reference.shape != mixture.shape:
            raise SeparationError(
                f"{name} has {_shape(reference.shape)}, the mixture {_shape(mixture.shape)}: cut "
                "them to equal length"
            )


def _check_estimates(
    estimates: dict[str, np.ndarray], names: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    for name in names:
        if name not in estimates:
            raise SeparationError(f"there is no estimate of {name}")
        estimate = estimates[name]
        if estimate.shape != shape:
            raise SeparationError(
                f"the estimate of {name} has {_shape(estimate.shape)}, its reference "
                f"{_shape(shape)}"
            )
        if not np.isfinite(estimate).all():
            raise SeparationError(f"the estimate of {name} holds NaN or infinity")


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} samples in {shape[1]} channel(s)"
