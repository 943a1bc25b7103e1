"""What an ablation found: ``results.json``, tables in Markdown, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spleeter_2.files import atomic_file, write_json, write_text

from . import plots as pictures
from .compare import compare
from .excerpts import choose_excerpts
from .results import METRICS, Run
from .scores import FRAMEWISE
from .tables import UNITS, markdown, median, total_over_mixture, values

if TYPE_CHECKING:
    from .ablation_plan import Plan, Variant

OVER = "over, all bins"


def write_results(plan: Plan, runs: Mapping[Variant, Run], facts: Mapping[str, Any]) -> Path:
    """Write tables and pictures into the ablation's folder.

    Args:
        runs: of the evaluation, complete, for every training.
        facts: command, versions and hardware, to be noted with the results.

    Returns:
        The Markdown file.
    """
    folder = next(iter(runs)).folder
    results = {
        **facts,
        "description": plan.description,
        "tracks": [name for _, name in next(iter(runs.values())).tracks],
        "runs": {
            name: {
                "changes": changes,
                "seeds": {v.seed: _outcome(v, run) for v, run in runs.items() if v.run == name},
            }
            for name, changes in plan.runs.items()
        },
    }
    write_json(folder / "results.json", results)
    curves = {
        name: [outcome["history"] for outcome in found["seeds"].values()]
        for name, found in results["runs"].items()
    }
    _write_picture(folder / "val_loss.png", pictures.histories(curves))
    drawn = _write_panels(plan, runs, folder)
    page = folder / "ablation.md"
    write_text(page, as_markdown(results, drawn))
    return page


def _outcome(variant: Variant, run: Run) -> dict[str, Any]:
    """One training: its history, and its scores as medians over tracks."""
    training = json.loads((variant.training / "run.json").read_text("utf-8"))
    scores = run.scores()
    found = {}
    for source in run.sources:
        found[source] = {metric: median(values(scores, source, metric)) for metric in METRICS}
        found[source][OVER] = 100 * total_over_mixture(scores, source).share
    return {
        "val_loss": training["best"],
        "steps": training["step"],
        "history": training["history"],
        "scores": found,
    }


def as_markdown(results: Mapping[str, Any], pictures_drawn: Sequence[str]) -> str:
    """The tables: every run, then what the first one gains over each of the others."""
    runs = results["runs"]
    sources = list(next(iter(next(iter(runs.values()))["seeds"].values()))["scores"])
    nb_seeds = len(next(iter(runs.values()))["seeds"])
    first, *others = runs
    parts = [
        "# Ablation",
        results["description"],
        f"Scored on {', '.join(results['tracks'])}. Medians over frames, then over tracks; mean "
        f"and, in brackets, standard deviation over {nb_seeds} seed(s). val_loss is each run's "
        "own loss: compare it among runs with the same loss only.",
        markdown(_table(runs, sources)),
        f"## What {first} gains",
        f"{first} minus another run, seed by seed. A difference within twice its standard "
        "deviation is no finding.",
        markdown(_gains(runs, first, others, sources)),
        *(f"![{name}]({name})" for name in ("val_loss.png", *pictures_drawn)),
        f"```\n{results['command']}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _columns(sources: Sequence[str]) -> list[tuple[str, str]]:
    return [(source, metric) for source in sources for metric in (*FRAMEWISE, OVER)]


def _header(sources: Sequence[str]) -> list[str]:
    return [f"{source} {metric} ({UNITS.get(metric, '%')})" for source, metric in _columns(sources)]


def _table(runs: Mapping[str, Any], sources: Sequence[str]) -> list[list[str]]:
    rows = [["run", *_header(sources), "val_loss"]]
    for name, found in runs.items():
        cells = [_over_seeds(found, source, metric) for source, metric in _columns(sources)]
        losses = [outcome["val_loss"] for outcome in found["seeds"].values()]
        rows.append([name, *(_spread(cell, "{:.2f}") for cell in cells), _spread(losses, "{:.4f}")])
    return rows


def _gains(
    runs: Mapping[str, Any], first: str, others: Sequence[str], sources: Sequence[str]
) -> list[list[str]]:
    rows = [["over", *_header(sources)]]
    for name in others:
        differences = [
            np.subtract(
                _over_seeds(runs[first], source, metric), _over_seeds(runs[name], source, metric)
            )
            for source, metric in _columns(sources)
        ]
        rows.append([name, *(_spread(cell, "{:+.2f}") for cell in differences)])
    return rows


def _over_seeds(found: Mapping[str, Any], source: str, metric: str) -> list[float]:
    return [outcome["scores"][source][metric] for outcome in found["seeds"].values()]


def _spread(numbers: Sequence[float], form: str) -> str:
    """Mean over seeds; with several, their standard deviation in brackets."""
    told = form.format(np.mean(numbers))
    if len(numbers) == 1:
        return told
    return f"{told} ({form.replace('+', '').format(np.std(numbers, ddof=1))})"


def _write_panels(plan: Plan, runs: Mapping[Variant, Run], folder: Path) -> list[str]:
    """Spectrograms of the plan's panels, of the first seed; names of the files."""
    seed = plan.seeds[0]
    by_name = {variant.run: run for variant, run in runs.items() if variant.seed == seed}
    if not plan.panels:
        return []
    comparison = compare([by_name[name] for name in plan.panels])
    (excerpt,), _ = choose_excerpts(comparison, 1)
    song = excerpt.song
    written = []
    for source in comparison.sources:
        panels = [("mixture", song.mixture), (f"{source}: reference", song.references[source])]
        for name, label in zip(plan.panels, comparison.labels, strict=True):
            panels.append((f"{source}: {name}", excerpt.estimates[label][source]))
        file = f"spectrograms-{source}.png"
        image = pictures.spectrograms(panels, song.mixture, song.sample_rate)
        _write_picture(folder / file, image)
        written.append(file)
    return written


def _write_picture(path: Path, image: bytes) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(image)
