"""Scores of one track: BSSEval v4 through museval, whole-track SDR, SI-SDR, bins over the mixture.

References and estimates are rounded to 16 bits first. Lossy stems have no energy above some
frequency; as floats they leave the equations of BSSEval's projection without a single solution,
and framewise SIR, ISR and SAR come out wrong by 10 dB and more. The rounding's noise settles them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spleeter_2.errors import SeparationError

from .metrics import sdr, si_sdr
from .over_mixture import OverMixture, measure

FRAMEWISE = ("SDR", "SIR", "ISR", "SAR")
# the last source of a set-up stands for everything that the others leave
SET_UPS = {2: ("vocals", "accompaniment"), 4: ("vocals", "drums", "bass", "other")}


@dataclass(frozen=True)
class SourceScores:
    """Scores of one source.

    ``frames``: framewise metrics in dB, float64 ``[frames]`` each, NaN where museval has none
    (a frame in which a reference or an estimate is silent). ``sdr``, ``si_sdr``: whole track, dB.
    """

    frames: dict[str, np.ndarray]
    sdr: float
    si_sdr: float
    over_mixture: OverMixture


def round_to_16_bits(waveform: np.ndarray) -> np.ndarray:
    """Waveform -> float64 on the grid of 16-bit samples; beyond full scale it goes on."""
    return np.round(waveform.astype(np.float64) * 32768) / 32768


def regroup(stems: dict[str, np.ndarray], sources: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Stems as the sources of a set-up: the last one is the sum of all that the others leave.

    Raises:
        SeparationError: stems that do not give these sources.
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

    A reference or an estimate that is silent throughout leaves BSSEval undefined for every source:
    all frames are NaN. Whole-track SDR is defined all the same.

    Args:
        references, estimates: ``{source: float [S, C]}``, full scale 1.0.
        mixture: ``[S, C]``.
        sample_rate: in Hz.

    Raises:
        SeparationError: an estimate is missing, has another shape than its reference, or holds
            NaN or infinity.
    """
    _check(references, estimates, mixture)
    # the mixture's bins are compared with what the model said, not with its rounded value
    over = {name: measure(mixture, estimates[name], sample_rate) for name in references}
    true = np.stack([round_to_16_bits(references[name]) for name in references])
    said = np.stack([round_to_16_bits(estimates[name]) for name in references])
    frames = bss_eval(true, said, sample_rate)
    return {
        name: SourceScores(
            {metric: frames[metric][index] for metric in FRAMEWISE},
            sdr(true[index], said[index]),
            si_sdr(true[index], said[index]),
            over[name],
        )
        for index, name in enumerate(references)
    }


def bss_eval(
    references: np.ndarray, estimates: np.ndarray, sample_rate: int
) -> dict[str, np.ndarray]:
    """BSSEval v4 of museval in frames of one second.

    Args:
        references, estimates: ``[sources, S, C]``.

    Returns:
        ``{metric: float64 [sources, frames]}``; NaN in frames with a silent signal.
    """
    from museval.metrics import Framing, bss_eval

    silent = [not signal.sum(axis=1).any() for signal in (*references, *estimates)]
    if any(silent):  # museval would raise
        nothing = np.full(
            (len(references), Framing(sample_rate, sample_rate, references.shape[1]).nwin), np.nan
        )
        return {metric: nothing for metric in FRAMEWISE}
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
                f"{name} has {_told(reference)}, the mixture {_told(mixture)}: cut them alike"
            )
        if estimate.shape != reference.shape:
            raise SeparationError(
                f"the estimate of {name} has {_told(estimate)}, its reference {_told(reference)}"
            )
        if not np.isfinite(estimate).all():
            raise SeparationError(f"the estimate of {name} holds NaN or infinity")


def _told(waveform: np.ndarray) -> str:
    return f"{waveform.shape[0]} samples in {waveform.shape[1]} channel(s)"
