"""Runs side by side, with tests that tell a difference from chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spleeter_2.errors import SeparationError

from .results import METRICS, Run, TrackScores
from .tables import UNITS, columns, median, set_up, total_over_mixture, values

CONFIDENCE = 0.95
RESAMPLES = 9999
FEWEST = 6  # with fewer tracks no Wilcoxon test can reach 5 %


@dataclass(frozen=True)
class Difference:
    """One metric of run B against run A, track by track.

    ``median``: of the differences B - A. ``interval``: bootstrap over tracks, 95 %, or None for a
    single track. ``p``: two-sided Wilcoxon signed-rank test. ``nb_tracks``: those where both have
    the metric. Units are the metric's.
    """

    source: str
    metric: str
    median: float
    interval: tuple[float, float] | None
    p: float
    nb_tracks: int

    @property
    def verdict(self) -> str:
        """Whether the difference exceeds chance."""
        if self.interval is None or self.p >= 1 - CONFIDENCE:
            return "not told apart"
        lower, upper = self.interval
        if lower <= 0 <= upper:
            return "not told apart"
        return "higher" if lower > 0 else "lower"


@dataclass(frozen=True)
class Comparison:
    """Runs of one set-up on the same tracks, each with its scores; the first is the reference."""

    runs: list[Run]
    scores: list[list[TrackScores]]

    @property
    def labels(self) -> list[str]:
        """A name for each run: the method's, or the folder where two share it."""
        names = [run.name for run in self.runs]
        return [
            name if names.count(name) == 1 else str(run.folder)
            for name, run in zip(names, self.runs, strict=True)
        ]

    @property
    def sources(self) -> tuple[str, ...]:
        """Of the set-up."""
        return self.runs[0].sources

    def differences(self, index: int) -> list[Difference]:
        """Every metric of run ``index`` against the first."""
        return [
            difference(
                values(self.scores[0], source, metric),
                values(self.scores[index], source, metric),
                source,
                metric,
            )
            for source in self.sources
            for metric in METRICS
        ]


def compare(runs: Sequence[Run]) -> Comparison:
    """Lay runs side by side.

    Raises:
        SeparationError: runs of different set-ups, or on different tracks; a run that is not
            complete.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.sources != first.sources:
            raise SeparationError(
                f"{first.folder} has {set_up(first)}, {run.folder} has {set_up(run)}: their "
                "numbers are not comparable; see --sources of 'run'"
            )
        for one, two in ((first, run), (run, first)):
            apart = [name for _, name in sorted(set(one.tracks) - set(two.tracks))]
            if apart:
                raise SeparationError(
                    f"{two.folder} lacks {len(apart)} track(s) that {one.folder} has "
                    f"({', '.join(apart[:3])}{', ...' if len(apart) > 3 else ''}): run both on "
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


def difference(first: np.ndarray, second: np.ndarray, source: str, metric: str) -> Difference:
    """Compare a metric of two runs, float ``[tracks]`` each, NaN where it is not defined."""
    from scipy import stats

    paired = second - first
    paired = paired[~np.isnan(paired)]
    count = len(paired)
    if not count:
        return Difference(source, metric, float("nan"), None, float("nan"), 0)
    p = float(stats.wilcoxon(paired).pvalue) if np.any(paired) else 1.0
    interval = None
    if count > 1:
        generator = np.random.default_rng(0)
        picks = generator.integers(0, count, (RESAMPLES, count))
        medians = np.median(paired[picks], axis=1)
        tail = 100 * (1 - CONFIDENCE) / 2
        lower, upper = np.percentile(medians, [tail, 100 - tail])
        interval = (float(lower), float(upper))
    return Difference(source, metric, float(np.median(paired)), interval, p, count)


def side_by_side(comparison: Comparison) -> list[list[str]]:
    """Rows of medians over tracks, a column per run; the first row is the header."""
    rows = [["source", "metric", "", *comparison.labels]]
    for source in comparison.sources:
        for metric in METRICS:
            numbers = (median(values(scores, source, metric)) for scores in comparison.scores)
            rows.append([source, metric, UNITS[metric], *map(_number, numbers)])
        totals = (100 * total_over_mixture(scores, source).share for scores in comparison.scores)
        rows.append([source, "over, all bins", "%", *map(_number, totals)])
    return rows


def difference_rows(comparison: Comparison, index: int) -> list[list[str]]:
    """Rows of differences of one run against the first; the first row is the header."""
    rows = [["source", "metric", "", "difference", "95 % interval", "p", "tracks", "verdict"]]
    for found in comparison.differences(index):
        interval = "-"
        if found.interval is not None:
            interval = "{:+.3f} to {:+.3f}".format(*found.interval)
        told = "-" if np.isnan(found.median) else f"{found.median:+.3f}"
        p = "-" if np.isnan(found.p) else f"{found.p:.4f}"
        unit = UNITS[found.metric]
        row = [found.source, found.metric, unit, told, interval, p, str(found.nb_tracks)]
        rows.append([*row, found.verdict])
    return rows


def remarks(comparison: Comparison) -> list[str]:
    """How to read the differences."""
    count = len(comparison.scores[0])
    sentences = [
        f"{set_up(comparison.runs[0])}, {count} track(s) of "
        f"{comparison.runs[0].information['subset']}; medians over tracks"
    ]
    if len(comparison.runs) > 1:
        sentences.append(
            "difference: median over tracks of a run minus the first run; interval: bootstrap over "
            "tracks; p: Wilcoxon signed-rank test; 'not told apart' unless p < 0.05 and the "
            "interval leaves out zero"
        )
        if count < FEWEST:
            sentences.append(f"{count} track(s) are too few to tell anything from chance")
    return sentences


def text(comparison: Comparison) -> str:
    """The whole comparison, for a terminal."""
    parts = [*remarks(comparison)[:1], columns(side_by_side(comparison))]
    for index, label in enumerate(comparison.labels[1:], 1):
        parts.append(f"{label} against {comparison.labels[0]}")
        parts.append(columns(difference_rows(comparison, index)))
    return "\n\n".join([*parts, *remarks(comparison)[1:]])


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
