"""Plots of the reports, as PNG files in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from spleeter_2.audio.stft import Transform

from .compare import Comparison
from .over_mixture import BANDS, FLOOR, LEVELS, TOLERANCE, OverMixture, levels_of
from .results import METRICS
from .tables import UNITS

RED = "#e3000f"
COLOURS = ("#4269d0", "#efb118", "#3ca951", "#ff725c", "#a463f2", "#9c6b4e", "#6cc5b0")
QUIETEST = -90.0  # dB, the dark end of a spectrogram
DOTS = 110  # per inch
COLUMNS = 4  # of plots


def box_plots(comparison: Comparison) -> bytes:
    """One plot per source and metric, with one box per run and one dot per track."""
    labels, sources = comparison.labels, comparison.sources
    nb_rows = len(sources) * -(-len(METRICS) // COLUMNS)
    figure = Figure(figsize=(2.7 * COLUMNS, 2.7 * nb_rows), layout="constrained")
    axes = figure.subplots(nb_rows, COLUMNS, squeeze=False)
    axes = axes.reshape(len(sources), -1)  # each source starts a new row of plots
    for plot in axes[:, len(METRICS) :].flat:
        plot.set_axis_off()
    generator = np.random.default_rng(0)
    for row, source in zip(axes, sources, strict=True):
        for plot, metric in zip(row, METRICS, strict=False):
            columns = [numbers[source, metric].dropna() for numbers in comparison.numbers]
            boxes = plot.boxplot(
                columns, showfliers=False, widths=0.6, patch_artist=True, medianprops={"color": "k"}
            )
            for index, (box, column) in enumerate(zip(boxes["boxes"], columns, strict=True)):
                colour = COLOURS[index % len(COLOURS)]
                box.set(facecolor=colour, alpha=0.45)
                place = index + 1 + generator.uniform(-0.15, 0.15, len(column))
                plot.plot(place, column, ".", color=colour, markersize=4)
            plot.set_title(f"{source}: {metric}", fontsize=9)
            plot.set_ylabel(UNITS[metric], fontsize=8)
            plot.set_xticks(range(1, len(labels) + 1), labels, rotation=45, ha="right", fontsize=7)
            plot.tick_params(axis="y", labelsize=7)
            plot.grid(axis="y", alpha=0.3)
    return _png(figure)


def scatter(comparison: Comparison, index: int, metric: str = "SDR") -> bytes:
    """One plot per source with one dot per track: run ``index`` over the first run.

    Above the diagonal run ``index`` has the higher score.
    """
    sources = comparison.sources
    figure = Figure(figsize=(3.6 * len(sources), 3.6), layout="constrained")
    for plot, source in zip(
        figure.subplots(1, len(sources), squeeze=False)[0], sources, strict=True
    ):
        pair = [comparison.numbers[run][source, metric] for run in (0, index)]
        finite = np.concatenate([column.dropna() for column in pair])
        if len(finite):
            margin = 0.05 * np.ptp(finite) + 0.1
            ends = [finite.min() - margin, finite.max() + margin]
            plot.plot(ends, ends, color="grey", linewidth=0.8)
            plot.set(xlim=ends, ylim=ends)
        plot.plot(*pair, "o", color=COLOURS[0], alpha=0.7, markersize=5)
        plot.set_xlabel(f"{comparison.labels[0]} ({UNITS[metric]})", fontsize=8)
        plot.set_ylabel(f"{comparison.labels[index]} ({UNITS[metric]})", fontsize=8)
        plot.set_title(f"{source}: {metric}, one dot per track", fontsize=9)
        plot.set_aspect("equal")
        plot.grid(alpha=0.3)
        plot.tick_params(labelsize=7)
    return _png(figure)


def over_mixture_maps(
    labels: Sequence[str], sources: Sequence[str], totals: Sequence[Sequence[OverMixture]]
) -> bytes:
    """Map the share of bins over the mixture in %, by frequency band and the mixture's level.

    Args:
        labels: of the runs.
        totals: counts by run and source.
    """
    shares = [[_share(total) for total in row] for row in totals]
    highest = max((np.nanmax(s, initial=0.0) for row in shares for s in row), default=0.0)
    size = (3.4 * len(sources) + 0.8, 2.8 * len(labels))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(labels), len(sources), squeeze=False)
    for row, label, maps in zip(axes, labels, shares, strict=True):
        for plot, source, share in zip(row, sources, maps, strict=True):
            image = plot.imshow(
                share.T, origin="lower", aspect="auto", cmap="Reds", vmin=0, vmax=highest or 1
            )
            for band, level in np.argwhere(share >= 0.5):
                number = share[band, level]
                colour = "white" if number > highest / 2 else "black"
                place = {"ha": "center", "va": "center", "color": colour}
                plot.text(band, level, f"{number:.0f}", fontsize=6, **place)
            plot.set_title(f"{label}: {source}", fontsize=9)
            edges = [f"{band / 1000:g}" for band in BANDS]
            plot.set_xticks(range(len(BANDS)), edges, fontsize=7)
            levels = ["below", *(f"{level:g}" for level in LEVELS[1:])]
            plot.set_yticks(range(len(LEVELS)), levels, fontsize=7)
            plot.set_xlabel("band, from (kHz)", fontsize=8)
            plot.set_ylabel("mixture, from (dB)", fontsize=8)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, aspect=40)
    bar.set_label("bins over the mixture (%)", fontsize=8)
    return _png(figure)


def excesses(
    labels: Sequence[str], sources: Sequence[str], totals: Sequence[Sequence[OverMixture]]
) -> bytes:
    """Plot the mean excess in dB of the bins over the mixture, by frequency band."""
    figure = Figure(figsize=(4.2 * len(sources), 3), layout="constrained")
    plots = figure.subplots(1, len(sources), squeeze=False)[0]
    places = np.arange(len(BANDS))
    width = 0.8 / len(labels)
    for column, (plot, source) in enumerate(zip(plots, sources, strict=True)):
        for index, label in enumerate(labels):
            total = totals[index][column]
            count = total.over.sum(axis=1)
            mean = np.divide(
                total.excess.sum(axis=1), count, out=np.zeros(len(BANDS)), where=count > 0
            )
            plot.bar(
                places + (index + 0.5) * width - 0.4,
                mean,
                width,
                label=label,
                color=COLOURS[index % len(COLOURS)],
            )
        plot.set_title(f"{source}: mean excess over the mixture", fontsize=9)
        plot.set_xticks(places, [f"{band / 1000:g}" for band in BANDS], fontsize=7)
        plot.set_xlabel("band, from (kHz)", fontsize=8)
        plot.set_ylabel("dB", fontsize=8)
        plot.tick_params(axis="y", labelsize=7)
        plot.grid(axis="y", alpha=0.3)
    plots[-1].legend(fontsize=7)
    return _png(figure)


def spectrograms(
    panels: Sequence[tuple[str, np.ndarray]], mixture: np.ndarray, sample_rate: int
) -> bytes:
    """Spectrograms, three in a row; bins over the mixture are red.

    Args:
        panels: title and waveform ``[S, C]`` of each; the louder channel of a bin is shown.
        mixture: ``[S, C]``.
        sample_rate: in Hz.
    """
    transform = Transform()
    limit = levels_of(transform, mixture)  # [T, F, C]
    audible = np.maximum(limit, QUIETEST)  # no interpolation between infinite levels of silence
    loudest = max(np.percentile(audible, 99.5), QUIETEST + 30)  # quiet songs are as bright
    nb_columns = min(3, len(panels))
    nb_rows = -(-len(panels) // nb_columns)
    figure = Figure(figsize=(3.6 * nb_columns + 0.6, 2.9 * nb_rows), layout="constrained")
    plots = figure.subplots(nb_rows, nb_columns, squeeze=False, sharey=True)
    for plot in plots.flat[len(panels) :]:
        plot.set_axis_off()
    extent = (0, len(mixture) / sample_rate, 0, sample_rate / 2000)
    for plot, (title, waveform) in zip(plots.flat, panels, strict=False):
        level = levels_of(transform, waveform)
        over = ((level > limit + TOLERANCE) & (level > FLOOR)).any(axis=2)
        over &= level.max(axis=2) > QUIETEST  # darker bins are inaudible
        options = {"origin": "lower", "aspect": "auto", "extent": extent}
        shades = {"cmap": "magma", "vmin": QUIETEST, "vmax": loudest}
        image = plot.imshow(level.max(axis=2).T, **shades, **options)
        plot.imshow(np.where(over, 1.0, np.nan).T, cmap=ListedColormap([RED]), alpha=0.9, **options)
        plot.set_title(title, fontsize=9)
        plot.set_xlabel("s", fontsize=8)
        plot.tick_params(labelsize=7)
    for plot in plots[:, 0]:
        plot.set_ylabel("kHz", fontsize=8)
    bar = figure.colorbar(image, ax=plots)
    bar.set_label("dB", fontsize=8)
    return _png(figure)


def histories(curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> bytes:
    """Plot validation loss and SDR over the epochs.

    One line per run is the mean over its seeds, the band around it their range.

    Args:
        curves: history of the training by run, seed and epoch.
    """
    epochs = [epoch for seeds in curves.values() for seed in seeds for epoch in seed]
    names = ["val_loss", *sorted({n for e in epochs for n in e if n.startswith("val_sdr_")})]
    figure = Figure(figsize=(4.6 * len(names), 4.2), layout="constrained")
    for plot, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for index, (label, seeds) in enumerate(curves.items()):
            length = min(map(len, seeds))
            numbers = np.array([[epoch.get(name, np.nan) for epoch in s[:length]] for s in seeds])
            places = np.arange(1, length + 1)
            colour, dash = COLOURS[index % len(COLOURS)], ("-", "--")[index // len(COLOURS) % 2]
            plot.plot(places, numbers.mean(axis=0), dash, color=colour, label=label)
            plot.fill_between(
                places, numbers.min(axis=0), numbers.max(axis=0), color=colour, alpha=0.12
            )
        if name == "val_loss":
            plot.set_yscale("log")
        source = name.removeprefix("val_sdr_")
        is_loss = source == name
        plot.set_title(name if is_loss else f"{source}: SDR of the validation songs (dB)")
        plot.set_xlabel("epoch")
        plot.grid(alpha=0.3, which="both")
    plot.legend(fontsize=8)
    return _png(figure)


def _share(total: OverMixture) -> np.ndarray:
    """Per cent ``[bands, levels]``, NaN for cells without bins."""
    share = np.full(total.bins.shape, np.nan)
    return 100 * np.divide(total.over, total.bins, out=share, where=total.bins > 0)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS)
    return buffer.getvalue()
