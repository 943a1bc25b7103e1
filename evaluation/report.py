"""The report about runs: one self-contained HTML page, and its tables as Markdown."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import numpy as np
import pandas as pd
import soundfile
import soxr
from markupsafe import Markup

from spleeter_2.audio.codecs import Encoding
from spleeter_2.errors import SeparationError
from spleeter_2.files import write_text
from spleeter_2.web import STATIC

from . import plots, tables
from .compare import Comparison, compare, difference_table, remarks, side_by_side
from .excerpts import Excerpt, choose_excerpts
from .results import Run, TrackScores

TEMPLATE = "report.html.jinja"
STYLE = STATIC / "player.css"
SCRIPTS = (STATIC / "player.js", Path(__file__).with_name("report.js"))


def write_report(runs: Sequence[Run], path: Path, nb_excerpts: int = 2) -> list[Path]:
    """Write ``path`` (HTML) and, beside it, the tables as Markdown.

    Args:
        runs: of the same sources and tracks; the first is the reference.
        nb_excerpts: tracks with spectrograms and players, if the runs kept their estimates.

    Returns:
        The two files.

    Raises:
        SeparationError: the runs cannot be compared, or a file cannot be written.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise SeparationError(f"the report is a page: name it {path.with_suffix('.html').name}")
    comparison = compare(runs)
    write_text(path, as_page(comparison, *choose_excerpts(comparison, nb_excerpts)))
    plain = path.with_suffix(".md")
    write_text(plain, as_markdown(comparison))
    return [path, plain]


def as_page(comparison: Comparison, excerpts: Sequence[Excerpt], missing: str) -> str:
    """The HTML page.

    Args:
        missing: sentence about excerpts that cannot be shown, or "".
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cells": tables.cells, "png": _png_uri}
    script = "\n".join(path.read_text("utf-8") for path in SCRIPTS)
    labels, sources = comparison.labels, comparison.sources
    totals = [
        [tables.total_over_mixture(scores, source) for source in sources]
        for scores in comparison.scores
    ]
    folders = [str(run.folder) for run in comparison.runs]
    return environment.get_template(TEMPLATE).render(
        title="Evaluation: " + ", ".join(labels),
        remarks=remarks(comparison),
        scores=side_by_side(comparison),
        meanings=tables.MEANINGS,
        differences=dict(_differences(comparison)),
        boxes=plots.box_plots(comparison),
        scatters={
            f"SDR per track of {labels[index]} over {labels[0]}": plots.scatter(comparison, index)
            for index in range(1, len(labels))
        },
        maps=plots.over_mixture_maps(labels, sources, totals),
        excesses=plots.excesses(labels, sources, totals),
        excerpts=[(excerpt, _spectrograms(excerpt)) for excerpt in excerpts],
        sounds=_sounds,
        player_style=Markup(STYLE.read_text("utf-8")),
        script=Markup(script),
        script_hash=Markup(f"sha256-{_base64(hashlib.sha256(script.encode()).digest())}"),
        missing=missing,
        runs=list(_descriptions(comparison)),
        command=shlex.join(["python", "-m", "evaluation", "report", *folders]),
    )


def as_markdown(comparison: Comparison) -> str:
    """The tables, and a description of the runs."""
    parts = ["# Evaluation", *remarks(comparison)]
    parts += [tables.as_markdown(side_by_side(comparison))]
    for heading, table in _differences(comparison):
        parts += [f"## {heading}", tables.as_markdown(table)]
    for run in _descriptions(comparison):
        parts += [f"## {run['label']}", *(f"- {sentence}" for sentence in run["remarks"])]
        parts += [tables.as_markdown(run["facts"])]
    return "\n\n".join(parts) + "\n"


def _differences(comparison: Comparison) -> Iterator[tuple[str, pd.DataFrame]]:
    """Heading and table of every run but the first."""
    for index, label in enumerate(comparison.labels[1:], 1):
        yield f"{label} against {comparison.labels[0]}", difference_table(comparison, index)


def _descriptions(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Label, remarks, facts, configuration and computing times of every run."""
    for run, label, scores in zip(
        comparison.runs, comparison.labels, comparison.scores, strict=True
    ):
        configuration = run.information.configuration
        yield {
            "label": label,
            "remarks": tables.remarks(run, scores),
            "facts": _facts(run),
            "configuration": configuration
            and json.dumps(configuration, indent=2, ensure_ascii=False),
            "times": _times(scores),
        }


def _facts(run: Run) -> pd.DataFrame:
    """Table of what was run, and with what."""
    information = run.information
    facts = msgspec.to_builtins(information.identity)
    facts.pop("configuration")
    facts["sources"] = ", ".join(information.identity.sources)
    for key in ("subset", "scorer", "started", "command"):
        facts[key] = getattr(information, key)
    for key in ("versions", "hardware"):
        pairs = getattr(information, key).items()
        facts[key] = ", ".join(f"{name} {value}" for name, value in pairs)
    rows = [[key, str(value)] for key, value in facts.items() if value is not None]
    return pd.DataFrame(rows, columns=["", ""])


def _times(scores: Sequence[TrackScores]) -> str:
    times = {key: sum(track.seconds[key] for track in scores) for key in scores[0].seconds}
    return ", ".join(f"{key}: {value:.0f} s" for key, value in times.items())


def _spectrograms(excerpt: Excerpt) -> dict[str, bytes]:
    """PNG file of every source."""
    song = excerpt.song
    return {
        source: plots.spectrograms(excerpt.panels(source), song.mixture, song.sample_rate)
        for source in song.references
    }


def _sounds(excerpt: Excerpt) -> Markup:
    """JSON of the sounds of an excerpt: names, and MP3 files in Base64."""
    song = excerpt.song
    sounds = [("mixture", song.mixture)]
    for source, reference in song.references.items():
        sounds.append((f"{source}: the song's", reference))
        for label, estimates in excerpt.estimates.items():
            sounds.append((f"{source}: {label}", estimates[source]))
    rate = Encoding("mp3").nearest_rate(song.sample_rate)
    pairs = [(name, _mp3(waveform, song.sample_rate, rate)) for name, waveform in sounds]
    # a label may hold "</script>"
    return Markup(json.dumps({"rate": rate, "sounds": pairs}).replace("<", "\\u003c"))


def _png_uri(image: bytes) -> str:
    return f"data:image/png;base64,{_base64(image)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _mp3(waveform: np.ndarray, sample_rate: int, rate: int) -> str:
    """Encode a waveform ``[S, C]`` as MP3 of another sample rate, in Base64."""
    if rate != sample_rate:
        waveform = soxr.resample(waveform, sample_rate, rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1, 1), rate, format="MP3")
    return _base64(buffer.getvalue())
