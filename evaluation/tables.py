"""Numbers over tracks, and the tables that print them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np

from .over_mixture import OverMixture
from .results import METRICS, Run, TrackScores
from .scores import FRAMEWISE

UNITS = {metric: "%" if metric == "over" else "dB" for metric in METRICS}
MEANINGS = {
    "track SDR": "SDR of the whole track, as the MDX challenge defines it",
    "SI-SDR": "scale-invariant SDR of the whole track",
    "over": "share of time-frequency bins in which the estimate exceeds the mixture",
}


def values(scores: Sequence[TrackScores], source: str, metric: str) -> np.ndarray:
    """One number per track, NaN where it is not defined."""
    return np.array([track.metric(source, metric) for track in scores])


def median(numbers: np.ndarray) -> float:
    """Median over the tracks that have the number; NaN if none has."""
    numbers = numbers[~np.isnan(numbers)]
    return float(np.median(numbers)) if len(numbers) else float("nan")


def total_over_mixture(scores: Sequence[TrackScores], source: str) -> OverMixture:
    """Bins over the mixture of all tracks together."""
    return reduce(add, (track.sources[source].over_mixture for track in scores))


def set_up(run: Run) -> str:
    """Which set-up it is: numbers of two are not comparable with numbers of four."""
    return f"{len(run.sources)} sources ({', '.join(run.sources)})"


def familiar(run: Run, scores: Sequence[TrackScores]) -> str:
    """Medians over frames, then over tracks, in the form that museval prints."""
    lines = [f"{run.name}: {set_up(run)}, {len(scores)} track(s) of {run.information['subset']}"]
    for source in run.sources:
        numbers = (f"{m}:{median(values(scores, source, m)):>8.3f}  " for m in FRAMEWISE)
        lines.append(source.ljust(16) + "==> " + "".join(numbers).rstrip())
    return "\n".join(lines)


def details(run: Run, scores: Sequence[TrackScores]) -> str:
    """Median, mean and quartiles of every metric, and what has no score."""
    rows = [
        [source, metric, UNITS[metric], *spread(values(scores, source, metric))]
        for source in run.sources
        for metric in METRICS
    ]
    header = ["source", "metric", "", "median", "mean", "quartile 1", "quartile 3", "tracks"]
    return "\n".join([columns([header, *rows]), *remarks(run, scores)])


def spread(numbers: np.ndarray) -> list[str]:
    """Median, mean, quartiles, and how many tracks have the number."""
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return ["-"] * 4 + ["0"]
    lower, upper = np.percentile(numbers, [25, 75])
    told = (np.median(numbers), np.mean(numbers), lower, upper)
    return [f"{number:.3f}" for number in told] + [str(len(numbers))]


def remarks(run: Run, scores: Sequence[TrackScores]) -> list[str]:
    """Sentences on frames without scores and bins over the mixture."""
    silent, frames = map(sum, zip(*(track.nb_frames for track in scores), strict=True))
    sentences = [
        f"{silent} of {frames} frames have no SDR, SIR, ISR, SAR: something in them is silent"
    ]
    for source in run.sources:
        total = total_over_mixture(scores, source)
        excess = f", by {total.mean_excess:.1f} dB on average" if total.over.sum() else ""
        sentences.append(
            f"{source}: {100 * total.share:.2f} % of all bins exceed the mixture{excess}"
        )
    return sentences


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns; the first row is the header, the first two columns are words."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    header, *body = [["" if cell is None else cell.replace("|", r"\|") for cell in r] for r in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body))
