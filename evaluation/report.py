"""One self-contained HTML page, and Markdown, about runs: tables, pictures, players.

Pictures and sounds are data URIs, and the page's own security policy forbids every request.
"""

from __future__ import annotations

import base64
import html
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from spleeter_2.audio.codecs import Encoding
from spleeter_2.errors import SeparationError
from spleeter_2.files import write_text

from . import plots as pictures
from .compare import Comparison, compare, difference_rows, remarks, side_by_side
from .excerpts import Excerpt, choose_excerpts
from .results import Run
from .tables import MEANINGS, markdown, total_over_mixture
from .tables import remarks as run_remarks
from .tracks import TrackAudio

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
h1 { font-size: 1.6rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #eee }
th { background: #f5f5f5 } td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left }
.differences td:last-child, .differences th:last-child { text-align: left }
.players { width: 100% } .players td, .players th { text-align: left; padding: .2rem .3rem }
.higher, .lower { font-weight: 600 } .source td { border-top: 2px solid #bbb }
.wide { overflow-x: auto } img { max-width: 100%; height: auto }
audio { width: 100%; min-width: 9rem; height: 2rem; display: block }
code, pre { background: #f5f5f5 } pre { padding: .6rem; overflow-x: auto } .note { color: #555 }
"""
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def write_report(runs: Sequence[Run], path: Path, nb_excerpts: int = 2) -> list[Path]:
    """Write ``path`` (HTML) and, beside it, the tables as Markdown.

    Args:
        runs: of one set-up on the same tracks; the first is what the others are compared with.
        nb_excerpts: tracks to look at and listen to, as far as the runs have kept audio.

    Raises:
        SeparationError: runs that cannot be compared; a folder that cannot be written to.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise SeparationError(f"the report is a page: name it {path.with_suffix('.html').name}")
    comparison = compare(runs)
    chosen, missing = choose_excerpts(comparison, nb_excerpts)
    write_text(path, page(comparison, chosen, missing))
    plain = path.with_suffix(".md")
    write_text(plain, as_markdown(comparison))
    return [path, plain]


def page(comparison: Comparison, excerpts: Sequence[Excerpt], missing: str) -> str:
    """The HTML page; ``missing`` says why there is less to hear than one might expect."""
    title = "Evaluation: " + ", ".join(comparison.labels)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        *(_paragraph(sentence) for sentence in remarks(comparison)),
        "<h2>Scores</h2>",
        _table(side_by_side(comparison)),
        *(_paragraph(f"{name}: {meaning}", "note") for name, meaning in MEANINGS.items()),
        *_differences(comparison),
        "<h2>Distributions</h2>",
        _picture(
            pictures.box_plots(comparison.labels, comparison.scores, comparison.sources),
            "Box plots of every metric: quartiles, median, tracks as dots",
        ),
        *_scatters(comparison),
        *_over_mixture(comparison),
        *_listening(comparison, excerpts, missing),
        *_provenance(comparison),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def as_markdown(comparison: Comparison) -> str:
    """The tables and what was run."""
    parts = ["# Evaluation", *remarks(comparison), markdown(side_by_side(comparison))]
    for index, label in enumerate(comparison.labels[1:], 1):
        parts += [f"## {label} against {comparison.labels[0]}"]
        parts += [markdown(difference_rows(comparison, index))]
    for run, label, scores in zip(
        comparison.runs, comparison.labels, comparison.scores, strict=True
    ):
        parts += [f"## {label}", *(f"- {sentence}" for sentence in run_remarks(run, scores))]
        parts += [markdown([["", ""], *_facts(run)])]
    return "\n\n".join(parts) + "\n"


def _differences(comparison: Comparison) -> Iterator[str]:
    for index, label in enumerate(comparison.labels[1:], 1):
        yield f"<h2>{html.escape(label)} against {html.escape(comparison.labels[0])}</h2>"
        yield _table(difference_rows(comparison, index), "differences")


def _scatters(comparison: Comparison) -> Iterator[str]:
    labels = comparison.labels
    for index in range(1, len(labels)):
        names = (labels[0], labels[index])
        first, second = comparison.scores[0], comparison.scores[index]
        image = pictures.scatter(names, first, second, comparison.sources, "SDR")
        yield _picture(image, f"SDR per track of {names[1]} over {names[0]}")


def _over_mixture(comparison: Comparison) -> Iterator[str]:
    labels, sources = comparison.labels, comparison.sources
    totals = [
        [total_over_mixture(scores, source) for source in sources] for scores in comparison.scores
    ]
    yield "<h2>Energy over the mixture</h2>"
    for run, label, scores in zip(comparison.runs, labels, comparison.scores, strict=True):
        for sentence in run_remarks(run, scores)[1:]:
            yield _paragraph(f"{label}, {sentence}")
    yield _picture(
        pictures.over_mixture_maps(labels, sources, totals),
        "Share of bins over the mixture by frequency band and level of the mixture",
    )
    yield _picture(pictures.excesses(labels, sources, totals), "Mean excess in dB by band")


def _listening(comparison: Comparison, excerpts: Sequence[Excerpt], missing: str) -> Iterator[str]:
    yield "<h2>Excerpts</h2>"
    if missing:
        yield _paragraph(missing, "note")
    for excerpt in excerpts:
        yield f"<h3>{html.escape(excerpt.track)}, from {excerpt.start:.0f} s</h3>"
        song = excerpt.song
        rows = [["", "mixture", *comparison.sources], ["the song", _player(song, song.mixture)]]
        rows[1] += [_player(song, song.references[source]) for source in comparison.sources]
        for label, estimates in excerpt.estimates.items():
            players = [_player(song, estimates[source]) for source in comparison.sources]
            rows.append([html.escape(label), "", *players])
        yield _table(rows, "players", escape=False)
        for source in comparison.sources:
            panels = [("mixture", song.mixture), (f"{source}: reference", song.references[source])]
            panels += [
                (f"{source}: {label}", estimates[source])
                for label, estimates in excerpt.estimates.items()
            ]
            yield _picture(
                pictures.spectrograms(panels, song.mixture, song.sample_rate),
                f"Spectrograms of {source} in {excerpt.track}; bins over the mixture are red",
            )


def _provenance(comparison: Comparison) -> Iterator[str]:
    yield "<h2>What was run</h2>"
    for run, label, scores in zip(
        comparison.runs, comparison.labels, comparison.scores, strict=True
    ):
        yield f"<h3>{html.escape(label)}</h3>"
        yield _table([["", ""], *_facts(run)])
        if configuration := run.information["configuration"]:
            told = html.escape(json.dumps(configuration, indent=2, ensure_ascii=False))
            yield f"<details><summary>its configuration</summary><pre>{told}</pre></details>"
        times = {key: sum(track.seconds[key] for track in scores) for key in scores[0].seconds}
        yield _paragraph(", ".join(f"{key}: {value:.0f} s" for key, value in times.items()))
    yield "<p>This report again:</p>"
    folders = [str(run.folder) for run in comparison.runs]
    words = ["python", "-m", "evaluation", "report", *folders]
    yield f"<pre>{html.escape(shlex.join(words))}</pre>"


def _facts(run: Run) -> list[list[str]]:
    """What was run, with what, as rows of a table."""
    facts = {k: v for k, v in run.information["identity"].items() if k != "configuration"}
    facts["sources"] = ", ".join(facts["sources"])
    for key in ("subset", "started", "command"):
        facts[key] = run.information[key]
    for key in ("versions", "hardware"):
        pairs = run.information[key].items()
        facts[key] = ", ".join(f"{name} {value}" for name, value in pairs)
    return [[key, str(value)] for key, value in facts.items() if value is not None]


def _player(song: TrackAudio, waveform: np.ndarray) -> str:
    """An audio element that holds the waveform ``[S, C]`` as MP3."""
    rate = Encoding("mp3").nearest_rate(song.sample_rate)
    if rate != song.sample_rate:
        waveform = soxr.resample(waveform, song.sample_rate, rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1, 1), rate, format="MP3")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<audio controls preload="metadata" src="data:audio/mpeg;base64,{data}"></audio>'


def _picture(image: bytes, description: str) -> str:
    data = base64.b64encode(image).decode()
    return f'<p><img alt="{html.escape(description)}" src="data:image/png;base64,{data}"></p>'


def _paragraph(sentence: str, kind: str = "") -> str:
    return (
        f'<p class="{kind}">{html.escape(sentence)}</p>'
        if kind
        else (f"<p>{html.escape(sentence)}</p>")
    )


def _table(rows: Sequence[Sequence[str]], kind: str = "", escape: bool = True) -> str:
    """An HTML table; the first row is the header. A new source gets a line above it."""
    told = html.escape if escape else str
    header, *body = rows
    lines = ["<tr>" + "".join(f"<th>{told(cell)}</th>" for cell in header) + "</tr>"]
    before = None
    for row in body:
        cells = "".join(
            f'<td class="{cell}">{told(cell)}</td>'
            if cell in ("higher", "lower")
            else f"<td>{told(cell)}</td>"
            for cell in row
        )
        first = ' class="source"' if len(row) > 2 and before not in (None, row[0]) else ""
        lines.append(f"<tr{first}>{cells}</tr>")
        before = row[0]
    return f'<div class="wide"><table class="{kind}">{"".join(lines)}</table></div>'
