"""Scores of one track: BSSEval v4 through museval, whole-track SDR, SI-SDR, bins over the mixture.

References and estimates are rounded to 16 bits first. Lossy stems have no energy above some
frequency: as floats they make the equations of BSSEval's projection ill-conditioned, and framewise
SIR, ISR and SAR are wrong by 10 dB and more. The noise of the rounding regularises them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spleeter_2.errors import SeparationError

from .metrics import is_silent, sdr, si_sdr
from .over_mixture import OverMixture, measure

FRAMEWISE = ("SDR", "SIR", "ISR", "SAR")
# the last source of a set-up is the sum of all stems that the others do not name
SET_UPS = {2: ("vocals", "accompaniment"), 4: ("vocals", "drums", "bass", "other")}


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
    return np.round(waveform.astype(np.float64) * 32768) / 32768


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


def score(
    references: dict[str, np.ndarray],
    estimates: dict[str, np.ndarray],
    mixture: np.ndarray,
    sample_rate: int,
) -> dict[str, SourceScores]:
    """Score the estimates of all sources of one track.

    If a reference or an estimate is silent throughout, BSSEval is not defined for any source and
    all frames are NaN. For whole-track SDR and SI-SDR see ``whole_track``.

    Args:
        references, estimates: ``{source: float [S, C]}``, full scale 1.0.
        mixture: ``[S, C]``.
        sample_rate: in Hz.

    Raises:
        SeparationError: an estimate is missing, has another shape than its reference, or holds
            NaN or infinity.
    """
    _check(references, estimates, mixture)
    # before rounding, which by itself lifts quiet bins over the mixture
    over = {name: measure(mixture, estimates[name], sample_rate) for name in references}
    truth = np.stack([round_to_16_bits(references[name]) for name in references])
    estimated = np.stack([round_to_16_bits(estimates[name]) for name in references])
    frames = bss_eval(truth, estimated, sample_rate)
    return {
        name: SourceScores(
            {metric: frames[metric][index] for metric in FRAMEWISE},
            *whole_track(truth[index], estimated[index]),
            over[name],
        )
        for index, name in enumerate(references)
    }


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


def bss_eval(
    references: np.ndarray, estimates: np.ndarray, sample_rate: int
) -> dict[str, np.ndarray]:
    """Compute museval's BSSEval v4 in frames of one second.

    Args:
        references, estimates: ``[sources, S, C]``.

    Returns:
        ``{metric: float64 [sources, frames]}``; NaN in frames with a silent signal.
    """
    from museval.metrics import Framing, bss_eval

    zero = [not signal.sum(axis=1).any() for signal in (*references, *estimates)]
    if any(zero) or any(map(is_silent, references)):  # museval raises on zeros
        nb_frames = Framing(sample_rate, sample_rate, references.shape[1]).nwin
        return dict.fromkeys(FRAMEWISE, np.full((len(references), nb_frames), np.nan))
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


def _check(
    references: dict[str, np.ndarray], estimates: dict[str, np.ndarray], mixture: np.ndarray
) -> None:
    for name, reference in references.items():
        if name not in estimates:
            raise SeparationError(f"there is no estimate of {name}")
        estimate = estimates[name]
        if reference.shape != mixture.shape:
            raise SeparationError(
                f"{name} has {_shape(reference)}, the mixture {_shape(mixture)}: cut them to "
                "equal length"
            )
        if estimate.shape != reference.shape:
            raise SeparationError(
                f"the estimate of {name} has {_shape(estimate)}, its reference {_shape(reference)}"
            )
        if not np.isfinite(estimate).all():
            raise SeparationError(f"the estimate of {name} holds NaN or infinity")


def _shape(waveform: np.ndarray) -> str:
    return f"{waveform.shape[0]} samples in {waveform.shape[1]} channel(s)"
