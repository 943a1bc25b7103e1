"""Comparison of runs, with tests of significance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from spleeter_2.errors import SeparationError

from .results import Run, TrackScores
from .tables import (
    as_text,
    describe_scorer,
    describe_sources,
    formatted,
    medians,
    numbers,
    with_units,
)

CONFIDENCE = 0.95
RESAMPLES = 9999
FEWEST = 6  # with fewer tracks no p of the Wilcoxon test is below 5 %


@dataclass(frozen=True)
class Difference:
    """A metric of run B minus the same metric of run A, in the metric's unit.

    Attributes:
        median: over tracks.
        interval: 95 % bootstrap interval of the median; None for fewer than two tracks.
        p: of the two-sided Wilcoxon signed-rank test.
        nb_tracks: tracks where both runs have the metric.
    """

    median: float
    interval: tuple[float, float] | None
    p: float
    nb_tracks: int

    @property
    def verdict(self) -> str:
        """The words "higher" or "lower" if p < 0.05 and the interval excludes 0, else
        "not significant"."""
        if self.interval is None or self.p >= 1 - CONFIDENCE:
            return "not significant"
        lower, upper = self.interval
        if lower <= 0 <= upper:
            return "not significant"
        return "higher" if lower > 0 else "lower"


@dataclass(frozen=True)
class Comparison:
    """Runs of the same sources on the same tracks, with their scores; the first is the reference.

    Attributes:
        scores: one list per run, all in the same order of tracks.
    """

    runs: list[Run]
    scores: list[list[TrackScores]]

    @property
    def labels(self) -> list[str]:
        """The methods' names, with folders in place of those that occur twice."""
        names = [run.name for run in self.runs]
        return [
            name if names.count(name) == 1 else str(run.folder)
            for name, run in zip(names, self.runs, strict=True)
        ]

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that are scored."""
        return self.runs[0].sources

    @cached_property
    def numbers(self) -> list[pd.DataFrame]:
        """Metrics of each run by track: see ``tables.numbers``."""
        return [numbers(scores) for scores in self.scores]

    def differences(self, index: int) -> dict[tuple[str, str], Difference]:
        """Differences of run ``index`` to the first run, by source and metric."""
        first, second = self.numbers[0], self.numbers[index]
        return {
            column: difference(first[column].to_numpy(), second[column].to_numpy())
            for column in first.columns
        }


def compare(runs: Sequence[Run]) -> Comparison:
    """Read the scores of runs.

    Raises:
        SeparationError: the runs have different sources or tracks, or one is not complete.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.sources != first.sources:
            raise SeparationError(
                f"{first.folder} has {describe_sources(first)}, {run.folder} has "
                f"{describe_sources(run)}: their scores are not comparable; see --sources of 'run'"
            )
        for one, two in ((first, run), (run, first)):
            missing = [name for _, name in sorted(set(one.tracks) - set(two.tracks))]
            if missing:
                raise SeparationError(
                    f"{two.folder} lacks {len(missing)} track(s) that {one.folder} has "
                    f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}): run both on "
                    "the same tracks"
                )
    scores = [sorted(run.scores(), key=lambda track: (track.subset, track.name)) for run in runs]
    for run, tracks in zip(runs, scores, strict=True):
        for ours, theirs in zip(scores[0], tracks, strict=True):
            if (ours.samples, ours.sample_rate) != (theirs.samples, theirs.sample_rate):
                raise SeparationError(
                    f"{ours.name} has {ours.samples} samples in {first.folder}, {theirs.samples} "
                    f"in {run.folder}: they were not scored on the same audio"
                )
    return Comparison(list(runs), scores)


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compare a metric of two runs, float ``[tracks]`` each, NaN where it is not defined."""
    from scipy import stats

    paired = second - first
    paired = paired[~np.isnan(paired)]
    if not len(paired):
        return Difference(math.nan, None, math.nan, 0)
    p = float(stats.wilcoxon(paired).pvalue) if np.any(paired) else 1.0
    interval = None
    if len(paired) > 1:
        # percentiles: BCa is not defined where all differences are equal
        found = stats.bootstrap(
            (paired,),
            np.median,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            random_state=np.random.default_rng(0),
        ).confidence_interval
        interval = (float(found.low), float(found.high))
    return Difference(float(np.median(paired)), interval, p, len(paired))


def side_by_side(comparison: Comparison) -> pd.DataFrame:
    """Table of medians over tracks: a row per source and metric, a column per run."""
    runs = zip(comparison.labels, comparison.scores, strict=True)
    return with_units(pd.DataFrame({label: medians(scores) for label, scores in runs}))


def difference_table(comparison: Comparison, index: int) -> pd.DataFrame:
    """Table of the differences of run ``index`` to the first run."""
    rows = [
        {
            "difference": formatted(found.median, "+.3f"),
            "95 % interval": _interval(found.interval),
            "p": formatted(found.p, ".4f"),
            "tracks": found.nb_tracks,
            "verdict": found.verdict,
        }
        for found in comparison.differences(index).values()
    ]
    columns = comparison.numbers[0].columns
    return with_units(pd.DataFrame(rows, columns))


def remarks(comparison: Comparison) -> list[str]:
    """Sentences that explain the tables."""
    count = len(comparison.scores[0])
    sentences = [
        f"{describe_sources(comparison.runs[0])}, {count} track(s) of "
        f"{comparison.runs[0].information.subset}; medians over tracks"
    ]
    scorers = dict(zip(comparison.labels, map(describe_scorer, comparison.runs), strict=True))
    if len(set(scorers.values())) == 1:
        sentences.append(f"SDR, SIR, ISR, SAR: {describe_scorer(comparison.runs[0])}")
    else:
        each = ", ".join(f"{label} {scorer}" for label, scorer in scorers.items())
        sentences.append(f"SDR, SIR, ISR, SAR: {each}; both are equal to within 1e-6 dB")
    for label, table in zip(comparison.labels, comparison.numbers, strict=True):
        lacking = table.xs("track SDR", axis=1, level="metric").isna().any(axis=1).sum()
        if lacking:
            sentences.append(
                f"{label}: {lacking} of {count} track(s) have no track SDR and SI-SDR of a source "
                "that is silent, or estimated without audible error"
            )
    if len(comparison.runs) > 1:
        sentences.append(
            "difference: median over tracks of a run minus the first run; interval: bootstrap over "
            "tracks; p: Wilcoxon signed-rank test; 'not significant' unless p < 0.05 and the "
            "interval excludes zero"
        )
        if count < FEWEST:
            sentences.append(f"no difference on fewer than {FEWEST} tracks is significant")
    return sentences


def text(comparison: Comparison) -> str:
    """The whole comparison, for a terminal."""
    parts = [*remarks(comparison)[:1], as_text(side_by_side(comparison))]
    for index, label in enumerate(comparison.labels[1:], 1):
        parts.append(f"{label} against {comparison.labels[0]}")
        parts.append(as_text(difference_table(comparison, index)))
    return "\n\n".join([*parts, *remarks(comparison)[1:]])


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else "{:+.3f} to {:+.3f}".format(*interval)
