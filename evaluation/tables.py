"""Statistics over tracks, and the tables of reports and terminal.

A table is a DataFrame: strings are printed as they are, floats with three decimals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add

import numpy as np
import pandas as pd

from .over_mixture import OverMixture
from .results import METRICS, Run, TrackScores
from .scores import FRAMEWISE

OVERALL = "over, all bins"  # "over" of all tracks as one
UNITS = {metric: "%" if metric.startswith("over") else "dB" for metric in (*METRICS, OVERALL)}
MEANINGS = {
    "track SDR": "SDR of the whole track, as in the MDX challenge",
    "SI-SDR": "scale-invariant SDR of the whole track",
    "over": "share of time-frequency bins in which the estimate exceeds the mixture",
}


def formatted(value: float, form: str) -> str:
    """A number as text; a dash for NaN."""
    return "-" if np.isnan(value) else format(value, form)


def numbers(scores: Sequence[TrackScores]) -> pd.DataFrame:
    """Metrics of a run: one row per track, one column per source and metric.

    NaN where a metric is not defined.
    """
    columns = pd.MultiIndex.from_product([scores[0].sources, METRICS], names=["source", "metric"])
    rows = [[track.metric(*column) for column in columns] for track in scores]
    return pd.DataFrame(rows, [track.name for track in scores], columns)


def medians(scores: Sequence[TrackScores]) -> pd.Series:
    """Medians over tracks by source and metric, and the share over the mixture of all bins."""
    found = numbers(scores).median()
    sources = found.index.unique("source")
    for source in sources:
        found[source, OVERALL] = 100 * total_over_mixture(scores, source).share
    order = pd.MultiIndex.from_product([sources, UNITS], names=found.index.names)
    return found.reindex(order)


def total_over_mixture(scores: Sequence[TrackScores], source: str) -> OverMixture:
    """Counts of the bins of all tracks."""
    return reduce(add, (track.sources[source].over_mixture for track in scores))


def describe_sources(run: Run) -> str:
    """Number and names of the sources; scores of two are not comparable with scores of four."""
    return f"{len(run.sources)} sources ({', '.join(run.sources)})"


def describe_scorer(run: Run) -> str:
    """Name of the implementation that computed the framewise metrics."""
    return f"BSSEval v4 by {run.information.scorer}"


def museval_summary(run: Run, scores: Sequence[TrackScores]) -> str:
    """Medians over frames, then over tracks, in the form that museval prints."""
    found = medians(scores)
    lines = [
        f"{run.name}: {describe_sources(run)}, {len(scores)} track(s) of {run.information.subset}"
    ]
    for source in run.sources:
        cells = (f"{metric}:{formatted(found[source, metric], '.3f'):>8}" for metric in FRAMEWISE)
        lines.append(source.ljust(16) + "==> " + "  ".join(cells))
    return "\n".join(lines)


def details(run: Run, scores: Sequence[TrackScores]) -> str:
    """Median, mean and quartiles of every metric, with the scorer and remarks."""
    table = numbers(scores)
    spread = {
        "median": table.median(),
        "mean": table.mean(),
        "quartile 1": table.quantile(0.25),
        "quartile 3": table.quantile(0.75),
        "tracks": table.count(),
    }
    scorer = f"SDR, SIR, ISR, SAR: {describe_scorer(run)}"
    return "\n".join([as_text(with_units(pd.DataFrame(spread))), scorer, *remarks(run, scores)])


def remarks(run: Run, scores: Sequence[TrackScores]) -> list[str]:
    """Sentences about frames and tracks without scores and about bins over the mixture."""
    silent, frames = map(sum, zip(*(track.nb_frames for track in scores), strict=True))
    sentences = [f"{silent} of {frames} frames have no SDR, SIR, ISR, SAR (silence)"]
    for source in run.sources:
        if lacking := sum(np.isnan(track.metric(source, "track SDR")) for track in scores):
            sentences.append(
                f"{source}: {lacking} of {len(scores)} tracks have no track SDR and SI-SDR "
                "(it is silent, or estimated without audible error)"
            )
        total = total_over_mixture(scores, source)
        if not total.bins.sum():
            sentences.append(f"{source}: mixture and estimate have no audible bins")
            continue
        excess = f", by {total.mean_excess:.1f} dB on average" if total.over.sum() else ""
        sentences.append(
            f"{source}: {100 * total.share:.2f} % of all bins exceed the mixture{excess}"
        )
    return sentences


def with_units(table: pd.DataFrame) -> pd.DataFrame:
    """Turn the index of source and metric into columns, with a third one of units."""
    table = table.reset_index()
    table.insert(2, "", table["metric"].map(UNITS))
    return table


def cells(table: pd.DataFrame) -> Iterator[list[str]]:
    """Rows of a table as strings, without the header; NaN is a dash."""
    for row in table.astype(object).itertuples(index=False, name=None):
        yield [_cell(value) for value in row]


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return formatted(value, ".3f")


def as_text(table: pd.DataFrame) -> str:
    """Aligned columns for a terminal: the first two, which hold words, to the left."""
    rows = [list(table.columns), *cells(table)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    form = "  ".join(f"{{:{'<' if i < 2 else '>'}{width}}}" for i, width in enumerate(widths))
    return "\n".join(form.format(*row).rstrip() for row in rows)


def as_markdown(table: pd.DataFrame) -> str:
    """A Markdown table."""
    rows = [list(table.columns), ["---"] * len(table.columns), *cells(table)]
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)
